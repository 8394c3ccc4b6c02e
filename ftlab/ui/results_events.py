"""When a tab shows anew: as it is opened."""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.context import Context, get_render_context


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
