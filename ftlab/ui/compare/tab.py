"""The Compare tab: one sweep against full fine-tuning, as a sentence, tiles and figures."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import gradio as gr
import pandas as pd

from ftlab.charts.loss import XAxis
from ftlab.errors import FtlabError
from ftlab.runs.result import OPEN
from ftlab.runs.store import RunStore
from ftlab.runs.sweep_data import SweepData, sweep_data
from ftlab.ui.compare import quality, rates, serving, share
from ftlab.ui.compare.figures import loss_picture, pareto_picture
from ftlab.ui.compare.layout import MOST_SMOOTHING, PictureParts, build_layout, build_legend
from ftlab.ui.compare.page import Choice, View, further, view
from ftlab.ui.compare.sweeps import default_sweep, sweep_options
from ftlab.ui.compare.view import headline
from ftlab.ui.context import AppContext
from ftlab.ui.events import QUIET, opened
from ftlab.ui.html import H, blank, this_page, warn
from ftlab.ui.links import RESULTS, Links

_SECTIONS = (
    rates.build, quality.build, share.build, serving.build,
)  # fmt: skip
# Further figures wait until those of the first screen are painted: both at once take twice as long.
_PAINTED = "() => new Promise((done) => setTimeout(done, 300))"
# The usual sweep is made ready once the page has loaded, so that no tab that is open waits for it.
_AT_REST = "() => new Promise((done) => setTimeout(done, 1500))"
_FIRST_SCREENS = 16  # kept, so that a sweep that was looked at comes at once
_NO_SWEEP = blank(
    "No sweep to compare yet.",
    "Open Experiment, tick full fine-tuning and at least one other method, and press Launch. "
    "What the others save is worked out here.",
)


def build(context: AppContext, links: Links) -> None:
    """Lays the tab out and wires it."""
    store = context.store
    empty = H(_NO_SWEEP)
    with gr.Column(visible=False, elem_classes="ft-compare") as page:
        parts = build_layout()
        sections = [build_section(context) for build_section in _SECTIONS]
        build_legend()
    by_hand = gr.State(False)  # whether the visitor chose the sweep; else the newest is shown
    seen = gr.State("")  # what of the store is on the page
    due = gr.State("")  # the sweep of which only the first screen is on the page
    choices = [parts.adapter, parts.x, parts.y, parts.loss_x, parts.smoothing]
    views = FirstScreens(store)
    below = [*parts.further_outputs, *(part for section in sections for part in section.outputs)]

    def enter(shown: str | None, chosen: bool, before: str, *choice: Any) -> list[Any]:
        """As the tab is opened: the sweep that was chosen, else the usual one."""
        table = store.table()
        options = sweep_options(table)
        known = shown in [value for _, value in options]
        sweep = shown if chosen and known else default_sweep(table)
        nothing = [gr.skip()] * len(parts.outputs)
        if sweep is None:
            return [gr.HTML(visible=True), gr.Column(visible=False), gr.skip(), "", "", *nothing]
        now = digest(table, sweep)
        page_updates = [
            gr.HTML(visible=False),
            gr.Column(visible=True),
            gr.Dropdown(choices=options, value=sweep),
            now,
        ]
        if now == before and not is_open(table, sweep):
            return [*page_updates, "", *nothing]
        kept = read_choice(*choice) if sweep == shown else Choice()
        return [*page_updates, sweep, *parts.updates(views.show(sweep, now, kept))]

    def choose_sweep(shown: str | None, adapter: str | None, *choice: Any) -> list[Any]:
        data = _data(context, shown)
        if data is None:
            return [gr.skip()] * (3 + len(parts.outputs))
        now = digest(store.table(), data.sweep_id)
        first = parts.updates(views.show(data.sweep_id, now, read_choice(None, *choice)))
        return [True, now, data.sweep_id, *first]

    def fill(sweep: str, *choice: Any) -> list[Any]:
        """What lies below the first screen, once that is on the page."""
        data = _data(context, sweep) if sweep else None
        if data is None:
            return [gr.skip()] * len(below)
        spliced = [update for section in sections for update in section.show(data)]
        return [*parts.further_updates(further(data, read_choice(*choice))), *spliced]

    def choose_adapter(shown: str | None, adapter: str | None) -> Any:
        data = _data(context, shown)
        return gr.skip() if data is None else headline(data, adapter)

    def choose_measures(shown: str | None, x: str, y: str) -> list[Any]:
        data = _data(context, shown)
        if data is None:
            return [gr.skip()] * 3
        return PictureParts.updates(pareto_picture(data, x, y))

    def choose_loss(shown: str | None, points: pd.DataFrame, x: XAxis, smoothing: Any) -> list[Any]:
        data = _data(context, shown)
        if data is None or points is None:
            return [gr.skip()] * 3
        return PictureParts.updates(loss_picture(data, points, x, read_smoothing(smoothing)))

    inputs = [parts.sweep, by_hand, seen, *choices]
    shown_first = [empty, page, parts.sweep, seen, due, *parts.outputs]
    # `select`, not `input`: gradio sends an option that is clicked twice as input.
    begun = [
        opened()(enter, inputs, shown_first, **QUIET),
        parts.sweep.select(
            choose_sweep, [parts.sweep, *choices], [by_hand, seen, due, *parts.outputs], **QUIET
        ),
    ]
    for first_screen in begun:
        painted = first_screen.then(fn=None, js=_PAINTED, api_visibility="private")
        painted.then(fill, [due, *choices], below, **QUIET)
    at_rest = this_page().load(fn=None, js=_AT_REST, api_visibility="private")
    at_rest.then(views.warm, None, None, **QUIET)
    parts.adapter.input(choose_adapter, [parts.sweep, parts.adapter], parts.top, **QUIET)
    gr.on(
        [parts.x.select, parts.y.select],
        choose_measures,
        [parts.sweep, parts.x, parts.y],
        parts.pareto.outputs,
        **QUIET,
    )
    gr.on(
        [parts.loss_x.input, parts.smoothing.input],
        choose_loss,
        [parts.sweep, parts.points, parts.loss_x, parts.smoothing],
        parts.loss.outputs,
        trigger_mode="always_last",
        **QUIET,
    )
    _lead_to_run(parts.runs, links)


class FirstScreens:
    """What fills the first screen, kept for sweeps that were looked at."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._kept = lru_cache(_FIRST_SCREENS)(self._make)

    def show(self, sweep: str, now: str, choice: Choice) -> View:
        """`now` is the sweep's digest: another one is looked at anew."""
        return self._kept(sweep, now, choice)

    def warm(self) -> None:
        """Makes the usual sweep ready, so that the tab opens with it at once."""
        table = self._store.table()
        sweep = default_sweep(table)
        if sweep is not None:
            self.show(sweep, digest(table, sweep), Choice())

    def _make(self, sweep: str, now: str, choice: Choice) -> View:
        return view(sweep_data(self._store, sweep), choice)


