"""The page's own way with gradio: outputs that are skipped, the empty queue, the pace of polls."""

from __future__ import annotations

import sys
from copy import deepcopy
from functools import cache
from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import SessionState

from ftlab.tabs import app
from ftlab.tabs.live import Pace
from ftlab.tabs.serve import NotedBlocks, calm
from tests.asynchronous import run

SKIPPED = {"__type__": "update"}


class Made(gr.Textbox):
    """Counts how often a component is made."""

    count = 0

    def __init__(self, *args: Any, **kw: Any) -> None:
        type(self).count += 1
        super().__init__(*args, **kw)

    def get_block_name(self) -> str:
        return "textbox"


@cache
def page_of(kind: type[gr.Blocks]) -> gr.Blocks:
    """A page with a handler whose outputs are two texts and a state."""
    with kind() as page:
        gr.Button().click(lambda: None, None, [Made(), Made(), gr.State("")])
    return page


def answers(kind: type[gr.Blocks], *values: Any) -> tuple[list[Any], Any]:
    """What a page of that kind sends when its handler returns the values; and its state."""
    page = page_of(kind)
    state = SessionState(page)
    Made.count = 0
    (function,) = page.fns.values()
    given = deepcopy(list(values))  # gradio takes values out of an update
    sent = run(page.postprocess_data(function, given, state))
    return sent, state[function.outputs[2]._id]


@pytest.mark.parametrize(
    "values",
    [
        ("a", "b", "c"),
        (gr.skip(), "b", "c"),
        ("a", gr.skip(), gr.skip()),
        (gr.skip(), gr.skip(), "c"),
        (gr.skip(), gr.skip(), gr.skip()),
        (gr.update(value="a"), gr.skip(), "c"),
        (gr.update(visible=False), gr.update(value="b", visible=True), gr.skip()),
        ({}, gr.skip(), gr.skip()),
        (None, gr.skip(), None),
    ],
)
def test_what_is_sent_is_what_gradio_would_send(values: tuple[Any, ...]) -> None:
    assert answers(NotedBlocks, *values) == answers(gr.Blocks, *values)


def test_a_skipped_output_costs_no_component() -> None:
    sent, _ = answers(NotedBlocks, gr.skip(), gr.skip(), "c")
    assert sent == [SKIPPED, SKIPPED, None]
    assert Made.count == 0
    answers(gr.Blocks, gr.skip(), gr.skip(), "c")
    assert Made.count == 2, "gradio does not make them anew any more: postprocess_data can go"


def test_a_calm_page_looks_seldom_into_its_queue() -> None:
    assert app.build_page, "importing it is what turns gradio's own statistics off"
    with gr.Blocks() as page:
        pass
    page.queue()
    calm(page)
    assert page._queue.sleep_when_free >= 0.02
    assert page._queue.ANAYLTICS_CACHE_FREQUENCY > 1_000_000
    assert page._queue.ANALYTICS_MAX_EVENTS == 1
    assert "matplotlib" in sys.modules, "found, or known to be missing"


def test_pages_share_the_polls_and_closed_ones_do_not_count() -> None:
    now = [0.0]
    pace = Pace(10, clock=lambda: now[0])
    waits = [pace.seconds(str(i), 2) for i in range(100)]
    assert waits[0] == waits[19] == 2.0
    assert waits[-1] == 10.0
    waits = [pace.seconds(str(i), 0.25) for i in range(4)]
    assert waits == [10.0] * 4, "100 pages are known"
    assert pace.seconds("5", 2) == 10.0, "a page that asks again is one page"
    now[0] = 60.0
    assert pace.seconds("5", 2) == 2.0
    now[0] = 120.0
    assert [pace.seconds(str(i), 0.25) for i in range(4)] == pytest.approx([0.25, 0.25, 0.3, 0.4])
