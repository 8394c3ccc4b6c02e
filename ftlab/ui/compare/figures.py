"""The figures of the Compare tab with what stands around them, as plain functions.

A picture is one figure: its heading says what the numbers show, where they come from, and has the
buttons for an image of it; a line below says which runs it leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.axes import measure_name
from ftlab.charts.grouping import by_variant, left_out, left_out_line, unlike_line
from ftlab.charts.loss import (
    XAxis,
    height_for,
    loss_figure,
    loss_finding,
    loss_left_out,
    loss_likeness,
)
from ftlab.charts.memory import (
    ANATOMY_COLOURS,
    ANATOMY_NEEDED,
    PHASES_NEEDED,
    anatomy_figure,
    anatomy_finding,
    phases_figure,
    phases_finding,
)
from ftlab.charts.pareto import pareto_figure, pareto_finding
from ftlab.charts.savings import BAR_NAMES, savings_figure, savings_finding
from ftlab.charts.score_time import quality_measure, score_time_figure, score_time_finding
from ftlab.html import origin_chip
from ftlab.runs.metrics import HEADLINES, METRICS
from ftlab.runs.sweep_data import SweepData
from ftlab.ui.compare.view import bars_sentence
from ftlab.ui.html import chip, escape, heading, named, plural

_HEIGHT = 348  # of the figures that stand side by side
_HIGHEST = 640
_CONTROLS = 50  # height of those of the loss, beside a figure that has none
_X_CHOICES = ("net_peak_memory_bytes", "train_seconds", "trainable_params", "adapter_bytes")
_Y_CHOICES = ("score_after", "eval_loss_after")


@dataclass(frozen=True)
class Picture:
    """A figure with the HTML above and below it."""

    heading: str
    figure: go.Figure
    note: str = ""


@dataclass(frozen=True)
class BarsView:
    """The four bar figures with a title each, their common heading, and the line below all."""

    heading: str
    titles: tuple[str, ...]
    figures: tuple[go.Figure, ...]
    note: str


def bars_view(data: SweepData) -> BarsView:
    """What each variant costs, against full fine-tuning."""
    table = data.table
    return BarsView(
        heading("What it costs", origin_chip(data.origin), sub=bars_sentence(table)),
        tuple(bar_title(key, savings_finding(table, METRICS[key])) for key in HEADLINES),
        tuple(savings_figure(table, METRICS[key]) for key in HEADLINES),
        _lines_of_bars(left_out_line, table, note_html)
        + _lines_of_bars(unlike_line, table, unlike_html),
    )


def bar_title(key: str, title: str) -> str:
    """HTML: what stands above the bars of a measure."""
    return f'<div class="named"><h4>{escape(title)}</h4>{image_buttons(key, title)}</div>'


def measure_choices(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(name, key) of every measure that some run of the table has; of all where none has any."""
    measured = [key for key in METRICS if not left_out(table, key)[0].empty]
    return [(measure_name(METRICS[key]).capitalize(), key) for key in measured or METRICS]


def chosen_measures(table: pd.DataFrame, x: str | None, y: str | None) -> tuple[str, str]:
    """The measures of the front: the chosen ones as far as the runs have them, else the usual."""
    known = [key for _, key in measure_choices(table)]

    def first(chosen: str | None, usual: Sequence[str]) -> str:
        wanted = [key for key in (chosen, *usual, *known) if key in known]
        return str(wanted[0]) if wanted else usual[0]

    return first(x, _X_CHOICES), first(y, _Y_CHOICES)


def pareto_picture(data: SweepData, x: str, y: str) -> Picture:
    """The front over two measures, by their keys."""
    measures = METRICS[x], METRICS[y]
    words = pareto_finding(data.table, *measures)
    sub = "Dashed: the front, those that none beats. Point: mean, bars: range of the seeds"
    return Picture(
        picture_heading(words, "pareto", data, sub),
        pareto_figure(data.table, *measures, _beside_bars(data.table)),
        picture_notes(data.table, x, y),
    )


def _beside_bars(table: pd.DataFrame) -> int:
    """Height of the figure that stands beside the two rows of bars."""
    return max(_HEIGHT, min(_HIGHEST, 100 + 54 * table["variant"].nunique()))


