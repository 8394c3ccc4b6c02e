"""The components of the Compare tab; `tab` adds the event handlers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ftlab.charts.spec import Amount, ChartSpec, Choice
from ftlab.records.recommendation import CRITERIA, Preference
from ftlab.records.store import SweepData
from ftlab.records.table import to_table
from ftlab.tabs.compare.tour import TOUR_AGAIN
from ftlab.tabs.compare.view import FIRST_ROW, Picture, View, bar_charts, chart_rows, reading_legend
from ftlab.tabs.widgets import H, live, small_button

PREFERRED: Preference = "memory"
_RUNS_BELOW = 3  # the buttons that open a run come after this row of charts
_OPEN_RUN = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-open]');
  if (button) trigger('select', {run: button.dataset.open});
});
element.addEventListener('ft-open', (event) => trigger('select', {run: event.detail}));"""


@dataclass(frozen=True)
class Section:
    """Components of one section; `show` returns one update per component for a sweep.

    Compare calls `show` when the tab is opened and when another sweep is chosen.
    """

    outputs: tuple[Any, ...]
    show: Callable[[SweepData], list[Any]]


@dataclass(frozen=True)
class ChartParts:
    """The components of a chart: its container, a control for each of its choices, its picture.

    `read` stores the data that the chart has read from the sweep, for redrawing.
    """

    chart: ChartSpec
    sheet: gr.Column
    controls: tuple[Any, ...]
    read: gr.State
    picture: tuple[gr.HTML, gr.Plot, gr.HTML]

    @property
    def outputs(self) -> list[Any]:
        return [self.sheet, *self.controls, self.read, *self.picture]

    def updates(self, shown: Picture | None) -> list[Any]:
        """Returns one update per output; without a picture the chart is hidden."""
        if shown is None:
            return [gr.Column(visible=False), *[gr.skip()] * (len(self.outputs) - 1)]
        return [
            gr.Column(visible=True) if self.chart.hides else gr.skip(),
            *(_options(choice, shown) for choice in self.chart.choices),
            shown.facts.read if self.chart.choices else None,
            *drawn(shown),
        ]


def drawn(shown: Picture) -> list[Any]:
    """Returns the updates of a picture's components."""
    return [shown.heading, shown.figure, shown.note]


def _options(choice: Choice | Amount, shown: Picture) -> Any:
    """Returns the update of a control: menus get the options of the sweep, others stay."""
    if not isinstance(choice, Choice) or not choice.is_menu:
        return gr.skip()
    options = list(choice.options(shown.facts.table))
    return gr.Dropdown(choices=options, value=shown.facts.chosen[choice.id])


@dataclass(frozen=True)
class Layout:
    """The tab's components, from top to bottom. `runs` also receives clicks on points of figures.

    `first` are the charts of the first screen, `further` those below it.
    """

    sweep: gr.Dropdown
    card: gr.Button
    report: gr.Button
    link: gr.Button
    top: gr.HTML
    adapter: gr.Radio
    fair: gr.HTML
    advice: gr.HTML
    prefer: gr.Radio
    bars_heading: gr.HTML
    bar_titles: tuple[gr.HTML, ...]
    bars: tuple[gr.Plot, ...]
    bars_note: gr.HTML
    first: tuple[ChartParts, ...]
    further: tuple[ChartParts, ...]
    runs: gr.HTML

    @property
    def charts(self) -> tuple[ChartParts, ...]:
        return (*self.first, *self.further)

    @property
    def controls(self) -> dict[str, Any]:
        """The controls of all charts by the id of their choice."""
        return {
            choice.id: control
            for parts in self.charts
            for choice, control in zip(parts.chart.choices, parts.controls, strict=True)
        }

    @property
    def outputs(self) -> list[Any]:
        """The components of the first screen."""
        charts = [output for parts in self.first for output in parts.outputs]
        return [
            self.card, self.report, self.top, self.adapter, self.fair, self.advice, self.prefer,
            self.bars_heading,
            *self.bar_titles, *self.bars, self.bars_note, *charts,
        ]  # fmt: skip

    @property
    def further_outputs(self) -> list[Any]:
        """The components below the first screen."""
        return [*(output for parts in self.further for output in parts.outputs), self.runs]

    def updates(self, shown: View) -> list[Any]:
        """Returns one update per output, in the order of `outputs`."""
        several = len(shown.adapters) > 1
        return [
            *[gr.Button(interactive=shown.has_results)] * 2,
            shown.headline,
            gr.Radio(choices=shown.adapters, value=shown.adapter, visible=several),
            shown.fairness + shown.unfinished,
            shown.advice,
            gr.Radio(value=PREFERRED),
            shown.bars.heading, *shown.bars.titles, *shown.bars.figures, shown.bars.note,
            *_updates(self.first, shown.pictures),
        ]  # fmt: skip

    def further_updates(self, pictures: Sequence[Picture | None], runs: str) -> list[Any]:
        """Returns one update per output, in the order of `further_outputs`."""
        return [*_updates(self.further, pictures), runs]


