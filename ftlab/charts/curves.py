"""Runs as curves over the steps: one line per variant, the mean of its seeds with their range."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from statistics import fmean
from typing import Any, Literal, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.drawing import empty_figure, figure, fix_margins, glyph, plain, short_name
from ftlab.charts.facts import add_origin, add_unlike, settings_text
from ftlab.methods.registry import look_of
from ftlab.records.comparability import Comparability
from ftlab.records.progress import MOST_BUCKETS, ThinCurve
from ftlab.records.result import OPEN

XAxis = Literal["step", "tokens", "seconds"]

X_TITLES: dict[XAxis, str] = {
    "step": "step",
    "tokens": "tokens seen, padding not counted",
    "seconds": "seconds of training steps",
}
POINT_COLUMNS = [
    "run_id", "label", "method", "seed", "emphasised", "settings", "origin", "created_at",
    "step", "tokens", "seconds", "loss",
]  # fmt: skip
"""`tokens` (without padding) and `seconds` (of training steps) are summed up to the step.

`loss` is in nats a token. `emphasised` is false for a run that ended without being done.
"""

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
_MANY = 8  # from so many lines on, colour and dash are not enough: each has its method's marker
_LABEL_PIXELS = 15
_AXIS_PIXELS = 52  # height of the x axis and the margins
_BAND = 0.14  # opacity of the seeds' range
_MOST_SEEDS = 6  # listed individually on hover


@dataclass(frozen=True)
class Curve:
    """One run: `points` are (step, x, loss as drawn, so smoothed); a NaN loss is a gap."""

    run_id: str
    label: str
    method: str
    seed: Any
    emphasised: bool
    settings: str
    points: Sequence[tuple[int, float, float]]

    @property
    def finite(self) -> list[float]:
        return [loss for _, _, loss in self.points if math.isfinite(loss)]


@dataclass(frozen=True)
class At:
    """The seeds of a variant at one step: their mean x, and the finite losses by curve number.

    For several neighbouring steps combined, `losses` are means and `range` is their whole range.
    """

    x: float
    losses: Mapping[int, float]
    range: tuple[float, float] | None = None

    @property
    def mean(self) -> float | None:
        return sum(self.losses.values()) / len(self.losses) if self.losses else None

    @property
    def low(self) -> float:
        return self.range[0] if self.range else min(self.losses.values())

    @property
    def high(self) -> float:
        return self.range[1] if self.range else max(self.losses.values())


@dataclass(frozen=True)
class Line:
    """One drawn line: a run, or the mean of a variant's seeds with their range."""

    label: str
    method: str
    emphasised: bool
    curves: Sequence[Curve]

    @cached_property
    def steps(self) -> list[At]:
        """Every step of any seed, with the seeds that have it; thinned if there are very many.

        One seed is thinned by `ThinCurve`, so that spikes stay. For several seeds, neighbouring
        steps are averaged and keep their whole range, because thinned curves share no steps.
        """
        every = self._every_step()
        steps = list(every.values())
        if len(steps) <= 2 * MOST_BUCKETS + 2:
            return steps
        if len(self.curves) == 1:
            thin = ThinCurve()
            for step, at in every.items():
                thin.add(step, math.nan if at.mean is None else at.mean)
            return [every[step] for step, _ in thin.points()]
        width = -(-len(steps) // MOST_BUCKETS)
        return [_together(steps[i : i + width]) for i in range(0, len(steps), width)]

    def _every_step(self) -> dict[int, At]:
        losses: dict[int, dict[int, float]] = {}
        places: dict[int, list[float]] = {}
        for number, curve in enumerate(self.curves):
            for step, x, loss in curve.points:
                places.setdefault(step, []).append(x)
                at = losses.setdefault(step, {})
                if math.isfinite(loss):
                    at[number] = loss
        return {
            step: At(sum(places[step]) / len(places[step]), losses[step]) for step in sorted(losses)
        }

    @property
    def end(self) -> float:
        """The last value of the line."""
        return next(at.mean for at in reversed(self.steps) if at.mean is not None)

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.label


def _together(group: Sequence[At]) -> At:
    values: dict[int, list[float]] = {}
    for at in group:
        for number, loss in at.losses.items():
            values.setdefault(number, []).append(loss)
    known = [at for at in group if at.losses]
    return At(
        fmean(at.x for at in group),
        {number: sum(losses) / len(losses) for number, losses in values.items()},
        (min(at.low for at in known), max(at.high for at in known)) if known else None,
    )


class _Look(NamedTuple):
    dash: str
    marker: str | None


def run_cells(facts: Mapping[Any, Any]) -> list[Any]:
    """The first columns of `POINT_COLUMNS`, which are equal for all points of a run."""
    run = [facts[key] for key in ("run_id", "variant", "method", "seed")]
    emphasised, settings = facts["status"] in ("done", *OPEN), settings_text([facts])
    return [*run, emphasised, settings, facts["origin"], facts["created_at"]]


def curves_figure(
    points: pd.DataFrame,
    title: str,
    nothing: str,
    height: int,
    x: XAxis = "step",
    smoothing: int = 1,
    steps: int | None = None,
    unlike: Comparability | None = None,
    most: float = math.inf,
) -> go.Figure:
    """Curves of any measure over the steps, drawn as in `loss_figure`; `loss` has its values.

    `title` is the title of the y axis, `nothing` the text if there is no point. Values above `most`
    times the highest first value are outside the plot.
    """
    drawn = draw_curves(_curves(points, x, smoothing), height, x, steps, most)
    if drawn is None:
        return empty_figure(nothing, height)
    fig = figure(height, xaxis_title=X_TITLES[x], yaxis_title=title)
    fig.add_traces(list(drawn.traces))
    fig.update_layout(dict(drawn.layout))
    fix_margins(fig, ["0.0"], y_title=True)
    add_origin(fig, points.iloc[:1])
    return fig if unlike is None else add_unlike(fig, unlike)


@dataclass(frozen=True)
class DrawnCurves:
    """What a figure of curves consists of, as plotly's JSON: its traces, and what in its layout
    depends on the points."""

    traces: Sequence[Mapping[str, Any]]
    layout: Mapping[str, Any]


def draw_curves(
    curves: Iterable[Curve],
    height: int,
    x: XAxis = "step",
    steps: int | None = None,
    most: float = math.inf,
) -> DrawnCurves | None:
    """Draws the curves as in `curves_figure`, `None` if there is no point.

    This takes a tenth of the time of a figure, of which plotly checks every part.
    """
    drawn = [curve for curve in curves if curve.finite]
    if not drawn:
        return None
    looks = _looks(drawn)
    lines = sorted(_lines(drawn), key=lambda line: line.emphasised)
    bands = [_band(line) for line in lines if len(line.curves) > 1]
    low, high = _range(drawn, most)
    last = max(curve.points[-1][1] for curve in drawn)
    if x == "step":
        last = steps or last
    layout = {
        "yaxis": {"range": [low, high]},
        "xaxis": {
            "range": [0, last * 1.01], "tickformat": "~s" if x == "tokens" else "d", "nticks": 8,
        },
        **_label_ends(lines, looks, low, high, height),
    }  # fmt: skip
    return DrawnCurves([*bands, *(_trace(line, looks[line.key], x) for line in lines)], layout)


def height_for(points: pd.DataFrame, least: int) -> int:
    """The height at which the label of every line fits, but at least `least`."""
    lines = len(points[["method", "label"]].drop_duplicates())
    return max(least, _AXIS_PIXELS + _LABEL_PIXELS * lines)


def _curves(points: pd.DataFrame, x: XAxis, smoothing: int) -> list[Curve]:
    """The runs as curves, in the order of the points."""
    runs: dict[tuple[Any, ...], list[tuple[int, float, float]]] = {}
    names = ["run_id", "label", "method", "seed", "emphasised", "settings", "step", x, "loss"]
    for *run, step, at, loss in zip(*(points[name].tolist() for name in names), strict=True):
        if math.isfinite(at):
            runs.setdefault(tuple(run), []).append((step, at, loss))
    return [
        Curve(run_id, label, method, seed, emphasised, settings, _smooth(steps, smoothing))
        for (run_id, label, method, seed, emphasised, settings), steps in runs.items()
    ]


def _smooth(
    points: Sequence[tuple[int, float, float]], over: int
) -> Sequence[tuple[int, float, float]]:
    """Replaces each loss by the mean of the last `over` finite losses; a gap stays a gap."""
    if over <= 1:
        return points
    window: deque[float] = deque(maxlen=over)
    smooth = []
    for step, x, loss in points:
        if math.isfinite(loss):
            window.append(loss)
            loss = sum(window) / len(window)
        smooth.append((step, x, loss))
    return smooth


def _lines(curves: Sequence[Curve]) -> list[Line]:
    groups: dict[tuple[str, str, bool], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.label, curve.method, curve.emphasised), []).append(curve)
    return [Line(*key, members) for key, members in groups.items()]


