"""The Compare tab: one sweep against full fine-tuning, as a sentence, tiles and figures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, cast

import gradio as gr
import pandas as pd

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import shorten
from ftlab.records.recommendation import CRITERIA, Preference
from ftlab.records.result import OPEN
from ftlab.records.store import RunStore, SweepData, sweep_data
from ftlab.tabs.compare import serving, share, tour
from ftlab.tabs.compare.layout import ChartParts, Layout, build_layout, build_legend, drawn
from ftlab.tabs.compare.view import (
    View,
    advice,
    default_sweep,
    further,
    headline,
    picture_of,
    runs_fold,
    sweep_options,
    view,
)
from ftlab.tabs.context import (
    QUIET,
    RESULTS,
    AppContext,
    Asked,
    Links,
    TabSpec,
    is_being_answered,
    opened,
    taken,
)
from ftlab.tabs.widgets import H, blank, this_page, warn

Given = tuple[tuple[str, str | int | float], ...]
"""A visitor's choices for the charts: (id of the choice, value of its control)."""

_SECTIONS = (share.build, serving.build)
# Further figures wait until the first screen is painted: both at once take twice as long.
_PAINTED = "() => new Promise((done) => setTimeout(done, 300))"
# The default sweep is prepared after the page has loaded, so that no open tab waits for it.
_AT_REST = "() => new Promise((done) => setTimeout(done, 1500))"
_FIRST_SCREENS = 16  # cached, so that a sweep that was shown before appears at once
_NO_SWEEP = blank(
    "No sweep to compare yet.",
    "Open Experiment, tick full fine-tuning and at least one other method, and press Launch. "
    "What the others save is worked out here.",
)


def build(context: AppContext, links: Links) -> None:
    """Builds the tab and its events."""
    store = context.store
    H(tour.tour_html(context.access.may_train))
    empty = H(_NO_SWEEP)
    with gr.Column(visible=False, elem_classes="ft-compare") as page:
        parts = build_layout()
        sections = [build_section(context) for build_section in _SECTIONS]
        build_legend()
    share.build_top(context, parts)
    by_hand = gr.State("")  # the sweep that the visitor chose; else the default is shown
    seen = gr.State("")  # digest of the sweep on the page
    due = gr.State(None)  # asks for the charts below the first screen of a sweep
    controls = list(parts.controls.values())
    views = FirstScreens(store)
    below = [*parts.further_outputs, *(part for section in sections for part in section.outputs)]

    def given(values: Sequence[Any]) -> Given:
        return read_given(list(parts.controls), values)

    def enter(
        asked: Asked[str] | None,
        chosen: str,
        shown: str | None,
        before: str,
        adapter: str | None,
        *values: Any,
    ) -> list[Any]:
        """Shows the sweep of the address or the chosen one, else the default one.

        Runs when the tab is opened and when an address asks for a sweep.
        """
        if is_being_answered(asked):
            return [gr.skip()] * len(shown_first)
        link = taken(asked)
        table = store.table()
        options = sweep_options(table)
        known = [value for _, value in options]
        if link and link not in known:
            warn(f"There is no sweep '{shorten(link, 60)}' here; another one is shown.")
        wanted = chosen if link is None else link
        wanted = wanted if wanted in known else ""
        sweep = wanted or default_sweep(table)
        nothing = [gr.skip()] * len(parts.outputs)
        if sweep is None:
            gone = [gr.HTML(visible=True), gr.Column(visible=False)]
            return [wanted, *gone, gr.skip(), "", None, *nothing]
        now = digest(table, sweep)
        page_updates = [
            wanted,
            gr.HTML(visible=False),
            gr.Column(visible=True),
            gr.Dropdown(choices=options, value=sweep),
            now,
        ]
        if now == before and not is_open(table, sweep):
            return [*page_updates, gr.skip(), *nothing]
        first = (
            views.show(sweep, now, adapter or None, given(values))
            if sweep == shown
            else views.show(sweep, now)
        )
        return [*page_updates, Asked(sweep), *parts.updates(first)]

    def choose_sweep(shown: str | None, *values: Any) -> list[Any]:
        data = _data(context, shown)
        if data is None:
            return [gr.skip()] * (3 + len(parts.outputs))
        now = digest(store.table(recent=True), data.sweep_id)
        first = views.show(data.sweep_id, now, None, given(values))
        return [data.sweep_id, now, Asked(data.sweep_id), *parts.updates(first)]

    def fill(due: Asked[str] | None, *values: Any) -> list[Any]:
        """Updates everything below the first screen, once, after the first screen is shown."""
        sweep = taken(due)
        data = _data(context, sweep) if sweep else None
        if data is None:
            return [gr.skip()] * len(below)
        spliced = [update for section in sections for update in section.show(data)]
        pictures = further(data, dict(given(values)))
        return [*parts.further_updates(pictures, runs_fold(data)), *spliced]

    def choose_adapter(shown: str | None, adapter: str | None) -> Any:
        data = _data(context, shown)
        return gr.skip() if data is None else headline(data, adapter)

    def choose_preference(shown: str | None, prefer: str | None) -> Any:
        data = _data(context, shown)
        if data is None or prefer not in CRITERIA:
            return gr.skip()
        return advice(data, cast(Preference, prefer))

    link = links.asked["sweep"]
    inputs = [link, by_hand, parts.sweep, seen, parts.adapter, *controls]
    shown_first = [by_hand, empty, page, parts.sweep, seen, due, *parts.outputs]
    # `select`, not `input`: gradio sends an option that is clicked twice as input.
    begun = [
        gr.on(
            [opened(), link.change], enter, inputs, shown_first, trigger_mode="always_last", **QUIET
        ),
        parts.sweep.select(
            choose_sweep, [parts.sweep, *controls], [by_hand, seen, due, *parts.outputs], **QUIET
        ),
    ]
    for first_screen in begun:
        # The second of two quick choices must not be dropped while the first is being drawn.
        painted = first_screen.then(
            fn=None, js=_PAINTED, api_visibility="private", trigger_mode="always_last"
        )
        painted.then(fill, [due, *controls], below, trigger_mode="always_last", **QUIET)
    at_rest = this_page().load(fn=None, js=_AT_REST, api_visibility="private")
    at_rest.then(views.warm, None, None, **QUIET)
    parts.adapter.input(choose_adapter, [parts.sweep, parts.adapter], parts.top, **QUIET)
    parts.prefer.input(choose_preference, [parts.sweep, parts.prefer], parts.advice, **QUIET)
    for chart in parts.charts:
        if chart.controls:
            _draw_anew(context, parts, chart)
    _lead_to_run(parts.runs, links)


