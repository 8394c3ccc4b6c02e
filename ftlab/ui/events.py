"""When a tab shows anew: as it is opened; and how its events behave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.context import Context, get_render_context

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
