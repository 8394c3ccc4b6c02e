"""What all tabs share: their definition, the context, events, links, rate limits, predictions.

A tab is a package here with a `tab.py` that has a `TAB`; all are found by that.

Drawing a card takes some 80 MB and a report a second of one core, so many at once would slow down
all other visitors.
"""

from __future__ import annotations

import contextvars
import importlib
import math
import pkgutil
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import gradio as gr
from gradio.context import Context, get_render_context

from ftlab import tabs as package
from ftlab.basics.errors import FtlabError
from ftlab.basics.recent import Recent
from ftlab.basics.visitor_turns import Visitor
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.jobs.ready import Waker
from ftlab.models.hub import HubReach
from ftlab.models.resolve import ModelReach
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.held_out import HeldOut
from ftlab.prediction.client import NobodyWaits, Predictor
from ftlab.prediction.fit import Ask
from ftlab.prediction.question import Prediction, Question
from ftlab.records.store import RunStore
from ftlab.tabs.gate import Rate, visitor_of, when
from ftlab.tabs.live import LiveParts
from ftlab.tabs.widgets import H, escape


@dataclass(frozen=True)
class AppContext:
    """Shared by all visitors of one app; holds no state of a single visitor."""

    runs_folder: Path
    store: RunStore
    playground: PlaygroundClient
    held_out: HeldOut = field(default_factory=HeldOut)
    predictor: Predictor = field(default_factory=Predictor)
    access: Access = EVERYTHING
    hub: HubReach = field(default_factory=HubReach)
    models: ModelReach = field(default_factory=ModelReach)
    ready: Waker = field(default_factory=Waker)
    live: LiveParts = field(default_factory=LiveParts)


_SPACE_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)


def banner_html(space: str) -> str:
    """HTML: what a public demo allows, and a link that duplicates the Space with that id."""
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


NO_OVERLAY: dict[str, Any] = {"show_progress": "hidden", "show_progress_on": []}
"""For events without a progress overlay.

Without the empty list the browser remembers the event's outputs: gradio writes a status into every
output of every earlier event whenever an event begins or ends, which was most of a poll's cost.
"""

QUIET: dict[str, Any] = NO_OVERLAY | {"concurrency_limit": None, "api_visibility": "private"}
"""For events of the page itself: no progress overlay, no concurrency limit, not in the API."""

DOWNLOAD = """(file) => {
  if (!file) return;
  const link = document.createElement('a');
  link.href = file.url;
  link.download = file.orig_name;
  document.body.append(link);
  link.click();
  link.remove();
}"""
"""JavaScript: downloads a button's current file. A click would give the file from before it."""


@dataclass(frozen=True)
class Action:
    """A handler with its inputs and outputs, to attach to several events."""

    handler: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]

    def after(self, event: Any) -> Any:
        """Runs the handler after the event's own handler."""
        return event.then(self.handler, self.inputs, self.outputs, **QUIET)


def opened() -> Any:
    """Returns the `select` event of the tab that is being built; outside a tab, the page's `load`.

    So a tab computes nothing until it is opened, and is refreshed each time.
    """
    page = Context.root_block
    assert page is not None, "a tab is built inside gr.Blocks"
    return next(iter(each_opened()), page.load)


def first_shown() -> Any:
    """Returns an event of the tab that is being built: it is shown for the first time.

    For the tab that is selected at first, which has no `select` event then. The page may open on
    another one, which should not wait for this one's answers.
    """
    return H(js_on_load=_TELL_SHOWN, elem_classes="ft-carrier").select


_TELL_SHOWN = "window.ft.address.whenShown(element, () => trigger('select', {}));"


def each_opened() -> list[Any]:
    """Returns the `select` events of all tabs around what is being built, the innermost first."""
    block, events = get_render_context(), []
    while block is not None:
        if isinstance(block, gr.Tab):
            events.append(block.select)
        block = block.parent
    return events


RESULTS, EXPERIMENT, COMPARE, PLAYGROUND = "results", "experiment", "compare", "playground"


@dataclass(frozen=True)
class KeptInputs:
    """Inputs of a tab that the browser keeps: their name there, and the version of their format."""

    name: str
    version: int


@dataclass(frozen=True)
class KeptState:
    """How a tab gets back the inputs that the browser kept (`ftlab/tabs/kept.py`).

    `given` has their values once the tab is shown; if there are any, its `.change` is triggered.
    `ready` is a hidden field, empty until the tab's fields hold those values: the tab keeps nothing
    before. The tab sets it to `READY` in the same answer as its fields.
    """

    given: gr.State
    ready: gr.Textbox


READY = "ready"


_AT_ONCE_SECONDS = 1.0
"""Handlers that begin within this time of each other are taken to be of one click or link."""
_Value = TypeVar("_Value")


class Asked(Generic[_Value]):
    """What an address or another tab asks for; only the first handler that takes it gets it.

    So no handler resets the state: a slow one would also reset what was asked for meanwhile.
    """

    def __init__(self, value: _Value) -> None:
        self._values = [value]
        self._taken_at = -math.inf

    def take(self) -> _Value | None:
        try:
            value = self._values.pop()
        except IndexError:
            return None
        self._taken_at = time.monotonic()
        return value

    @property
    def was_just_taken(self) -> bool:
        return time.monotonic() - self._taken_at < _AT_ONCE_SECONDS


def taken(asked: Asked[_Value] | None) -> _Value | None:
    """What is asked for, once; `None` if nothing is, or if it was taken before."""
    return None if asked is None else asked.take()


def is_being_answered(asked: Asked[Any] | None) -> bool:
    """True for a handler that ran at once with the one that has taken it.

    A link triggers both the `select` of its tab and the `change` of its state. What the second
    handler gets from the page is older than the answer to the first.
    """
    return asked is not None and asked.was_just_taken


