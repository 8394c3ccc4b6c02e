"""What every tab shares: what it is given, when it shows anew, and how often pages may ask.

Drawing a card takes some 80 MB and a report a second of one core, so many at once would take the
machine from everybody else.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context, get_render_context

from ftlab.basics.errors import FtlabError
from ftlab.basics.recent import Recent
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.models.hub import HubReach
from ftlab.models.resolve import ModelReach
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.held_out import HeldOut
from ftlab.prediction.client import Predictor
from ftlab.records.store import RunStore
from ftlab.tabs.gate import Rate, visitor_of, when
from ftlab.tabs.widgets import escape


@dataclass(frozen=True)
class AppContext:
    """Shared by all visitors of one app; holds no visitor's state."""

    runs_folder: Path
    store: RunStore
    playground: PlaygroundClient
    held_out: HeldOut = field(default_factory=HeldOut)
    predictor: Predictor = field(default_factory=Predictor)
    access: Access = EVERYTHING
    hub: HubReach = field(default_factory=HubReach)
    models: ModelReach = field(default_factory=ModelReach)


_SPACE_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def banner_html(space: str) -> str:
    """What can be done here and what cannot, and how to duplicate the Space of that id."""
    duplicate = "duplicate this Space"
    if _SPACE_ID.fullmatch(space):
        address = f"https://huggingface.co/spaces/{space}?duplicate=true"
        duplicate = f'<a href="{escape(address)}" target="_blank" rel="noopener">{duplicate}</a>'
    return (
        '<p class="meta" role="note"><b>Public demo.</b> Look at the recorded sweeps in Results '
        "and Compare, ask the adapters that ship in the Playground, see what fits your card in "
        "Plan, and how the methods work in Learn. Nothing is trained, uploaded or kept here: to "
        f"run it on your own data, {duplicate} and set its secret <code>FTLAB_AUTH</code> to "
        "<code>user:password</code>.</p>"
    )


QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "concurrency_limit": None,
    "api_visibility": "private",
}
"""For events of the page itself: no veil over what is updated, no queue, no name in the API."""

DOWNLOAD = """(file) => {
  if (!file) return;
  const link = document.createElement('a');
  link.href = file.url;
  link.download = file.orig_name;
  document.body.append(link);
  link.click();
  link.remove();
}"""
"""Takes the file as the page's download buttons hold it, if there is one. Such a button itself
gives what it held before it was pressed."""


@dataclass(frozen=True)
class Action:
    """A handler with what it reads and writes, to be hung on several events."""

    handler: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]

    def after(self, event: Any) -> Any:
        """Runs it once the event's own handler has ended."""
        return event.then(self.handler, self.inputs, self.outputs, **QUIET)


def opened() -> Any:
    """The event of the tab that is being built being opened; outside a tab, of the page loading.

    An unvisited tab costs nothing that way, and one that is opened again is up to date.
    """
    block = get_render_context()
    while block is not None:
        if isinstance(block, gr.Tab):
            return block.select
        block = block.parent
    page = Context.root_block
    assert page is not None, "a tab is built inside gr.Blocks"
    return page.load


RESULTS, EXPERIMENT = "results", "experiment"


@dataclass(frozen=True)
class Links:
    """Written by the tab that leads, listened to (`.change`) by the one that is led to.

    `run` holds the id of the run to open in Results; `clone` a tuple of run ids whose settings
    Experiment takes over. Whoever writes one also returns `gr.Tabs(selected=…)` to `tabs`. An
    empty value asks for nothing: it lets the same run be asked for twice.
    """

    tabs: gr.Tabs
    run: gr.State
    clone: gr.State

    @classmethod
    def between(cls, tabs: gr.Tabs) -> Links:
        return cls(tabs, run=gr.State(""), clone=gr.State(()))


_MOST_REMEMBERED = 10_000
"""Sessions; a page makes up its own name. What a forgotten one has asked for is not shown any more.
"""


class Latest:
    """Tells an answer on its way that the same page has asked for a newer one."""

    def __init__(self) -> None:
        self._newest: Recent[str, int] = Recent(_MOST_REMEMBERED)
        self._asked = 0
        self._turn = threading.Lock()

    def begin(self, session: str) -> int:
        """The number of what the session asks for now; no other one has it."""
        with self._turn:
            self._asked += 1
            self._newest[session] = self._asked
            return self._asked

    def is_newest(self, session: str, number: int) -> bool:
        return self._newest.get(session) == number


def one_at_a_time(name: str) -> dict[str, Any]:
    """For events of that name: one is answered at a time, and those that wait hold no thread."""
    return QUIET | {"concurrency_limit": 1, "concurrency_id": name}


class FilesAVisitor:
    """How many files one visitor may ask for: some at once, then one every few seconds.

    So nobody waits long behind the files of another.
    """

    def __init__(self, at_once: int = 10, per_second: float = 0.2) -> None:
        self._rate = Rate(per_second, at_once)

    def check(self, request: gr.Request) -> None:
        """Counts one more file; raises `FtlabError` where the visitor has to wait for it."""
        seconds = self._rate.wait(visitor_of(request).name)
        if seconds:
            raise FtlabError(f"You have asked for many files; ask for the next {when(seconds)}.")


_OPEN_SECONDS = 40.0
"""A page that has not asked for so long is closed, or its tab lies in the background."""


class Pace:
    """Shares so many polls `a_second` among all pages that are open."""

    def __init__(self, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_second = a_second
        self._clock = clock
        self._turn = threading.Lock()
        self._heard: OrderedDict[str, float] = OrderedDict()

    def seconds(self, request: gr.Request, least: float) -> float:
        """How long this page waits until its next poll: `least`, or more where many are open.

        To be called at every poll. A whole number, so that it seldom changes.
        """
        now = self._clock()
        with self._turn:
            session = str(request.session_hash)
            self._heard.pop(session, None)
            self._heard[session] = now
            while now - next(iter(self._heard.values())) > _OPEN_SECONDS:
                self._heard.popitem(last=False)
            return max(least, float(round(len(self._heard) / self._a_second)))
