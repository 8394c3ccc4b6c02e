"""Loss curves: one line a variant, the mean of its seeds in their range, labelled at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import plotly.graph_objects as go

from ftlab.charts.template import figure, glyph, plain, short_name
from ftlab.methods.registry import look_of
from ftlab.runs.result import OPEN
from ftlab.runs.store import Run

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
_LABEL_PIXELS = 15
_AXIS_PIXELS = 52  # what the x axis and the margins take of the height
_BAND = 0.14  # opacity of the seeds' range
_DIVERGED = 1.6  # a loss above this many times the first one is drawn off the top


@dataclass(frozen=True)
class LossCurve:
    """The training loss of one run: `points` are (step, nats a token).

    Runs that share `label` (seeds of one variant) are drawn as one line, their mean. A curve that
    is not `emphasised` is drawn pale behind the others, and is no part of such a mean.
    """

    label: str
    method: str
    points: Sequence[tuple[int, float]]
    emphasised: bool = True
    seed: int = 0

    @property
    def finite(self) -> list[tuple[int, float]]:
        return [(step, loss) for step, loss in self.points if math.isfinite(loss)]


def curve_of(run: Run, losses: Sequence[tuple[int, float]]) -> LossCurve:
    """The curve of a run; pale if the run did not get to its end."""
    emphasised = run.status in ("done", *OPEN)
    return LossCurve(run.spec.label, run.spec.method, tuple(losses), emphasised, run.spec.seed)


@dataclass(frozen=True)
class _Look:
    dash: str
    marker: str | None


@dataclass(frozen=True)
class _At:
    """The seeds of a variant at one step: each one's loss; none where no loss is a number."""

    step: int
    losses: dict[int, float]

    @property
    def mean(self) -> float | None:
        return sum(self.losses.values()) / len(self.losses) if self.losses else None


@dataclass(frozen=True)
class _Line:
    """What is drawn as one line: a run, or the mean of a variant's seeds with their range."""

    label: str
    method: str
    emphasised: bool
    curves: Sequence[LossCurve]

    @cached_property
    def steps(self) -> list[_At]:
        """Every step that any seed has, with the seeds that have it."""
        found: dict[int, dict[int, float]] = {}
        for number, curve in enumerate(self.curves):
            for step, loss in curve.points:
                at = found.setdefault(step, {})
                if math.isfinite(loss):
                    at[number] = loss
        return [_At(step, found[step]) for step in sorted(found)]

    @property
    def end(self) -> float:
        """The last value of the line."""
        return next(at.mean for at in reversed(self.steps) if at.mean is not None)

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.label


def loss_figure(
    curves: Sequence[LossCurve], height: int = 228, steps: int | None = None
) -> go.Figure:
    """One colour a method; further variants of a method differ in dash and wear markers.

    A variant with several seeds is the mean over the seeds that have a step, in a band from the
    lowest to the highest. `steps` is how far the x axis goes; without it, as far as the longest
    curve.
    """
    drawn = [curve for curve in curves if curve.finite]
    fig = figure(height, xaxis_title="step", yaxis_title="training loss (nats a token)")
    if not drawn:
        fig.update_xaxes(visible=False).update_yaxes(visible=False)
        return fig.add_annotation(
            text="no step yet", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False
        )
    looks = _looks(drawn)
    lines = sorted(_lines(drawn), key=lambda line: line.emphasised)
    for line in lines:
        if len(line.curves) > 1:
            _draw_band(fig, line)
    for line in lines:
        _draw(fig, line, looks[line.key])
    low, high = _range(drawn)
    fig.update_yaxes(range=[low, high])
    last = steps or max(curve.finite[-1][0] for curve in drawn)
    fig.update_xaxes(range=[0, last * 1.01], tickformat="d", nticks=8)
    _label_ends(fig, lines, looks, low, high, height)
    return fig


def _lines(curves: Sequence[LossCurve]) -> list[_Line]:
    groups: dict[tuple[str, str, bool], list[LossCurve]] = {}
    for curve in curves:
        groups.setdefault((curve.label, curve.method, curve.emphasised), []).append(curve)
    return [_Line(*key, members) for key, members in groups.items()]


