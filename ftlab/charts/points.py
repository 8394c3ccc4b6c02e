"""Variants as points over two measures, with labels where there is space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.drawing import Axis, axis_of, figure, fix_margins, plain, short_name
from ftlab.charts.facts import NOTE_PIXELS, VariantRuns, add_facts, by_variant, left_out, opening
from ftlab.charts.spec import Facts
from ftlab.methods.registry import BASE_LOOK, label_of, look_of
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.spec import MetricSpec

_FRAME_PIXELS = 58 + NOTE_PIXELS  # ticks, titles and margins
_NARROW, _TITLE_LINE_PIXELS = 42, 15  # longer titles of the x axis take two lines, for phones
_MOST_DOTS = 10  # per variant, which no label may cover
_ALL_NAMED = 32  # up to this many variants all are labelled, above it only the important ones

WIDTHS = (260, 560, 880)
"""Plot widths in pixels for which labels are placed: phone, half a page, slide."""

_CHARACTER, _LINE = 6.7, 15.0  # pixels of a label in the template's font
_MARKER = 7.0  # half of a marker, with some padding
_BAR, _DOT = 2.0, 3.0


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
    """The runs that have both measures; `None` if there is none. `more_y` extends the y axis."""
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
    """The measure's name for those runs: the score by its task's name, memory with its kind."""
    if metric.key in ("score_after", "score_gain"):
        names = {str(name) for name in rows["metric"] if name}
        score = names.pop() if len(names) == 1 else "score"
        return score if metric.key == "score_after" else f"gain in {score} over the untouched model"
    name = metric.name
    if metric.key in ("net_peak_memory_bytes", "peak_memory_bytes"):
        kinds = {str(kind) for kind in rows["peak_memory_kind"] if kind}
        return f"{name}, {kinds.pop().removeprefix('imported: ')}" if len(kinds) == 1 else name
    return name


def quality_measure(table: pd.DataFrame) -> MetricSpec:
    """The score after training; the test loss if no run has a score."""
    rows, _ = left_out(table, "score_after")
    return METRICS["eval_loss_after" if rows.empty else "score_after"]


def scatter_figure(
    shown: Scatter,
    facts: Facts,
    first: Sequence[VariantRuns],
    behind: Sequence[dict[str, Any]],
) -> go.Figure:
    """Draws the lines `behind`, then for each method its seeds, and its means with error bars.

    The variants of `first` are labelled before the others. No label crosses the first line.
    """
    traces = [*behind]
    for method in dict.fromkeys(group.method for group in shown.groups):
        members = [group for group in shown.groups if group.method == method]
        several = [group for group in members if len(group.rows) > 1]
        if several:
            traces.append(_seeds(shown, several))
        traces.append(_means(shown, members))
    fig = figure(facts.height, margin={"r": 16, "t": NOTE_PIXELS})
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
    drawn = {str(row["run_id"]) for group in shown.groups for row in group.rows}
    return add_facts(fig, facts.table[facts.table["run_id"].isin(drawn)])


def untouched_line(
    name: str, value: float, ends: list[float], metric: MetricSpec
) -> dict[str, Any]:
    """A line across the plot at the untouched model's value; `ends` are the ends of the x axis."""
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": ends,
        "y": [value, value],
        "line": {"color": BASE_LOOK.colour, "dash": BASE_LOOK.dash, "width": 1.5},
        "hovertemplate": f"{name} {metric.format(value)}<extra></extra>",
    }


def _all(groups: Sequence[VariantRuns], metric: MetricSpec) -> list[float]:
    """The values, and the ends of the error bars."""
    return [
        value for group in groups for value in (*group.values(metric.key), *group.reach(metric))
    ]


def _seeds(shown: Scatter, groups: Sequence[VariantRuns]) -> dict[str, Any]:
    look = look_of(groups[0].method)
    rows = [replace(group, rows=(row,)) for group in groups for row in group.rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"{label_of(groups[0].method)}, seeds",
        "x": [row.mean(shown.x.key) for row in rows],
        "y": [row.mean(shown.y.key) for row in rows],
        "marker": {"color": look.colour, "symbol": look.marker, "size": 5, "opacity": 0.5},
        **opening(rows, [_hover(shown, row) for row in rows]),
    }


def _means(shown: Scatter, groups: Sequence[VariantRuns]) -> dict[str, Any]:
    look = look_of(groups[0].method)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": label_of(groups[0].method),
        "x": [group.mean(shown.x.key) for group in groups],
        "y": [group.mean(shown.y.key) for group in groups],
        "error_x": spread_bars(groups, shown.x, look.colour),
        "error_y": spread_bars(groups, shown.y, look.colour),
        "marker": {"color": look.colour, "symbol": look.marker, "size": 11},
        **opening(groups, [_hover(shown, group) for group in groups]),
    }


def spread_bars(groups: Sequence[VariantRuns], metric: MetricSpec, colour: str) -> dict[str, Any]:
    """The error bars of the means, from `VariantRuns.reach`."""
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


def _hover(shown: Scatter, group: VariantRuns) -> str:
    axes = {shown.x.key: (shown.x, shown.x_axis), shown.y.key: (shown.y, shown.y_axis)}
    lines = [f"<b>{plain(group.variant)}</b>"]
    for metric, axis in axes.values():
        low, high = group.reach(metric)
        value = metric.format(group.mean(metric.key))
        if len(group.rows) > 1:
            value += f", {metric.format(low)} to {metric.format(high)}"
        elif metric.interval and low < high:
            value = metric.text(group.mean(metric.key), low, high)
        lines.append(f"{axis.name} {value}")
    return "<br>".join(lines)


