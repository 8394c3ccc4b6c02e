"""The figures of a report: drawn by plotly in the reader's browser, from data in the file."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ftlab.charts.forgetting import FORGETTING_NEEDED, forgetting_figure, forgetting_finding
from ftlab.charts.grouping import left_out, left_out_line, unlike_line
from ftlab.charts.loss import (
    height_for,
    loss_figure,
    loss_finding,
    loss_left_out,
    loss_likeness,
)
from ftlab.charts.loss_points import loss_points
from ftlab.charts.memory import (
    ANATOMY_NEEDED,
    PHASES_NEEDED,
    anatomy_figure,
    anatomy_finding,
    phases_figure,
    phases_finding,
)
from ftlab.charts.pareto import pareto_figure, pareto_finding
from ftlab.charts.savings import (
    BAR_NAMES,
    full_row,
    savings_figure,
    savings_finding,
    variant_means,
)
from ftlab.charts.score_steps import (
    quality_points,
    score_steps_figure,
    score_steps_finding,
    steps_likeness,
)
from ftlab.charts.score_time import quality_measure, score_time_figure, score_time_finding
from ftlab.html import swatch
from ftlab.runs.metrics import HEADLINES, METRICS, MetricSpec
from ftlab.runs.spec import CURVE_EXAMPLES
from ftlab.runs.sweep_data import SweepData
from ftlab.words import plural

MOST_POINTS = 6_000
"""Points of all loss curves together; beyond it steps are left out evenly."""

MOST_BYTES = 450_000
"""Of the data of all figures: what plotly itself leaves free in a file of 6 MB."""

_LOSS_HEIGHT = 330
_CLICK_HINT = re.compile(r"<br><i>click: [^<]*</i>")
_EMPTY = Markup("")


@dataclass(frozen=True)
class ReportFigure:
    """`title` states what the figure shows, `note` what is left out of it; `height` in pixels.

    `json` holds its data and layout, and no `<`.
    """

    title: str
    json: str
    height: int
    about: str
    note: str = ""


@dataclass(frozen=True)
class Figures:
    """`bars` belong together; `notes` are sentences on what could not be drawn."""

    bars: tuple[ReportFigure, ...]
    others: tuple[ReportFigure, ...]
    notes: tuple[str, ...]


def scripts() -> tuple[str, str]:
    """Plotly and the script that draws with it: what a page with figures runs, and nothing else."""
    return get_plotlyjs(), Path(__file__).with_name("figures.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Recipe:
    """A figure of the table, made of runs that have the measures `keys`."""

    name: str
    keys: tuple[str, ...]
    title: Callable[[pd.DataFrame], str]
    figure: Callable[[pd.DataFrame], go.Figure]


def figures_of(data: SweepData) -> Figures:
    """The figures of a sweep for which at least one run has the measures."""
    notes: list[str] = []
    quality = quality_measure(data.table)
    pareto, over_time, forgetting, phases, anatomy = (
        _drawn(recipe, data.table, notes) for recipe in _recipes(quality)
    )
    bars = [part for recipe in _bar_recipes() for part in _drawn(recipe, data.table, notes)]
    curves = [*_loss(data, notes), *_over_steps(data)]
    others = [*pareto, *curves, *over_time, *forgetting, *phases, *anatomy]
    dropped = _too_large([*bars, *others])
    notes += [f"{part.about}: no figure, as its data are too large for a file to send."
              for part in dropped]  # fmt: skip
    return Figures(
        tuple(part for part in bars if part not in dropped),
        tuple(part for part in others if part not in dropped),
        tuple(notes),
    )


def _too_large(figures: Sequence[ReportFigure]) -> list[ReportFigure]:
    """The largest ones, as many as must go for the rest to take `MOST_BYTES`."""
    by_size = sorted(figures, key=lambda part: len(part.json))
    room, dropped = MOST_BYTES, []
    for part in by_size:
        room -= len(part.json)
        if room < 0:
            dropped.append(part)
    return dropped


def _bar_recipes() -> list[_Recipe]:
    return [
        _Recipe(
            BAR_NAMES[key],
            (key,),
            partial(savings_finding, metric=METRICS[key]),
            partial(savings_figure, metric=METRICS[key]),
        )
        for key in HEADLINES
    ]


def _recipes(quality: MetricSpec) -> tuple[_Recipe, _Recipe, _Recipe, _Recipe, _Recipe]:
    """Pareto front, quality over time, gain and forgetting, peaks by phase, what the peak is of."""
    memory = METRICS["net_peak_memory_bytes"]
    return (
        _Recipe(
            f"{quality.label} against net peak memory",
            (memory.key, quality.key),
            partial(pareto_finding, x=memory, y=quality),
            partial(pareto_figure, x=memory, y=quality),
        ),
        _Recipe(
            f"{quality.label} against training time",
            ("train_seconds", quality.key),
            score_time_finding,
            score_time_figure,
        ),
        _Recipe(
            "Gain against forgetting",
            FORGETTING_NEEDED,
            forgetting_finding,
            forgetting_figure,
        ),
        _Recipe("Net peak memory by phase", PHASES_NEEDED, phases_finding, phases_figure),
        _Recipe(
            "What the peak is made of",
            ANATOMY_NEEDED,
            anatomy_finding,
            anatomy_figure,
        ),
    )


def _drawn(recipe: _Recipe, table: pd.DataFrame, notes: list[str]) -> list[ReportFigure]:
    """The figure, or a note that no run has what it shows."""
    rows, count = left_out(table, *recipe.keys)
    if rows.empty:
        notes.append(f"{recipe.name}: no figure, as {_none_of(count)} what it shows.")
        return []
    lines = left_out_line(table, *recipe.keys), unlike_line(table, *recipe.keys)
    note = " ".join(filter(None, lines))
    return [_report_figure(recipe.title(table), recipe.figure(table), recipe.name, note)]


def _report_figure(title: str, figure: go.Figure, about: str, note: str) -> ReportFigure:
    return ReportFigure(title, figure_json(figure), int(figure.layout.height or 300), about, note)


def _none_of(count: int) -> str:
    return "the one run lacks" if count == 1 else f"all {count:,} runs lack"


def figures_section(figures: Figures, table: pd.DataFrame, sweep_id: str) -> Markup:
    """The section's HTML; the page must run `scripts()`."""
    full = full_row(variant_means(table))
    relative = (
        "Absolute values: no full fine-tuning run is done."
        if full is None
        else f"Relative to {full['variant']} = 1, with the absolute values."
    )
    bars = _EMPTY.join(_figure(part, sweep_id, "h4") for part in figures.bars)
    costs = (
        Markup('<h3>What it costs</h3><p class="meta">{}</p><div class="bars">{}</div>').format(
            relative, bars
        )
        if figures.bars
        else _EMPTY
    )
    others = _EMPTY.join(_figure(part, sweep_id, "h3") for part in figures.others)
    notes = _EMPTY.join(Markup('<p class="meta">{}</p>').format(note) for note in figures.notes)
    return Markup('<h2>Figures</h2>{}{}<div class="figs">{}</div>{}').format(
        _key(table), costs, others, notes
    )