class FirstScreens:
    """Cache of the first screens of sweeps that were shown."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._kept = lru_cache(_FIRST_SCREENS)(self._make)

    def show(self, sweep: str, now: str, adapter: str | None = None, given: Given = ()) -> View:
        """Returns the first screen, cached by `now`, the sweep's digest, and the choices."""
        return self._kept(sweep, now, adapter, given)

    def warm(self) -> None:
        """Prepares the default sweep, so that the tab shows it at once."""
        table = self._store.table()
        sweep = default_sweep(table)
        if sweep is not None:
            self.show(sweep, digest(table, sweep))

    def _make(self, sweep: str, now: str, adapter: str | None, given: Given) -> View:
        return view(sweep_data(self._store, sweep, recent=True), adapter, dict(given))


def read_given(ids: Sequence[str], values: Sequence[Any]) -> Given:
    """Returns the values of the controls with those ids; ignores all but text and numbers."""
    return tuple(
        (name, value)
        for name, value in zip(ids, values, strict=True)
        if isinstance(value, str | int | float)
    )


def digest(table: pd.DataFrame, sweep: str) -> str:
    """Returns a hash of the sweep's rows, which cover all that the page shows of an ended sweep."""
    rows = table[table["sweep_id"] == sweep]
    return hashlib.sha256(rows.to_csv().encode()).hexdigest()[:24]


def is_open(table: pd.DataFrame, sweep: str) -> bool:
    """True if runs of the sweep are still open: then the loss changes while the rows do not."""
    return bool(table["status"][table["sweep_id"] == sweep].isin(OPEN).any())


def _data(context: AppContext, sweep: str | None) -> SweepData | None:
    """Returns the sweep; `None`, with a warning in the corner of the page, if it is missing."""
    try:
        return sweep_data(context.store, sweep or "", recent=True)
    except FtlabError as error:
        warn(str(error))
        return None


def _draw_anew(context: AppContext, parts: Layout, chart: ChartParts) -> None:
    """Redraws a chart when one of its controls is used."""

    def redraw(shown: str | None, read: Any, *values: Any) -> list[Any]:
        data = _data(context, shown)
        if data is None or (chart.chart.read and read is None):
            return [gr.skip()] * len(chart.picture)
        ids = [choice.id for choice in chart.chart.choices]
        return drawn(picture_of(chart.chart, data, read, dict(read_given(ids, values))))

    # `select`, not `input`: gradio sends an option of a menu that is clicked twice as input.
    events = [
        control.select if isinstance(control, gr.Dropdown) else control.input
        for control in chart.controls
    ]
    gr.on(
        events,
        redraw,
        [parts.sweep, chart.read, *chart.controls],
        list(chart.picture),
        trigger_mode="always_last",
        **QUIET,
    )


def _lead_to_run(runs: gr.HTML, links: Links) -> None:
    """Opens a run in Results on a click on its point or button."""

    def lead(event: gr.EventData) -> tuple[Asked, Any]:
        return Asked(str(getattr(event, "run", ""))), gr.Tabs(selected=RESULTS)

    runs.select(lead, None, [links.asked["run"], links.tabs], **QUIET)


TAB = TabSpec("Compare", 3, build, address=("sweep",))