def _looks(curves: Sequence[Curve]) -> dict[tuple[str, str], _Look]:
    looks: dict[tuple[str, str], _Look] = {}
    used: dict[str, int] = {}
    many = len({(curve.method, curve.label) for curve in curves}) >= _MANY
    for curve in curves:
        key = curve.method, curve.label
        if key in looks:
            continue
        number = used.get(curve.method, 0)
        used[curve.method] = number + 1
        own = look_of(curve.method).dash
        dashes = (own, *(dash for dash in _DASHES if dash != own))
        first = look_of(curve.method).marker if many else None
        marker = _MARKERS[(number - 1) % len(_MARKERS)] if number else first
        looks[key] = _Look(dashes[number % len(dashes)], marker)
    return looks


def _trace(line: Line, look: _Look, x: XAxis) -> dict[str, Any]:
    """The line; `meta` has the ids of its runs, and a click opens the first one."""
    colour, name = look_of(line.method).colour, plain(line.label)
    several = len(line.curves) > 1
    single = len(line.steps) == 1  # a line through one point is invisible
    where = {"step": "step %{x}", "tokens": "%{x:.3s} tokens", "seconds": "%{x:.1f} s"}[x]
    settings = line.curves[0].settings
    return {
        "type": "scatter",
        "x": [at.x for at in line.steps],
        "y": [at.mean for at in line.steps],
        "mode": "lines+markers" if look.marker or single else "lines",
        "line": {"color": colour, "width": 2, "dash": look.dash},
        "marker": {
            "symbol": look.marker or "circle", "size": 6, "maxdisplayed": 8, "color": colour,
        },
        "opacity": 1.0 if line.emphasised else 0.3,
        "name": name,
        "meta": {"runs": " ".join(curve.run_id for curve in line.curves)},
        "text": [_seeds(line, at) for at in line.steps] if several else None,
        "hovertemplate": (
            f"<b>{name}</b><br>"
            + (f"mean %{{y:.3f}} at {where}<br>%{{text}}" if several else f"%{{y:.3f}} at {where}")
            + (f"<br>{settings}" if settings else "")
            + "<extra></extra>"
        ),
    }  # fmt: skip