def figure_json(figure: go.Figure) -> str:
    """Data and layout as JSON that may stand in HTML: it holds no `<`."""
    whole = json.loads(figure.to_json())
    for trace in whole["data"]:
        trace.pop("customdata", None)  # run ids, which only the page can open
        texts = trace.get("hovertext")
        if isinstance(texts, list):
            trace["hovertext"] = [
                _CLICK_HINT.sub("", text) if isinstance(text, str) else text for text in texts
            ]
    kept = {"data": whole["data"], "layout": whole["layout"]}
    return json.dumps(kept, separators=(",", ":")).replace("<", "\\u003c")


def thinned(points: pd.DataFrame, most: int = MOST_POINTS) -> tuple[pd.DataFrame, int]:
    """At most about so many points, and the n of "every n-th step"; the last step is kept."""
    every = math.ceil(len(points) / most) if len(points) else 1
    if every <= 1:
        return points, 1
    place = points.groupby("run_id", sort=False).cumcount()
    last = ~points["run_id"].duplicated(keep="last")
    return points[(place % every == 0) | last], every


def _loss(data: SweepData, notes: list[str]) -> list[ReportFigure]:
    runs = []
    for run in data.runs:
        try:
            run.directory.metrics()
        except OSError as error:
            notes.append(f"The losses of {run.run_id} cannot be read ({error.strerror}).")
        else:
            runs.append(run)
    points = loss_points(replace(data, runs=tuple(runs)))
    if points.empty:
        notes.append(f"Training loss: no figure, as {_none_of(len(data.table))} it.")
        return []
    points, every = thinned(points)
    missing = loss_left_out(points, "step", data.table)
    unlike = loss_likeness(points, "step", data.table)
    note = f"{plural(missing, 'run')} left out: no loss recorded." if missing else ""
    about = "Training loss by step" + (f", one step in {every}" if every > 1 else "")
    return [
        _report_figure(
            loss_finding(data.table),
            loss_figure(points, height=height_for(points, _LOSS_HEIGHT), unlike=unlike),
            about,
            " ".join(filter(None, [note, unlike.sentence])),
        )
    ]


def _over_steps(data: SweepData) -> list[ReportFigure]:
    """The score over the steps; none where nothing was evaluated between them."""
    points = quality_points(data)
    if points.empty:
        return []
    unlike = steps_likeness(points, data.table)
    figure = score_steps_figure(points, height=_LOSS_HEIGHT, unlike=unlike)
    about = f"Score by step, on {CURVE_EXAMPLES} held-out examples at most"
    return [_report_figure(score_steps_finding(points), figure, about, unlike.sentence)]


def _figure(part: ReportFigure, sweep_id: str, heading: str) -> Markup:
    about = part.about if part.about != part.title else ""
    below = [Markup('<p class="meta">{}</p>').format(text) for text in (about, part.note) if text]
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
        _EMPTY.join(below),
    )


def _key(table: pd.DataFrame) -> Markup:
    """Which colour is which method, as text."""
    done = table[table["status"] == "done"]
    names: dict[str, list[str]] = {}
    for row in done.to_dict("records"):
        variants = names.setdefault(str(row["method"]), [])
        if row["variant"] not in variants:
            variants.append(str(row["variant"]))
    items = _EMPTY.join(
        Markup("<span>{}{}</span>").format(Markup(swatch(method)), _some(variants))
        for method, variants in names.items()
    )
    return Markup('<p class="key">{}</p>').format(items)


def _some(names: Sequence[Any], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