@dataclass(frozen=True)
class Links:
    """State for links between tabs: the source tab writes it, the target tab listens to `.change`.

    `clone` is an `Asked` with what Experiment's form is filled with, or `None`: a tuple of run ids
    whose settings it copies, or a request, which leaves the form's model.
    `asked` has a state for each parameter of an address (see `TabSpec.address`): an `Asked` with
    what is to be shown, "" for the tab as it is without the parameter, or `None`. A handler that
    writes one also returns `gr.Tabs(selected=…)` to `tabs`; the target takes it (`taken`).
    `kept` has what the browser kept, by name.
    """

    tabs: gr.Tabs
    clone: gr.State
    asked: Mapping[str, gr.State]
    kept: Mapping[str, KeptState]

    @classmethod
    def between(cls, row: gr.Tabs) -> Links:
        asked = {name: gr.State(None) for spec in tabs() for name in spec.address}
        kept = {
            one.name: KeptState(gr.State({}), gr.Textbox(visible=False))
            for spec in tabs()
            for one in spec.kept
        }
        return cls(row, gr.State(None), asked, kept)


_MOST_REMEMBERED = 10_000
"""Maximum number of sessions; clients choose their ids. Results for a dropped one are not shown."""


class Latest:
    """Tells a running handler whether the same page has sent a newer request."""

    def __init__(self) -> None:
        self._newest: Recent[str, int] = Recent(_MOST_REMEMBERED)
        self._asked = 0
        self._turn = threading.Lock()

    def begin(self, session: str) -> int:
        """Returns a unique number for the session's new request."""
        with self._turn:
            self._asked += 1
            self._newest[session] = self._asked
            return self._asked

    def is_newest(self, session: str, number: int) -> bool:
        return self._newest.get(session) == number


def one_at_a_time(name: str) -> dict[str, Any]:
    """Event options: events with that name run one at a time; waiting ones hold no thread."""
    return QUIET | {"concurrency_limit": 1, "concurrency_id": name}


class FilesAVisitor:
    """Rate limit for files per visitor: `at_once` files, then `per_second`.

    So no visitor waits long for the files of another.
    """

    def __init__(self, at_once: int = 10, per_second: float = 0.2) -> None:
        self._rate = Rate(per_second, at_once)

    def check(self, request: gr.Request) -> None:
        """Counts one more file; raises `FtlabError` if the visitor has to wait."""
        seconds = self._rate.wait(visitor_of(request).name)
        if seconds:
            raise FtlabError(f"You have asked for many files; ask for the next {when(seconds)}.")


@contextmanager
def errors_for_caller() -> Iterator[None]:
    """Turns an `FtlabError` into an error for the page or program that called."""
    try:
        yield
    except FtlabError as error:
        raise gr.Error(str(error), print_exception=False) from None


def check_texts(**values: Any) -> None:
    """Raises `FtlabError` for a parameter that is no text: JSON can hold any value."""
    for name, value in values.items():
        if not isinstance(value, str):
            raise FtlabError(f"'{name}' must be a text; put it in quotes.")


@dataclass(frozen=True)
class TabSpec:
    """A tab: its name, its position from the left, and the function that builds it.

    `address` has the parameters of the page's address that the tab reads, as `sweep` in
    `/?tab=compare&sweep=ID`; each is a state of `Links.asked`. `longest` has the characters that
    are read of one that may be longer than an id or a few words. `kept` has the inputs
    that the browser keeps for the next visit; each is in `Links.kept`.
    """

    name: str
    place: int
    build: Callable[[AppContext, Links], None]
    address: tuple[str, ...] = ()
    longest: Mapping[str, int] = field(default_factory=dict)
    kept: tuple[KeptInputs, ...] = ()

    @property
    def id(self) -> str:
        """The id of the tab for links and scripts."""
        return self.name.lower()


def tabs() -> list[TabSpec]:
    """Returns all tabs in display order."""
    found: list[TabSpec] = [
        importlib.import_module(f"{module.name}.tab").TAB
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        if module.ispkg
    ]
    return sorted(found, key=lambda tab: tab.place)


SECONDS_BETWEEN_SIGNS = 1.0
"""Longest time without a yield: gradio stops the handler of a closed page only at a yield."""

_Item = TypeVar("_Item")


def while_there(
    predictor: Predictor,
    visitor: Visitor,
    make: Callable[[Ask], Iterable[_Item]],
    is_wanted: Callable[[], bool] = lambda: True,
) -> Iterator[_Item | None]:
    """Yields the items of `make(ask)`, and `None` while it waits for the next one.

    `make` gets the function that requests predictions. When this generator is closed, or
    `is_wanted` returns False, open requests are cancelled. Raises what `make` raises.
    """
    left = threading.Event()
    made: queue.SimpleQueue[_Item | _End] = queue.SimpleQueue()

    def has_left() -> bool:
        return left.is_set() or not is_wanted()

    def ask(questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        return predictor.ask(questions, visitor, has_left)

    def produce() -> None:
        error: BaseException | None = None
        try:
            for item in make(ask):
                made.put(item)
                if has_left():
                    break
        except NobodyWaits:
            pass
        except BaseException as raised:  # raised again in the consumer
            error = raised
        made.put(_End(error))

    context = contextvars.copy_context()  # gradio finds the page for a warning in it
    threading.Thread(target=context.run, args=(produce,), daemon=True).start()
    try:
        while is_wanted():
            try:
                item = made.get(timeout=SECONDS_BETWEEN_SIGNS)
            except queue.Empty:
                yield None
                continue
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            if is_wanted():
                yield item
    finally:
        left.set()


class _End:
    """Marks the end of the items, with the error if there was one."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