def read_choice(adapter: Any, x: Any, y: Any, loss_x: Any, smoothing: Any) -> Choice:
    """What the components of a page hold, as far as it makes sense."""
    axis: XAxis = loss_x if loss_x in ("step", "tokens", "seconds") else "step"
    return Choice(adapter or None, x or None, y or None, axis, read_smoothing(smoothing))


def read_smoothing(value: Any) -> int:
    """Steps to average over; gradio sends what was typed, also what is no number."""
    try:
        return max(1, min(MOST_SMOOTHING, round(float(value))))
    except (TypeError, ValueError, OverflowError):
        return 1


def digest(table: pd.DataFrame, sweep: str) -> str:
    """Changes with everything that the page shows of a sweep that has ended."""
    rows = table[table["sweep_id"] == sweep]
    return hashlib.sha256(rows.to_csv().encode()).hexdigest()[:24]


def is_open(table: pd.DataFrame, sweep: str) -> bool:
    """Whether runs of the sweep still go on, so that its loss changes without its rows."""
    return bool(table["status"][table["sweep_id"] == sweep].isin(OPEN).any())


def _data(context: AppContext, sweep: str | None) -> SweepData | None:
    """The sweep; `None`, and a sentence in the corner of the page, if it is gone."""
    try:
        return sweep_data(context.store, sweep or "")
    except FtlabError as error:
        warn(str(error))
        return None


def _lead_to_run(runs: gr.HTML, links: Links) -> None:
    """A click on a point, or on a run's button, opens the run in Results."""

    def lead(event: gr.EventData) -> tuple[str, Any]:
        return str(getattr(event, "run", "")), gr.Tabs(selected=RESULTS)

    runs.select(lead, None, [links.run, links.tabs], **QUIET)
