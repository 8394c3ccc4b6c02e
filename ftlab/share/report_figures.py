"""The figures of a report: plotly draws them in the browser, from data in the file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ftlab.basics.words import some_names
from ftlab.charts.html import swatch
from ftlab.charts.savings import bars_sentence
from ftlab.charts.spec import ChartSpec, Facts, charts, worded
from ftlab.records.store import Run, SweepData
from ftlab.share.page import NOTHING, each, small_print

MOST_POINTS = 6_000
"""Points of all loss curves together; above this number, steps are skipped evenly."""

MOST_BYTES = 450_000
"""Limit for the data of all figures: what plotly itself leaves free in a file of 6 MB."""

_CLICK_HINT = re.compile(r"<br><i>click: [^<]*</i>")


@dataclass(frozen=True)
class ReportFigure:
    """`title` states what the figure shows, `note` what it leaves out; `height` is in pixels.

    `json` contains its data and layout, and no `<`.
    """

    title: str
    json: str
    height: int
    about: str
    note: str = ""


@dataclass(frozen=True)
class Figures:
    """`bars` are shown together; `notes` are sentences on what could not be drawn."""

    bars: tuple[ReportFigure, ...]
    others: tuple[ReportFigure, ...]
    notes: tuple[str, ...]


def scripts() -> tuple[str, str]:
    """The only scripts of a page with figures: plotly, and the one that draws with it."""
    return get_plotlyjs(), Path(__file__).with_name("figures.js").read_text(encoding="utf-8")


def figures_of(data: SweepData) -> Figures:
    """The figures of a sweep for which at least one run has data."""
    notes: list[str] = []
    readable = replace(data, runs=tuple(_readable(data.runs, notes)))
    bars: list[ReportFigure] = []
    others: list[ReportFigure] = []
    for chart in report_charts():
        (bars if chart.is_bar else others).extend(_drawn(chart, readable, notes))
    dropped = _too_large([*bars, *others])
    notes += [f"{part.about}: no figure, as its data are too large for a file to send."
              for part in dropped]  # fmt: skip
    return Figures(
        tuple(part for part in bars if part not in dropped),
        tuple(part for part in others if part not in dropped),
        tuple(notes),
    )


def report_charts() -> list[ChartSpec]:
    """The charts of a report, in their order."""
    placed = [(chart.report, chart) for chart in charts() if chart.report is not None]
    return [chart for _, chart in sorted(placed, key=lambda place: place[0])]


def _too_large(figures: Sequence[ReportFigure]) -> list[ReportFigure]:
    """The largest figures, which are dropped so that the others fit into `MOST_BYTES`."""
    by_size = sorted(figures, key=lambda part: len(part.json))
    room, dropped = MOST_BYTES, []
    for part in by_size:
        room -= len(part.json)
        if room < 0:
            dropped.append(part)
    return dropped


def _drawn(chart: ChartSpec, data: SweepData, notes: list[str]) -> list[ReportFigure]:
    """The figure, or a note that no run has its data."""
    read, every = chart.read(data) if chart.read else None, 1
    if isinstance(read, pd.DataFrame):
        read, every = thinned(read)
    facts = Facts(data.table, read)
    name, drawn = worded(chart.name, facts), chart.drawn(facts)
    if drawn.rows.empty:
        if not chart.is_extra:
            count = len(data.table)
            notes.append(f"{name}: no figure, as {_none_of(count)} what it shows.")
        return []
    figure = chart.figure(facts)
    return [
        ReportFigure(
            chart.finding(facts),
            figure_json(figure),
            int(figure.layout.height or 300),
            name + (f", one step in {every}" if every > 1 else ""),
            " ".join(filter(None, [drawn.left_out, drawn.unlike])),
        )
    ]


def _readable(runs: Iterable[Run], notes: list[str]) -> Iterator[Run]:
    """The runs with readable losses; adds a note on each of the others."""
    for run in runs:
        try:
            run.directory.metrics()
        except OSError as error:
            notes.append(f"The losses of {run.run_id} cannot be read ({error.strerror}).")
        else:
            yield run


def _none_of(count: int) -> str:
    return "the one run lacks" if count == 1 else f"all {count:,} runs lack"


def figures_section(figures: Figures, table: pd.DataFrame, sweep_id: str) -> Markup:
    """The section's HTML; the page must run `scripts()`."""
    bars = NOTHING.join(_figure(part, sweep_id, "h4") for part in figures.bars)
    if bars:
        words = small_print(f"{bars_sentence(table)}.")
        bars = Markup('<h3>What it costs</h3>{}<div class="bars">{}</div>').format(words, bars)
    others = NOTHING.join(_figure(part, sweep_id, "h3") for part in figures.others)
    return Markup('<h2>Figures</h2>{}{}<div class="figs">{}</div>{}').format(
        _key(table), bars, others, small_print(*figures.notes)
    )


def figure_json(figure: go.Figure) -> str:
    """Data and layout as JSON that is safe inside HTML: it contains no `<`."""
    whole = json.loads(figure.to_json())
    for trace in whole["data"]:
        trace.pop("customdata", None)  # run ids, which only the app can open
        texts = trace.get("hovertext")
        if isinstance(texts, list):
            trace["hovertext"] = [
                _CLICK_HINT.sub("", text) if isinstance(text, str) else text for text in texts
            ]
    kept = {"data": whole["data"], "layout": whole["layout"]}
    return json.dumps(kept, separators=(",", ":")).replace("<", "\\u003c")


def thinned(points: pd.DataFrame, most: int = MOST_POINTS) -> tuple[pd.DataFrame, int]:
    """At most about `most` points, and n if every n-th step is kept; keeps the last step."""
    every = math.ceil(len(points) / most) if len(points) else 1
    if every <= 1:
        return points, 1
    place = points.groupby("run_id", sort=False).cumcount()
    last = ~points["run_id"].duplicated(keep="last")
    return points[(place % every == 0) | last], every


def _figure(part: ReportFigure, sweep_id: str, heading: str) -> Markup:
    about = part.about if part.about != part.title else ""
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"ftlab {part.about} {sweep_id}").strip("-")
    return Markup(
        '<figure class="fig"><{}>{}</{}><div class="plot" role="group" aria-label="{}" '
        'data-name="{}" style="height:{}px">The figure is drawn by a script in this file.</div>'
        '<script type="application/json">{}</script>{}</figure>'
    ).format(
        Markup(heading),
        part.title,
        Markup(heading),
        f"{part.about}. {part.title}" if about else part.title,
        name,
        part.height,
        Markup(part.json),
        small_print(about, part.note),
    )


def _key(table: pd.DataFrame) -> Markup:
    """The legend: the colour of each method, with its variants."""
    done = table[table["status"] == "done"]
    names = done.groupby("method", sort=False)["variant"].unique()
    items = (
        (Markup(swatch(str(method))), some_names(list(variants)))
        for method, variants in names.items()
    )
    return Markup('<p class="key">{}</p>').format(each("<span>{}{}</span>", items))