def _seeds(line: Line, at: At) -> str:
    """As in "seed 0 1.310, seed 1 1.402": the seeds that have the step; their range if many."""
    if len(at.losses) > _MOST_SEEDS:
        low, high = min(at.losses.values()), max(at.losses.values())
        return f"{len(at.losses)} seeds, {low:.3f} to {high:.3f}"
    return ", ".join(f"seed {line.curves[i].seed} {loss:.3f}" for i, loss in at.losses.items())


def _band(line: Line) -> dict[str, Any]:
    """The range of the seeds, one outline per stretch without a gap."""
    x: list[float | None] = []
    y: list[float | None] = []
    for there, stretch in groupby(line.steps, key=lambda at: bool(at.losses)):
        if not there:
            continue
        steps = list(stretch)
        x += [*(at.x for at in steps), *(at.x for at in reversed(steps)), None]
        y += [at.high for at in steps]
        y += [*(at.low for at in reversed(steps)), None]
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "mode": "lines",
        "line": {"width": 0},
        "fill": "toself",
        "fillcolor": look_of(line.method).colour,
        "opacity": _BAND if line.emphasised else _BAND / 3,
        "hoverinfo": "skip",
        "name": f"{plain(line.label)}, range of the seeds",
    }


def _range(curves: Sequence[Curve], most: float) -> tuple[float, float]:
    low = min(min(curve.finite) for curve in curves)
    high = max(max(curve.finite) for curve in curves)
    if math.isfinite(most):
        high = min(high, most * max(curve.finite[0] for curve in curves))
    space = max(0.06 * (high - low), 0.01)
    return low - space, high + space


def _label_ends(
    lines: Iterable[Line],
    looks: Mapping[tuple[str, str], _Look],
    low: float,
    high: float,
    height: int,
) -> dict[str, Any]:
    """Labels right of the plot, at the height of each line's end, moved apart if they overlap."""
    inner = max(1, height - _AXIS_PIXELS)
    ends: dict[tuple[str, str], float] = {}
    for line in sorted(lines, key=lambda line: not line.emphasised):
        ends.setdefault(line.key, line.end)
    room = max(1, inner // _LABEL_PIXELS)
    shown = dict(list(ends.items())[:room])
    keys = sorted(shown, key=lambda key: shown[key])
    wanted = [min(max(shown[key], low), high) for key in keys]
    texts = [f"{short_name(label, method)} {shown[method, label]:.2f}" for method, label in keys]
    gap = _LABEL_PIXELS * (high - low) / inner
    annotations = [
        {
            "x": 1,
            "xref": "paper",
            "y": y,
            "text": f"{glyph(key[0], looks[key].marker)} {plain(text)}",
            "xanchor": "left",
            "xshift": 4,
            "showarrow": False,
        }
        for key, text, y in zip(keys, texts, spread(wanted, gap, high), strict=True)
    ]
    return {"annotations": annotations, "margin": {"r": 24 + 7 * max(map(len, texts))}}


def spread(values: Sequence[float], gap: float, top: float) -> list[float]:
    """Moves ascending values as little as needed to be `gap` apart and not above `top`."""
    placed: list[float] = []
    for value in values:
        placed.append(max(value, placed[-1] + gap) if placed else value)
    limit = top
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed
