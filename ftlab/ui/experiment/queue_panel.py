"""Queue and loss curves of one sweep, kept up to date while the page is open.

Nothing here holds a run: each tick reads the runs folder, so a reload or a second browser shows
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ftlab.errors import FtlabError
from ftlab.runs.control import request_cancel
from ftlab.ui.context import AppContext
from ftlab.ui.events import QUIET
from ftlab.ui.experiment.queue_view import NEWEST, queue_heading, queue_html, view_sweep
from ftlab.ui.experiment.queue_watch import QueueWatch, Shown
from ftlab.ui.experiment.rates import tune_further
from ftlab.ui.html import H, blank, head, live, this_page, warn
from ftlab.ui.pace import Pace

_BUSY_SECONDS = 2
_IDLE_SECONDS = 10
_POLLS_A_SECOND = 12  # of all pages together
_SEND_PRESS = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-run], [data-further], [data-rates]');
  if (!button) return;
  button.disabled = true;
  const {run = '', further = '', rates} = button.dataset;
  if (rates) {
    window.ftMethods.set(JSON.parse(rates));
    button.textContent = 'They are in the form';
  } else {
    trigger('select', {run, further});
  }
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


def build(context: AppContext) -> Panel:
    """Builds queue and figure and starts their timer."""
    with gr.Row(equal_height=True, elem_classes="ft-watch"):
        with gr.Column(scale=9, min_width=420, elem_classes="ft-sheet ft-queue"):
            with gr.Row(elem_classes="ft-queue-head"):
                heading = H(queue_heading(None), js_on_load=_SEND_PRESS, min_width=200)
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
            queue = H(queue_html(None), js_on_load=_SEND_PRESS)
            H(_EXPLANATION)
        with gr.Column(scale=5, min_width=320, elem_classes="ft-sheet"):
            head("Loss curves", sub="training loss at each step; of seeds mean and range")
            empty = H(_NO_CURVE)
            figure = gr.Plot(
                visible=False, show_label=False, container=False, elem_classes="ft-fig"
            )
    watch = QueueWatch(context.store)
    shown = gr.State(Shown())
    timer = gr.Timer(_IDLE_SECONDS)

    pace = Pace(_POLLS_A_SECOND)

    def refresh(request: gr.Request, wanted: str, before: Shown) -> tuple[Any, ...]:
        return _changes(before, paced(watch.look(wanted), request))

    def tick(request: gr.Request, wanted: str, before: Shown) -> tuple[Any, ...]:
        return _changes(before, paced(watch.glance(wanted), request))

    def paced(now: Shown, request: gr.Request) -> Shown:
        seconds = pace.seconds(request, _BUSY_SECONDS if now.busy else _IDLE_SECONDS)
        return now if seconds == now.seconds else replace(now, seconds=seconds)

    def press(event: gr.EventData, wanted: str) -> None:
        try:
            sweep_id = str(getattr(event, "further", ""))
            if sweep_id:
                tune_further(sweep_id, context)
            else:
                cancel_runs(context, str(getattr(event, "run", "")), wanted)
        except FtlabError as error:
            warn(str(error))

    inputs, outputs = [sweep, shown], [heading, queue, sweep, empty, figure, timer, shown]
    timer.tick(tick, inputs, outputs, queue=False, **QUIET)  # one request instead of three
    gr.on([this_page().load, sweep.input], refresh, inputs, outputs, **QUIET)
    pressed = gr.on([queue.select, heading.select], press, sweep, None, **QUIET)
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


def _changes(before: Shown, now: Shown) -> tuple[Any, ...]:
    """One update an output, `gr.skip()` for what is shown already."""
    if now == before:
        return (gr.skip(),) * 7
    appear = _has_curves(now) != _has_curves(before) or before.drawing is None
    return (
        now.heading if now.heading != before.heading else gr.skip(),
        now.queue if now.queue != before.queue else gr.skip(),
        gr.update(choices=list(now.choices), visible=len(now.choices) > 1)
        if now.choices != before.choices
        else gr.skip(),
        gr.update(visible=not _has_curves(now)) if appear else gr.skip(),
        _figure(now, appear) if now.drawing != before.drawing else gr.skip(),
        gr.update(value=now.seconds) if now.seconds != before.seconds else gr.skip(),
        now,
    )


def _figure(now: Shown, appears: bool) -> Any:
    if now.drawing is None or not now.drawing.curves:
        return gr.update(visible=False)
    figure = now.drawing.figure
    return gr.update(value=figure, visible=True) if appears else figure


def _has_curves(shown: Shown) -> bool:
    return shown.drawing is not None and bool(shown.drawing.curves)