def _updates(charts: Sequence[ChartParts], pictures: Sequence[Picture | None]) -> list[Any]:
    return [
        update
        for parts, picture in zip(charts, pictures, strict=True)
        for update in parts.updates(picture)
    ]


def build_layout() -> Layout:
    """Builds the components of the tab, from top to bottom."""
    with gr.Row(elem_classes="ft-tools ft-choose"):
        sweep = live(
            gr.Dropdown, [], label="Sweep", show_label=False, container=False, scale=0,
            min_width=640, elem_id="compare-sweep",
        )  # fmt: skip
        card, report, link = (
            small_button(label, 96, elem_id=f"compare-{label.split()[-1].lower()}")
            for label in ("Card", "Report", "Copy link")
        )
    with gr.Column(elem_classes="ft-sheet"):
        top = H()
        adapter = live(
            gr.Radio, [], label="Method in the headline", show_label=False, container=False,
            elem_classes="ft-seg",
        )  # fmt: skip
        fair = H()
    with gr.Column(elem_classes="ft-sheet"):
        advice = H()
        prefer = live(
            gr.Radio, [(one.words, name) for name, one in CRITERIA.items()], value=PREFERRED,
            label="Where no score decides, prefer", elem_classes="ft-seg",
            elem_id="compare-prefer",
        )  # fmt: skip
    rows = chart_rows()
    with gr.Row(equal_height=True):
        with _sheet(visible=True):
            bars_heading, titles, bars, bars_note = _bars()
        first = tuple(_chart(chart) for chart in rows.pop(FIRST_ROW))
    above = _rows([rows[row] for row in rows if row <= _RUNS_BELOW])
    with gr.Column(elem_classes="ft-sheet"):
        runs = H(js_on_load=_OPEN_RUN)
    below = _rows([rows[row] for row in rows if row > _RUNS_BELOW])
    return Layout(
        sweep, card, report, link, top, adapter, fair, advice, prefer, bars_heading, titles, bars,
        bars_note, first, above + below, runs,
    )  # fmt: skip


def build_legend() -> None:
    """Builds the last line of the tab: the legend, and what shows the tour again."""
    H(reading_legend() + TOUR_AGAIN)


def _rows(rows: Sequence[Sequence[ChartSpec]]) -> tuple[ChartParts, ...]:
    parts = []
    for charts in rows:
        with gr.Row(equal_height=True):
            parts += [_chart(chart) for chart in charts]
    return tuple(parts)


def _sheet(visible: bool) -> gr.Column:
    """Builds the container of a chart; two are side by side if the page is wide enough."""
    return gr.Column(scale=1, min_width=340, elem_classes="ft-sheet ft-picture", visible=visible)


def _bars() -> tuple[gr.HTML, tuple[gr.HTML, ...], tuple[gr.Plot, ...], gr.HTML]:
    head = H()
    titles, bars = [], []
    with gr.Row(elem_classes="ft-small"):
        for _ in bar_charts():
            with gr.Column(min_width=250, elem_classes="ft-picture"):
                titles.append(H())
                bars.append(_plot())
    return head, tuple(titles), tuple(bars), H()


def _chart(chart: ChartSpec) -> ChartParts:
    """Builds the container of the chart with empty components."""
    with _sheet(visible=not chart.hides) as sheet:
        head = H()
        controls: tuple[Any, ...] = ()
        if chart.choices:
            with gr.Row(elem_classes="ft-tools ft-axes"):
                controls = tuple(map(_control, chart.choices))
        picture = (head, _plot(), H())
    return ChartParts(chart, sheet, controls, gr.State(None), picture)


def _control(choice: Choice | Amount) -> Any:
    name = f"compare-{choice.id}"
    if isinstance(choice, Amount):
        return live(
            gr.Slider, 1, choice.most, value=1, step=1, label=choice.label, elem_id=name,
            min_width=160, buttons=[],
        )  # fmt: skip
    options = list(choice.options(to_table([])))
    if choice.is_menu:
        return live(gr.Dropdown, options, label=choice.label, min_width=120, elem_id=name)
    return live(
        gr.Radio, options, value=choice.usual[0], label=choice.label, show_label=False,
        container=False, elem_classes="ft-seg", elem_id=name, scale=0, min_width=220,
    )  # fmt: skip


def _plot() -> gr.Plot:
    return gr.Plot(show_label=False, container=False, elem_classes="ft-fig ft-open")
