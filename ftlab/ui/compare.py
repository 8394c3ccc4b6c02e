"""The Compare tab: one sweep against full fine-tuning, as a sentence, tiles and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import plotly.graph_objects as go

from ftlab.charts.loss import loss_figure
from ftlab.charts.savings import compare, savings_figure
from ftlab.runs.metrics import HEADLINES, METRICS
from ftlab.runs.store import Run, RunStore, to_table
from ftlab.ui.compare_view import (
    FIGURE_TITLES,
    adapter_choices,
    bars_sentence,
    curves,
    default_sweep,
    fairness,
    headline,
    left_out,
    loss_sentence,
    sweep_options,
)
from ftlab.ui.context import AppContext
from ftlab.ui.html import H, blank, heading, live
from ftlab.ui.results_events import opened

_BARS_BESIDE = 40  # titles and gaps of the two rows of bars that the loss figure stands beside
_NO_SWEEP = blank(
    "No sweep to compare yet.",
    "Open Experiment, tick full fine-tuning and at least one other method, and press Launch. "
    "What the others save is worked out here.",
)


@dataclass(frozen=True)
class View:
    """All that the tab shows of one sweep."""

    adapters: list[str]
    adapter: str | None
    fairness: str
    headline: str
    left_out: str
    bars_heading: str
    bars: tuple[go.Figure, ...]
    loss_heading: str
    loss: go.Figure


def view(runs: list[Run], adapter: str | None = None) -> View:
    """What is shown of a sweep's runs; `adapter` in the headline, else the best one."""
    own = [run for run in runs if not run.spec.is_base]
    table = to_table(own)
    found = compare(table, adapter)
    bars = tuple(savings_figure(table, METRICS[key]) for key in HEADLINES)
    return View(
        adapters=adapter_choices(table) if found else [],
        adapter=str(found.adapter["variant"]) if found else None,
        fairness=fairness(runs),
        headline=headline(table, runs, adapter),
        left_out=left_out(own),
        bars_heading=heading("What it costs", sub=bars_sentence(table)),
        bars=bars,
        loss_heading=heading(loss_sentence(table), sub=_loss_words(own)),
        loss=loss_figure(curves(runs), height=_loss_height(bars)),
    )


def _loss_words(runs: Sequence[Run]) -> str:
    several = len({run.spec.seed for run in runs}) > 1
    return f"Figure: training loss at each step{', mean and range of the seeds' if several else ''}"


def _loss_height(bars: Sequence[go.Figure]) -> int:
    """As high as the bars beside it, within reason."""
    return max(240, min(440, _BARS_BESIDE + 2 * int(bars[0].layout.height)))


def build(context: AppContext) -> None:
    """Lays the tab out and wires it."""
    empty = H(_NO_SWEEP)
    with gr.Column(visible=False) as page:
        with gr.Row(elem_classes="ft-tools ft-choose"):
            sweep = live(
                gr.Dropdown,
                [],
                label="Sweep",
                show_label=False,
                container=False,
                scale=0,
                min_width=520,
            )
        with gr.Column(elem_classes="ft-sheet"):
            top = H()
            adapter = live(
                gr.Radio,
                [],
                label="Method in the headline",
                show_label=False,
                container=False,
                elem_classes="ft-seg",
            )
            fair = H()
            out = H()
        with gr.Row(equal_height=True):
            with gr.Column(scale=1, min_width=340, elem_classes="ft-sheet"):
                bars_heading = H()
                with gr.Row(elem_classes="ft-small"):
                    bars = []
                    for key in HEADLINES:
                        with gr.Column(min_width=250):
                            H(f"<h4>{FIGURE_TITLES[key]}</h4>")
                            bars.append(_plot())
            with gr.Column(scale=1, min_width=340, elem_classes="ft-sheet"):
                loss_heading = H()
                loss = _plot()

    by_hand = gr.State(False)  # whether the visitor chose the sweep; else the newest is shown
    details = [fair, top, adapter, out, bars_heading, *bars, loss_heading, loss]

    def enter(shown: str | None, chosen: bool, name: str | None) -> list[Any]:
        return _enter(context.store, shown, chosen, name, len(details))

    def choose(shown: str | None) -> list[Any]:
        return [True, *_details(view(context.store.sweep(shown or "")))]

    def choose_adapter(shown: str | None, name: str | None) -> str:
        runs = context.store.sweep(shown or "")
        return headline(to_table([run for run in runs if not run.spec.is_base]), runs, name)

    quiet: dict[str, Any] = {
        "show_progress": "hidden",
        "concurrency_limit": None,
        "api_visibility": "private",
    }
    gr.on([opened()], enter, [sweep, by_hand, adapter], [empty, page, sweep, *details], **quiet)
    sweep.input(choose, sweep, [by_hand, *details], **quiet)
    adapter.input(choose_adapter, [sweep, adapter], top, **quiet)


def _plot() -> gr.Plot:
    return gr.Plot(show_label=False, container=False, elem_classes="ft-fig")


def _enter(
    store: RunStore, shown: str | None, by_hand: bool, adapter: str | None, parts: int
) -> list[Any]:
    """Updates as the tab is opened: the sweep that was chosen, else the newest finished one."""
    table = store.table()
    options = sweep_options(table)
    ids = [value for _, value in options]
    chosen = shown if by_hand and shown in ids else default_sweep(table)
    if chosen is None:
        return [gr.HTML(visible=True), gr.Column(visible=False), gr.skip(), *[gr.skip()] * parts]
    kept = adapter if chosen == shown else None
    return [
        gr.HTML(visible=False),
        gr.Column(visible=True),
        gr.Dropdown(choices=options, value=chosen),
        *_details(view(store.sweep(chosen), kept)),
    ]


def _details(shown: View) -> list[Any]:
    return [
        shown.fairness,
        shown.headline,
        gr.Radio(choices=shown.adapters, value=shown.adapter, visible=len(shown.adapters) > 1),
        shown.left_out,
        shown.bars_heading,
        *shown.bars,
        shown.loss_heading,
        shown.loss,
    ]
