"""The charts of the Compare tab with what stands around them, as plain functions.

A picture is one chart: its heading says what the numbers show, where they come from, and has the
buttons for an image of it; a line below says which runs it leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.facts import by_variant
from ftlab.charts.savings import bars_sentence
from ftlab.charts.spec import ChartSpec, Drawn, Facts, charts, worded
from ftlab.html import origin_chip
from ftlab.runs.sweep_data import SweepData
from ftlab.ui.html import chip, escape, heading, named, note_html, plural

_HIGHEST = 640
FIRST_ROW = 1
"""Of the charts: what fills the first screen, beside the bars."""


@dataclass(frozen=True)
class Picture:
    """A chart of a sweep with the HTML above and below it.

    `facts` are what it is drawn from, so that it can be drawn anew.
    """

    heading: str
    figure: go.Figure
    note: str
    facts: Facts


@dataclass(frozen=True)
class BarsView:
    """The bar charts with a title each, their common heading, and the line below all."""

    heading: str
    titles: tuple[str, ...]
    figures: tuple[go.Figure, ...]
    note: str


def bar_charts() -> list[ChartSpec]:
    """The bars of the Compare tab, in their order."""
    shown = [chart for chart in charts() if chart.is_bar and chart.compare]
    return sorted(shown, key=lambda chart: chart.report or 0)


def chart_rows() -> dict[int, list[ChartSpec]]:
    """The other charts of the Compare tab, by row from the top, each row from the left."""
    placed = [
        (chart.compare.row, chart.compare.column, chart)
        for chart in charts()
        if chart.compare and not chart.is_bar
    ]
    rows: dict[int, list[ChartSpec]] = {}
    for row, _, chart in sorted(placed, key=lambda place: place[:2]):
        rows.setdefault(row, []).append(chart)
    return rows


def bars_view(data: SweepData) -> BarsView:
    """What each variant costs, against full fine-tuning."""
    facts = Facts(data.table)
    bars = bar_charts()
    return BarsView(
        heading("What it costs", origin_chip(data.origin), sub=bars_sentence(data.table)),
        tuple(bar_title(chart.id, chart.finding(facts)) for chart in bars),
        tuple(chart.figure(facts) for chart in bars),
        _note_of_bars({worded(chart.name, facts): chart.drawn(facts) for chart in bars}),
    )


def bar_title(key: str, title: str) -> str:
    """HTML: what stands above the bars of a measure."""
    return f'<div class="named"><h4>{escape(title)}</h4>{image_buttons(key, title)}</div>'


def read_picture(chart: ChartSpec, data: SweepData, given: Mapping[str, Any]) -> Picture | None:
    """The chart of a sweep; `None` where it hides, as no run has what it shows.

    `given` is what a visitor chose, by the id of the choice.
    """
    facts = Facts(data.table, chart.read(data) if chart.read else None)
    if chart.hides and chart.drawn(facts).rows.empty:
        return None
    return picture_of(chart, data, facts.read, given)


def picture_of(chart: ChartSpec, data: SweepData, read: Any, given: Mapping[str, Any]) -> Picture:
    """The chart with what it has read of the sweep."""
    chosen = {choice.id: choice.value(given.get(choice.id), data.table) for choice in chart.choices}
    facts = Facts(data.table, read, chosen, _height(chart, data.table))
    words = chart.finding(facts)
    buttons = image_buttons(worded(chart.file, facts) or chart.id, words)
    sub = worded(chart.reading, facts)
    return Picture(
        heading(words, origin_chip(data.origin), buttons, sub=sub),
        chart.figure(facts),
        chart.legend + notes_html(chart.drawn(facts)),
        facts,
    )


def _height(chart: ChartSpec, table: pd.DataFrame) -> int:
    """Least height of the figure: in the first row it stands beside the two rows of bars."""
    assert chart.compare is not None, f"{chart.id} has no place on the Compare tab"
    if chart.compare.row != FIRST_ROW:
        return chart.compare.height
    return max(chart.compare.height, min(_HIGHEST, 100 + 54 * table["variant"].nunique()))


def notes_html(drawn: Drawn) -> str:
    """HTML: which runs a chart leaves out, and whether the others compare."""
    return note_html(drawn.left_out) + unlike_html(drawn.unlike)


def runs_fold(data: SweepData) -> str:
    """HTML: a button for every run, for those who cannot click a point of a figure."""
    rows = "".join(
        f"<dt>{named(group.method, group.variant)}</dt>"
        f"<dd>{''.join(_run_button(run) for run in group.rows)}</dd>"
        for group in by_variant(data.table, "run_id")
    )
    count = plural(len(data.table), "run")
    return (
        f'<details class="runs ft-opener"><summary>Open one of the {count}</summary>'
        f"<dl>{rows}</dl></details>"
    )


def image_buttons(name: str, title: str) -> str:
    """HTML: buttons that give an image of the figure in the same `.ft-picture`.

    `assets/figures.js` draws it with the title; the file's name says figure and, from the
    `data-sweep` of the page, sweep.
    """
    given = f'data-title="{escape(title)}" data-file="ftlab-{escape(name.replace("_", "-"))}"'
    buttons = "".join(
        f'<button class="ghost" data-image="{kind}" {given} '
        f'aria-label="{kind.upper()} of: {escape(title)}">{kind.upper()}</button>'
        for kind in ("png", "svg")
    )
    return f'<span class="images">{buttons}</span>'


def reading_legend() -> str:
    """HTML: how the kinds of numbers are marked."""
    parts = [
        (chip("measured", "measured"), "by this app, in its runs folder"),
        (chip("recorded", "recorded"), "comes with ftlab, run on another machine"),
        (chip("imported", "imported"), "published by others, under their conditions"),
        (chip("predicted", "predicted"), "computed before the run"),
    ]
    words = "".join(f"<span>{mark} {escape(what)}</span>" for mark, what in parts)
    return f'<div class="legend"><span>How to read a number</span>{words}</div>'


def _run_button(run: Mapping[str, Any]) -> str:
    seed = f"seed {run['seed']}"
    return (
        f'<button class="ghost" data-open="{escape(run["run_id"])}" '
        f'aria-label="Open {escape(run["variant"])}, {escape(seed)}">{escape(seed)}</button>'
    )


def _note_of_bars(drawn: Mapping[str, Drawn]) -> str:
    """HTML: what is left out of each bar chart by its name; once if it is the same of all."""
    left_out = {name: of.left_out for name, of in drawn.items()}
    unlike = {name: of.unlike for name, of in drawn.items()}
    return "".join(
        [note_html(words) for words in _said_once(left_out)]
        + [unlike_html(words) for words in _said_once(unlike)]
    )


def _said_once(lines: Mapping[str, str]) -> list[str]:
    if len(set(lines.values())) == 1:
        return [next(iter(lines.values()))]
    return [f"{name}: {words}" for name, words in lines.items() if words]


def unlike_html(words: str) -> str:
    """HTML: the line below a figure that says why its runs do not compare; empty without words."""
    return f'<p class="meta unlike">{escape(words)}</p>' if words else ""
