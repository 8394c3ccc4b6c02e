"""Predicted peak memory against length, one line per method, with the memory limit of a card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go

from ftlab.basics.units import format_bytes
from ftlab.charts.drawing import bytes_axis, empty_figure, figure, fix_margins, log_axis, plain
from ftlab.methods.registry import look_of

_LIMIT = "#d0433a"
_SPACE = 1.12  # times the highest value that is drawn
_MOST = 2.5  # times the limit: a line that is always above it is named, not drawn


@dataclass(frozen=True)
class PeakLine:
    """One variant: predicted reserved peaks in bytes by length in tokens."""

    method: str
    label: str
    peaks: Mapping[int, int]


def peak_length_figure(
    lines: Sequence[PeakLine], limit: int | None = None, card: str = "", height: int = 300
) -> go.Figure:
    """Plots the lines and `limit`, the card's bytes for tensors; omits lines far above it."""
    drawn = [line for line in lines if line.peaks and not is_above(line, limit)]
    if not drawn:
        return empty_figure("no prediction yet", height)
    lengths = sorted({length for line in drawn for length in line.peaks})
    highest = max(max(line.peaks.values()) for line in drawn)
    top = _SPACE * max(highest, limit or 0)
    fig = figure(height, margin={"r": 90, "t": 12})
    fig.add_traces([_trace(line) for line in drawn])
    peaks = bytes_axis(top)
    fig.update_layout(
        xaxis=log_axis("longest example (tokens)", lengths),
        yaxis={"title": {"text": "predicted memory needed (lower is better)"}} | peaks,
    )
    for line in drawn:
        last = max(line.peaks)
        fig.add_annotation(
            x=math.log10(last), y=line.peaks[last], text=plain(line.label), xanchor="left",
            xshift=10, showarrow=False, font_size=11,
        )  # fmt: skip
    if limit is not None:
        _add_limit(fig, limit, top, card)
    return fix_margins(fig, peaks["ticktext"], y_title=True)


def is_above(line: PeakLine, limit: int | None) -> bool:
    """Whether the line is so far above the limit that it would flatten the others."""
    return limit is not None and bool(line.peaks) and min(line.peaks.values()) > _MOST * limit


def leaves_at(line: PeakLine, limit: int) -> int | None:
    """The length, by linear interpolation, where the line exceeds `limit`; else `None`."""
    points = sorted(line.peaks.items())
    for (short, low), (long, high) in pairwise(points):
        if low <= limit < high:
            return round(short + (long - short) * (limit - low) / (high - low))
    return None


def _trace(line: PeakLine) -> dict[str, Any]:
    look = look_of(line.method)
    points = sorted(line.peaks.items())
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(line.label),
        "x": [length for length, _ in points],
        "y": [peak for _, peak in points],
        "line": {"color": look.colour, "dash": look.dash, "width": 2},
        "marker": {"color": look.colour, "symbol": look.marker, "size": 8},
        "cliponaxis": False,
        "hovertext": [f"{format_bytes(peak)} at {length:,} tokens" for length, peak in points],
        "hovertemplate": "%{hovertext}<extra>" + plain(line.label) + "</extra>",
    }


def _add_limit(fig: go.Figure, limit: int, top: float, card: str) -> None:
    fig.add_hrect(y0=limit, y1=top, fillcolor=_LIMIT, opacity=0.07, line_width=0)
    fig.add_hline(
        y=limit,
        line={"color": _LIMIT, "width": 1.5, "dash": "dash"},
        annotation={
            "text": f"{plain(card)}: {format_bytes(limit)}", "xanchor": "left", "x": 0,
            "yanchor": "bottom", "font_size": 11,
        },
    )  # fmt: skip