def _name(
    fig: go.Figure,
    shown: Scatter,
    first: Sequence[VariantRuns],
    line: Sequence[tuple[float, float]],
) -> None:
    """Labels the points where there is space."""
    order = [*first, *(group for group in shown.groups if group not in first)]
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
        tuple(map(x, group.reach(shown.x))),
        tuple(map(y, group.reach(shown.y))),
        tuple(dots) if 1 < len(dots) <= _MOST_DOTS else (),
    )


@dataclass(frozen=True)
class Spot:
    """A point to label; all numbers are shares of the plot, y upwards.

    The ranges are those of its error bars; `dots` are the small points of its seeds.
    """

    x: float
    y: float
    text: str
    x_range: tuple[float, ...]
    y_range: tuple[float, ...]
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Place:
    """The position of a label relative to its point, in plotly's terms (shifts in pixels).

    A `far` label needs a line to its point.
    """

    xanchor: Literal["left", "center", "right"]
    yanchor: Literal["bottom", "middle", "top"]
    xshift: float
    yshift: float
    far: bool = False

    def annotation(self) -> dict[str, Any]:
        """The annotation's properties except position and text."""
        anchors: dict[str, Any] = {"xanchor": self.xanchor, "yanchor": self.yanchor}
        if not self.far:
            return anchors | {"xshift": self.xshift, "yshift": self.yshift, "showarrow": False}
        return anchors | {
            "ax": self.xshift, "ay": -self.yshift, "showarrow": True, "arrowhead": 0,
            "arrowwidth": 1, "arrowcolor": BASE_LOOK.colour, "standoff": 7,
        }  # fmt: skip

    def box(self, x: float, y: float, width: float) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of a label of that width at the pixel (x, y)."""
        left = x + self.xshift - {"left": 0.0, "center": 0.5, "right": 1.0}[self.xanchor] * width
        low = y + self.yshift - {"bottom": 0.0, "middle": 0.5, "top": 1.0}[self.yanchor] * _LINE
        return left, low, left + width, low + _LINE


def _places() -> tuple[Place, ...]:
    near = [
        Place("left", "middle", 9, 0), Place("right", "middle", -9, 0),
        Place("center", "bottom", 0, 7), Place("center", "top", 0, -7),
        Place("left", "bottom", 6, 4), Place("right", "bottom", -6, 4),
        Place("left", "top", 6, -4), Place("right", "top", -6, -4),
    ]  # fmt: skip
    far = [
        Place("left" if x > 0 else "right", "middle", x * away, y * away, far=True)
        for away in (26.0, 44.0, 64.0, 88.0, 120.0, 160.0, 210.0)
        for x, y in ((0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7), (1, 0.3), (-1, 0.3))
    ]
    return (*near, *far)


_PLACES = _places()


def place_labels(
    spots: Sequence[Spot],
    height: float,
    count: int,
    line: Sequence[tuple[float, float]] = (),
) -> list[Place | None]:
    """Finds a place for each of the first `count` labels; `None` if there is no free place.

    Earlier labels choose first. If no place is free at all `WIDTHS`, a place is used that is free
    at all but the smallest. `height` is the height of the plot in pixels. `line` has the corners,
    as shares of the plot, of a line that no label may cross.
    """
    taken = [
        np.vstack([_obstacles(spots, width, height), _along(line, width, height)])
        for width in WIDTHS
    ]
    found: list[Place | None] = []
    for spot in spots[:count]:
        place = _first_free(spot, taken, height)
        found.append(place)
        if place is not None:
            taken = [
                np.vstack([boxes, place.box(spot.x * width, spot.y * height, _width(spot.text))])
                for boxes, width in zip(taken, WIDTHS, strict=True)
            ]
    return found


def _first_free(spot: Spot, taken: Sequence[Any], height: float) -> Place | None:
    for first in (0, 1):
        for place in _PLACES:
            boxes = list(zip(WIDTHS, taken, strict=True))[first:]
            if all(_is_free(place, spot, width, there, height) for width, there in boxes):
                return place
    return None


def _is_free(place: Place, spot: Spot, width: float, taken: Any, height: float) -> bool:
    left, low, right, high = place.box(spot.x * width, spot.y * height, _width(spot.text))
    if left < 0 or right > width or low < 0 or high > height:
        return False
    meets = (
        (taken[:, 0] < right) & (taken[:, 2] > left) & (taken[:, 1] < high) & (taken[:, 3] > low)
    )
    return not meets.any()


def _obstacles(spots: Sequence[Spot], width: float, height: float) -> Any:
    """The boxes of all markers, error bars and dots."""
    boxes = []
    for spot in spots:
        x, y = spot.x * width, spot.y * height
        boxes += [
            (x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER),
            (spot.x_range[0] * width, y - _BAR, spot.x_range[1] * width, y + _BAR),
            (x - _BAR, spot.y_range[0] * height, x + _BAR, spot.y_range[1] * height),
        ]
        for across, up in spot.dots:
            x, y = across * width, up * height
            boxes.append((x - _DOT, y - _DOT, x + _DOT, y + _DOT))
    return np.array(boxes, dtype=float).reshape(-1, 4)


def _along(line: Sequence[tuple[float, float]], width: float, height: float) -> Any:
    """Small boxes along a line, so close that no label fits between two."""
    boxes = [np.empty((0, 4))]
    for one, other in pairwise(np.reshape(line, (-1, 2)) * (width, height)):
        parts = max(2, round(abs(other - one).max() / (_LINE / 2)) + 1)
        places = np.linspace(one, other, parts)
        boxes.append(np.hstack([places - 1, places + 1]))
    return np.vstack(boxes)


def _width(text: str) -> float:
    return _CHARACTER * len(text)
