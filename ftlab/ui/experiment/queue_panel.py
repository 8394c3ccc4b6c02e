"""Queue and loss curves of one sweep, kept up to date while the page is open.

Nothing here holds a run: each tick reads the runs folder, so a reload or a second browser shows
the same.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ftlab.charts.loss import loss_figure
from ftlab.charts.loss_points import LossCurve, curve_points
from ftlab.errors import FtlabError
from ftlab.runs.control import ensure_dispatcher, request_cancel, requested_cancels
from ftlab.runs.store import Run
from ftlab.ui.context import AppContext
from ftlab.ui.events import QUIET
from ftlab.ui.experiment.queue_view import (
    NEWEST,
    SweepView,
    queue_heading,
    queue_html,
    sweep_choices,
    view_sweep,
)
from ftlab.ui.html import H, blank, head, live, this_page, warn

_BUSY_SECONDS = 2
_IDLE_SECONDS = 10
_DISPATCHER_SECONDS = 10
_SEND_CANCEL = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-run]');
  if (!button) return;
  button.disabled = true;
  trigger('select', {run: button.dataset.run});
})"""
_NO_CURVE = blank("No curve yet.", "The loss of every run of the sweep is drawn here as it comes.")
_EXPLANATION = (
    '<p class="meta">Runs are processes of their own: close this page, reload it, open a second '
    "one, and they go on. Each sweep first measures the untouched model in base runs.</p>"
)


@dataclass(frozen=True)
class Panel:
    """What the tab needs to refresh the queue after a launch."""

    sweep: gr.Dropdown
    refresh: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]


@dataclass(frozen=True)
class Shown:
    """What a visitor's page shows at this moment: parts that are the same are not sent again."""

    heading: str = ""
    queue: str = ""
    choices: tuple[tuple[str, str], ...] = ()
    curves: tuple[LossCurve, ...] | None = None
    busy: bool | None = None
    problem: str = ""


class Keeper:
    """Sees to it that a queued run has a dispatcher; one for all visitors, who all tick."""

    def __init__(self, runs_folder: Path) -> None:
        self.runs_folder = runs_folder
        self._turn = threading.Lock()
        self._next = 0.0
        self._problem = ""

    def keep(self, runs: Sequence[Run]) -> str:
        """Looks after the dispatcher if a run waits; the sentence on why that failed, or ""."""
        if not any(run.status == "queued" for run in runs):
            return ""
        with self._turn:
            if time.monotonic() < self._next:  # the last one started may not be up yet
                return self._problem
            self._next = time.monotonic() + _DISPATCHER_SECONDS
            try:
                ensure_dispatcher(self.runs_folder)
                self._problem = ""
            except FtlabError as error:
                self._problem = str(error)
            return self._problem


def build(context: AppContext) -> Panel:
    """Builds queue and figure and starts their timer."""
    with gr.Row(equal_height=True, elem_classes="ft-watch"):
        with gr.Column(scale=9, min_width=420, elem_classes="ft-sheet ft-queue"):
            with gr.Row(elem_classes="ft-queue-head"):
                heading = H(queue_heading(None), js_on_load=_SEND_CANCEL, min_width=200)
                sweep = live(
                    gr.Dropdown,
                    [("Newest sweep", NEWEST)],
                    value=NEWEST,
                    label="Sweep",
                    show_label=False,
                    container=False,
                    visible=False,
                    scale=0,
                    min_width=230,
                    elem_classes="ft-bare",
                    elem_id="sweep",
                )
            queue = H(queue_html(None), js_on_load=_SEND_CANCEL)
            H(_EXPLANATION)
        with gr.Column(scale=5, min_width=320, elem_classes="ft-sheet"):
            head("Loss curves", sub="training loss at each step; of seeds mean and range")
            empty = H(_NO_CURVE)
            figure = gr.Plot(
                visible=False, show_label=False, container=False, elem_classes="ft-fig"
            )
    keeper = Keeper(context.runs_folder)
    shown = gr.State(Shown())
    timer = gr.Timer(_IDLE_SECONDS)

    def refresh(wanted: str, before: Shown) -> tuple[Any, ...]:
        runs = context.store.runs()
        view = view_sweep(runs, wanted, requested_cancels(context.runs_folder))
        now = Shown(
            heading=queue_heading(view),
            queue=queue_html(view),
            choices=tuple(sweep_choices(runs)),
            curves=view.curves() if view else (),
            busy=any(run.is_open for run in runs),
            problem=keeper.keep(runs),
        )
        if now.problem and now.problem != before.problem:
            warn(now.problem)
        return _changes(view, before, now)

    def end_runs(event: gr.EventData, wanted: str) -> None:
        try:
            cancel_runs(context, str(event.run), wanted)
        except FtlabError as error:
            warn(str(error))

    inputs, outputs = [sweep, shown], [heading, queue, sweep, empty, figure, timer, shown]
    gr.on([timer.tick, this_page().load, sweep.input], refresh, inputs, outputs, **QUIET)
    pressed = gr.on([queue.select, heading.select], end_runs, sweep, None, **QUIET)
    pressed.then(refresh, inputs, outputs, **QUIET)
    return Panel(sweep, refresh, inputs, outputs)


def cancel_runs(context: AppContext, run_id: str, wanted: str) -> list[str]:
    """Asks for one run to be ended, or with "all" for every open run of the wanted sweep."""
    run_ids = [run_id]
    if run_id == "all":
        view = view_sweep(context.store.runs(), wanted)
        run_ids = view.open_ids if view else []
    request_cancel(context.runs_folder, run_ids)
    return run_ids


def _changes(view: SweepView | None, before: Shown, now: Shown) -> tuple[Any, ...]:
    """One update an output, `gr.skip()` for what is shown already."""
    if now == before:
        return (gr.skip(),) * 7
    new_curves = now.curves != before.curves
    return (
        now.heading if now.heading != before.heading else gr.skip(),
        now.queue if now.queue != before.queue else gr.skip(),
        gr.Dropdown(choices=list(now.choices), visible=len(now.choices) > 1)
        if now.choices != before.choices
        else gr.skip(),
        gr.update(visible=not now.curves) if new_curves else gr.skip(),
        _figure(view, now.curves or ()) if new_curves else gr.skip(),
        gr.Timer(_BUSY_SECONDS if now.busy else _IDLE_SECONDS)
        if now.busy != before.busy
        else gr.skip(),
        now,
    )


def _figure(view: SweepView | None, curves: Sequence[LossCurve]) -> Any:
    if view is None or not curves:
        return gr.update(visible=False)
    steps = max(way.steps for way in view.progress)
    return gr.update(value=loss_figure(curve_points(curves), steps=steps), visible=True)
