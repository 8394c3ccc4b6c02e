"""Variants as points over two measures: the mean of the seeds, their range, and each seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.axes import Axis, axis_of, measure_name
from ftlab.charts.facts import NOTE_PIXELS, add_facts, click_hint, settings_text
from ftlab.charts.grouping import VariantRuns, by_variant, left_out
from ftlab.charts.labels import Spot, place_labels
from ftlab.charts.template import figure, fix_margins, plain, short_name
from ftlab.methods.registry import label_of, look_of
from ftlab.runs.metrics import MetricSpec

HEIGHT = 330
_FRAME_PIXELS = 58 + NOTE_PIXELS  # ticks, titles and margins
_NARROW, _TITLE_LINE_PIXELS = 42, 15  # longer titles of the x axis take two lines: phones
_MOST_DOTS = 10  # of a variant, that no name may cover
_ALL_NAMED = 32  # up to so many variants all are named, beyond it only those that matter


@dataclass(frozen=True)
class Scatter:
    """The variants of a table over two measures, and the axes that hold them."""

    groups: tuple[VariantRuns, ...]
    x: MetricSpec
    y: MetricSpec
    x_axis: Axis
    y_axis: Axis


def scatter_of(
    table: pd.DataFrame, x: MetricSpec, y: MetricSpec, more_y: Sequence[float] = ()
) -> Scatter | None:
    """The runs that have both measures; `None` if there is none. `more_y`: values to show too."""
    rows, _ = left_out(table, x.key, y.key)
    if rows.empty:
        return None
    groups = tuple(by_variant(rows, x.key, y.key, *x.interval_keys, *y.interval_keys))
    return Scatter(
        groups,
        x,
        y,
        axis_of(x, _all(groups, x), plain(name_in(rows, x))),
        axis_of(y, [*_all(groups, y), *more_y], plain(name_in(rows, y))),
    )


def name_in(rows: pd.DataFrame, metric: MetricSpec) -> str:
    """What the measure is called in those runs: the score as its task calls it, memory by kind."""
    if metric.key in ("score_after", "score_gain"):
        names = {str(name) for name in rows["metric"] if name}
        score = names.pop() if len(names) == 1 else "score"
        return score if metric.key == "score_after" else f"gain in {score} over the untouched model"
    name = measure_name(metric)
    if metric.key in ("net_peak_memory_bytes", "peak_memory_bytes"):
        kinds = {str(kind) for kind in rows["peak_memory_kind"] if kind}
        if set(rows["origin"]) == {"imported"}:  # others measured other phases
            name = name.split(",")[0]
        return f"{name}, {kinds.pop().removeprefix('imported: ')}" if len(kinds) == 1 else name
    return name


def scatter_figure(
    shown: Scatter,
    table: pd.DataFrame,
    first: Sequence[VariantRuns],
    behind: Sequence[dict[str, Any]],
    height: int,
) -> go.Figure:
    """The lines `behind`, then by method each seed and the means with bars from least to most.

    The variants of `first` are named before the others, and no name crosses the first line.
    """
    traces = [*behind]
    for method in dict.fromkeys(group.method for group in shown.groups):
        members = [group for group in shown.groups if group.method == method]
        several = [group for group in members if len(group.rows) > 1]
        if several:
            traces.append(_seeds(shown, several))
        traces.append(_means(shown, members))
    fig = figure(height, margin={"l": 8, "r": 16, "t": NOTE_PIXELS, "b": 8})
    fig.add_traces(traces)
    fig.update_layout(xaxis=shown.x_axis.layout(), yaxis=shown.y_axis.layout())
    fix_margins(fig, shown.y_axis.texts, y_title=True)
    if len(shown.x_axis.title) > _NARROW:
        fig.layout.xaxis.title.text = "<br>(".join(shown.x_axis.title.rsplit(" (", 1))
        fig.layout.margin.b += _TITLE_LINE_PIXELS
    line = [
        (shown.x_axis.share(x), shown.y_axis.share(y))
        for trace in behind[:1]
        for x, y in zip(trace["x"], trace["y"], strict=True)
    ]
    _name(fig, shown, first, line)
    return add_facts(fig, table[table["run_id"].isin(_ids(shown))])


def empty_figure(words: str, height: int = HEIGHT) -> go.Figure:
    """A figure without data that says why."""
    fig = figure(height)
    fig.update_xaxes(visible=False).update_yaxes(visible=False)
    return fig.add_annotation(text=words, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)


def _ids(shown: Scatter) -> list[str]:
    return [str(row["run_id"]) for group in shown.groups for row in group.rows]


def _all(groups: Sequence[VariantRuns], metric: MetricSpec) -> list[float]:
    """The values, and the ends of the bars."""
    return [
        value for group in groups for value in (*group.values(metric.key), *group.reach(metric))
    ]


def _seeds(shown: Scatter, groups: Sequence[VariantRuns]) -> dict[str, Any]:
    look = look_of(groups[0].method)
    rows = [row for group in groups for row in group.rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{label_of(groups[0].method)}, seeds",
        "x": [float(row[shown.x.key]) for row in rows],
        "y": [float(row[shown.y.key]) for row in rows],
        "marker": {"color": look.colour, "symbol": look.marker, "size": 5, "opacity": 0.5},
        "customdata": [str(row["run_id"]) for row in rows],
        "hovertext": [
            _hover(shown, VariantRuns("", "", (row,)), str(row["variant"])) for row in rows
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _means(shown: Scatter, groups: Sequence[VariantRuns]) -> dict[str, Any]:
    look = look_of(groups[0].method)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label_of(groups[0].method),
        "x": [group.mean(shown.x.key) for group in groups],
        "y": [group.mean(shown.y.key) for group in groups],
        "error_x": _bars(groups, shown.x, look.colour),
        "error_y": _bars(groups, shown.y, look.colour),
        "marker": {"color": look.colour, "symbol": look.marker, "size": 11},
        "cliponaxis": False,
        "customdata": [group.run_ids for group in groups],
        "hovertext": [_hover(shown, group, group.variant) for group in groups],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _bars(groups: Sequence[VariantRuns], metric: MetricSpec, colour: str) -> dict[str, Any]:
    means = [group.mean(metric.key) for group in groups]
    ends = [group.reach(metric) for group in groups]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
        "arrayminus": [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
        "visible": any(low < high for low, high in ends) or any(len(g.rows) > 1 for g in groups),
        "color": colour,
        "thickness": 1.2,
        "width": 0,
    }


def _hover(shown: Scatter, group: VariantRuns, name: str) -> str:
    metrics = [shown.x] if shown.x.key == shown.y.key else [shown.x, shown.y]
    lines = [f"<b>{plain(name)}</b>"]
    for metric in metrics:
        name_here = (shown.x_axis if metric is shown.x else shown.y_axis).name
        text = f"{name_here} {metric.format(group.mean(metric.key))}"
        low, high = group.reach(metric)
        if len(group.rows) > 1:
            text += f", {metric.format(low)} to {metric.format(high)}"
        elif metric.interval and low < high:
            text = f"{name_here} {metric.text(low=low, high=high, value=group.mean(metric.key))}"
        lines.append(text)
    return "<br>".join([*lines, settings_text(group.rows)]) + click_hint(group.rows)


def _name(
    fig: go.Figure,
    shown: Scatter,
    first: Sequence[VariantRuns],
    line: Sequence[tuple[float, float]],
) -> None:
    """Writes names beside points where there is room for them."""
    chosen = {id(group) for group in first}
    others = [group for group in shown.groups if id(group) not in chosen]
    order = [*first, *others]
    spots = [_spot(shown, group) for group in order]
    count = len(order) if len(order) <= _ALL_NAMED else len(first)
    places = place_labels(spots, fig.layout.height - _FRAME_PIXELS, count, line)
    annotations = [
        {
            "x": shown.x_axis.scaled(group.mean(shown.x.key)),
            "y": shown.y_axis.scaled(group.mean(shown.y.key)),
            "text": plain(spot.text),
            **place.annotation(),
        }
        for group, spot, place in zip(order[:count], spots[:count], places, strict=True)
        if place is not None
    ]
    fig.update_layout(annotations=annotations)


def _spot(shown: Scatter, group: VariantRuns) -> Spot:
    x, y, x_key, y_key = shown.x_axis.share, shown.y_axis.share, shown.x.key, shown.y.key
    dots = [(x(float(row[x_key])), y(float(row[y_key]))) for row in group.rows]
    return Spot(
        x(group.mean(x_key)),
        y(group.mean(y_key)),
        short_name(group.variant, group.method, limit=20),
        _on_axis(x, group.reach(shown.x)),
        _on_axis(y, group.reach(shown.y)),
        tuple(dots) if 1 < len(dots) <= _MOST_DOTS else (),
    )


def _on_axis(share: Callable[[float], float], ends: tuple[float, float]) -> tuple[float, float]:
    return share(ends[0]), share(ends[1])
