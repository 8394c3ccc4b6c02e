"""Loss curves: one line a run, labelled at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from ftlab.charts.template import figure, glyph, plain, short_name
from ftlab.methods.registry import look_of

_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
_LABEL_PIXELS = 15
_AXIS_PIXELS = 52  # what the x axis and the margins take of the height
_DIVERGED = 1.6  # a loss above this many times the first one is drawn off the top


@dataclass(frozen=True)
class LossCurve:
    """The training loss of one run: `points` are (step, nats a token).

    Runs that share `label` (seeds of one variant) share one look and one end label. A curve that
    is not `emphasised` is drawn pale behind the others.
    """

    label: str
    method: str
    points: Sequence[tuple[int, float]]
    emphasised: bool = True

    @property
    def finite(self) -> list[tuple[int, float]]:
        return [(step, loss) for step, loss in self.points if math.isfinite(loss)]


@dataclass(frozen=True)
class _Line:
    dash: str
    marker: str | None


def loss_figure(
    curves: Sequence[LossCurve], height: int = 228, steps: int | None = None
) -> go.Figure:
    """One colour a method; further variants of a method differ in dash and wear markers.

    `steps` is how far the x axis goes; without it, as far as the longest curve.
    """
    drawn = [curve for curve in curves if curve.finite]
    fig = figure(height, xaxis_title="step", yaxis_title="training loss (nats a token)")
    if not drawn:
        fig.update_xaxes(visible=False).update_yaxes(visible=False)
        return fig.add_annotation(
            text="no step yet", x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False
        )
    lines = _lines(drawn)
    seeds = len(drawn) > len(lines)
    for curve in sorted(drawn, key=lambda curve: curve.emphasised):
        _draw(fig, curve, lines[_key(curve)], width=1.4 if seeds else 2)
    low, high = _range(drawn)
    fig.update_yaxes(range=[low, high])
    last = steps or max(curve.finite[-1][0] for curve in drawn)
    fig.update_xaxes(range=[0, last * 1.01], tickformat="d", nticks=8)
    _label_ends(fig, drawn, lines, low, high, height)
    return fig


def _key(curve: LossCurve) -> tuple[str, str]:
    return curve.method, curve.label


def _lines(curves: Sequence[LossCurve]) -> dict[tuple[str, str], _Line]:
    lines: dict[tuple[str, str], _Line] = {}
    used: dict[str, int] = {}
    for curve in curves:
        if _key(curve) in lines:
            continue
        number = used.get(curve.method, 0)
        used[curve.method] = number + 1
        own = look_of(curve.method).dash
        dashes = (own, *(dash for dash in _DASHES if dash != own))
        marker = _MARKERS[(number - 1) % len(_MARKERS)] if number else None
        lines[_key(curve)] = _Line(dashes[number % len(dashes)], marker)
    return lines


def _draw(fig: go.Figure, curve: LossCurve, line: _Line, width: float) -> None:
    colour = look_of(curve.method).colour
    points = [(step, loss if math.isfinite(loss) else None) for step, loss in curve.points]
    single = len(points) == 1  # a line through one point is invisible
    fig.add_scatter(
        x=[step for step, _ in points],
        y=[loss for _, loss in points],
        mode="lines+markers" if line.marker or single else "lines",
        line={"color": colour, "width": width, "dash": line.dash},
        marker={"symbol": line.marker or "circle", "size": 6, "maxdisplayed": 8, "color": colour},
        opacity=1.0 if curve.emphasised else 0.3,
        name=plain(curve.label),
        hovertemplate="%{y:.3f} at step %{x}<extra>" + plain(curve.label) + "</extra>",
    )


def _range(curves: Sequence[LossCurve]) -> tuple[float, float]:
    losses = [loss for curve in curves for _, loss in curve.finite]
    low = min(losses)
    high = min(max(losses), _DIVERGED * max(curve.finite[0][1] for curve in curves))
    space = max(0.06 * (high - low), 0.01)
    return low - space, high + space


def _label_ends(
    fig: go.Figure,
    curves: Sequence[LossCurve],
    lines: Mapping[tuple[str, str], _Line],
    low: float,
    high: float,
    height: int,
) -> None:
    """Labels right of the plot, each at the height of its curve's end, pushed apart."""
    inner = max(1, height - _AXIS_PIXELS)
    ends: dict[tuple[str, str], list[float]] = {}
    for curve in sorted(curves, key=lambda curve: not curve.emphasised):
        ends.setdefault(_key(curve), []).append(curve.finite[-1][1])
    room = max(1, inner // _LABEL_PIXELS)
    means = {key: sum(values) / len(values) for key, values in list(ends.items())[:room]}
    keys = sorted(means, key=lambda key: means[key])
    wanted = [min(max(means[key], low), high) for key in keys]
    texts = [f"{short_name(label, method)} {means[method, label]:.2f}" for method, label in keys]
    gap = _LABEL_PIXELS * (high - low) / inner
    for key, text, y in zip(keys, texts, spread(wanted, gap, high), strict=True):
        fig.add_annotation(
            x=1,
            xref="paper",
            y=y,
            text=f"{glyph(key[0], lines[key].marker)} {plain(text)}",
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