def loss_picture(data: SweepData, points: pd.DataFrame, x: XAxis, smoothing: int) -> Picture:
    """The loss curves over steps, tokens or seconds."""
    words = loss_finding(data.table)
    several = data.table.groupby("variant").size().max() > 1 if len(data.table) else False
    sub = f"Training loss by {x}"
    sub += f", running mean of {smoothing} steps" if smoothing > 1 else ""
    sub += "; mean and range of the seeds" if several else ""
    count = loss_left_out(points, x, data.table)
    unlike = loss_likeness(points, x, data.table)
    what = "loss" if x == "step" else x
    missing = f"{plural(count, 'run')} left out: no {what} recorded." if count else ""
    return Picture(
        picture_heading(words, f"loss-by-{x}", data, sub),
        loss_figure(points, x, smoothing, height_for(points, _HEIGHT), unlike=unlike),
        note_html(missing) + unlike_html(unlike.sentence),
    )


def score_time_picture(data: SweepData) -> Picture:
    """What was reached against the time that it took."""
    metric = quality_measure(data.table)
    words = score_time_finding(data.table)
    sub = "Dotted: the untouched model. Point: mean, bars: range of the seeds"
    return Picture(
        picture_heading(words, "score-by-time", data, sub),
        score_time_figure(data.table, _HEIGHT + _CONTROLS),
        picture_notes(data.table, "train_seconds", metric.key),
    )


def phases_picture(data: SweepData) -> Picture:
    """Peak memory by phase."""
    sub = "Net peak memory by phase, above the process without a model; means of the seeds"
    return Picture(
        picture_heading(phases_finding(data.table), "memory-by-phase", data, sub),
        phases_figure(data.table),
        picture_notes(data.table, *PHASES_NEEDED),
    )


def anatomy_picture(data: SweepData) -> Picture:
    """What the peak was made of."""
    keys = "".join(
        f'<span><i class="sw" style="--c:{colour}"></i>{part}</span>'
        for part, colour in ANATOMY_COLOURS.items()
    )
    legend = (
        f'<p class="meta keys">{keys}<span><i class="tick"></i>net peak that was measured</span>'
        "<span>narrow, hatched: predicted</span></p>"
    )
    return Picture(
        picture_heading(anatomy_finding(data.table), "memory-anatomy", data, "Means of the seeds"),
        anatomy_figure(data.table),
        legend + picture_notes(data.table, *ANATOMY_NEEDED),
    )


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


def picture_heading(words: str, name: str, data: SweepData, sub: str) -> str:
    """HTML: what a figure shows, where its numbers come from, and the buttons for its image."""
    return heading(words, origin_chip(data.origin), image_buttons(name, words), sub=sub)


def _run_button(run: Mapping[str, Any]) -> str:
    seed = f"seed {run['seed']}"
    return (
        f'<button class="ghost" data-open="{escape(run["run_id"])}" '
        f'aria-label="Open {escape(run["variant"])}, {escape(seed)}">{escape(seed)}</button>'
    )


def _lines_of_bars(
    line: Callable[[pd.DataFrame, str], str], table: pd.DataFrame, html: Callable[[str], str]
) -> str:
    """What the line says of each bar figure, by its measure; once if it says the same of all."""
    lines = {BAR_NAMES[key]: line(table, key) for key in HEADLINES}
    if len(set(lines.values())) == 1:
        return html(next(iter(lines.values())))
    return "".join(html(f"{title}: {words}") for title, words in lines.items() if words)


def picture_notes(table: pd.DataFrame, *keys: str) -> str:
    """Which runs a figure of those measures leaves out, and whether the others compare."""
    return note_html(left_out_line(table, *keys)) + unlike_html(unlike_line(table, *keys))


def unlike_html(words: str) -> str:
    """HTML: the line below a figure that says why its runs do not compare; empty without words."""
    return f'<p class="meta unlike">{escape(words)}</p>' if words else ""


def note_html(words: str) -> str:
    return f'<p class="meta">{escape(words)}</p>' if words else ""