def _looks(curves: Sequence[LossCurve]) -> dict[tuple[str, str], _Look]:
    looks: dict[tuple[str, str], _Look] = {}
    used: dict[str, int] = {}
    for curve in curves:
        key = curve.method, curve.label
        if key in looks:
            continue
        number = used.get(curve.method, 0)
        used[curve.method] = number + 1
        own = look_of(curve.method).dash
        dashes = (own, *(dash for dash in _DASHES if dash != own))
        marker = _MARKERS[(number - 1) % len(_MARKERS)] if number else None
        looks[key] = _Look(dashes[number % len(dashes)], marker)
    return looks


def _draw(fig: go.Figure, line: _Line, look: _Look) -> None:
    colour, name = look_of(line.method).colour, plain(line.label)
    several = len(line.curves) > 1
    single = len(line.steps) == 1  # a line through one point is invisible
    fig.add_scatter(
        x=[at.step for at in line.steps],
        y=[at.mean for at in line.steps],
        mode="lines+markers" if look.marker or single else "lines",
        line={"color": colour, "width": 2, "dash": look.dash},
        marker={"symbol": look.marker or "circle", "size": 6, "maxdisplayed": 8, "color": colour},
        opacity=1.0 if line.emphasised else 0.3,
        name=name,
        customdata=[_seeds(line, at) for at in line.steps] if several else None,
        hovertemplate=(
            "mean %{y:.3f} at step %{x}<br>%{customdata}" if several else "%{y:.3f} at step %{x}"
        )
        + f"<extra>{name}</extra>",
    )


def _seeds(line: _Line, at: _At) -> str:
    """As in "seed 0 1.310, seed 1 1.402": the seeds that have the step."""
    return ", ".join(f"seed {line.curves[i].seed} {loss:.3f}" for i, loss in at.losses.items())


def _draw_band(fig: go.Figure, line: _Line) -> None:
    """The range of the seeds as one outline for each stretch without a gap."""
    x: list[int | None] = []
    y: list[float | None] = []
    for there, stretch in groupby(line.steps, key=lambda at: bool(at.losses)):
        if not there:
            continue
        steps = list(stretch)
        x += [*(at.step for at in steps), *(at.step for at in reversed(steps)), None]
        y += [max(at.losses.values()) for at in steps]
        y += [*(min(at.losses.values()) for at in reversed(steps)), None]
    fig.add_scatter(
        x=x,
        y=y,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=look_of(line.method).colour,
        opacity=_BAND if line.emphasised else _BAND / 3,
        hoverinfo="skip",
        name=f"{plain(line.label)}, range of the seeds",
    )


def _range(curves: Sequence[LossCurve]) -> tuple[float, float]:
    losses = [loss for curve in curves for _, loss in curve.finite]
    low = min(losses)
    high = min(max(losses), _DIVERGED * max(curve.finite[0][1] for curve in curves))
    space = max(0.06 * (high - low), 0.01)
    return low - space, high + space


def _label_ends(
    fig: go.Figure,
    lines: Sequence[_Line],
    looks: Mapping[tuple[str, str], _Look],
    low: float,
    high: float,
    height: int,
) -> None:
    """Labels right of the plot, each at the height of its line's end, pushed apart."""
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
    for key, text, y in zip(keys, texts, spread(wanted, gap, high), strict=True):
        fig.add_annotation(
            x=1,
            xref="paper",
            y=y,
            text=f"{glyph(key[0], looks[key].marker)} {plain(text)}",
            xanchor="left",
            xshift=4,
            showarrow=False,
        )
    fig.update_layout(margin_r=24 + 7 * max(map(len, texts)))


def spread(values: Sequence[float], gap: float, top: float) -> list[float]:
    """Ascending values moved as little as needed to lie `gap` apart and not above `top`."""
    placed: list[float] = []
    for value in values:
        placed.append(max(value, placed[-1] + gap) if placed else value)
    limit = top
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - gap
    return placed
