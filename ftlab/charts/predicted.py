"""Measured against predicted peak memory, one point per run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from ftlab.basics.units import format_bytes
from ftlab.charts.drawing import bytes_axis, empty_figure, figure, fix_margins, plain, short_name
from ftlab.methods.registry import look_of
from ftlab.prediction.remedies import Band, Seen

_PREDICTED = "#8b5cf6"
_SPACE = 1.08


def predicted_figure(seen: Sequence[Seen], band: Band, height: int = 300) -> go.Figure:
    """Plots the measured peak of each run over its predicted peak; dotted lines show `band`.

    A run on the dashed line took exactly what was predicted.
    """
    if not seen:
        return empty_figure("no run here has both yet", height)
    end = _SPACE * max(max(run.predicted, run.measured) for run in seen)
    fig = figure(height, margin_t=12)
    fig.add_traces([
        _line(end, 1, "as predicted", "dash"),
        _line(end, band.low, "least", "dot"),
        _line(end, band.high, "most", "dot"),
        *(_points([run for run in seen if run.method == method])
          for method in dict.fromkeys(run.method for run in seen)),
    ])  # fmt: skip
    ticks = bytes_axis(end)
    fig.update_xaxes(title_text="predicted memory while training", **ticks)
    fig.update_yaxes(title_text="measured memory while training", **ticks)
    return fix_margins(fig, ticks["ticktext"], y_title=True)


def predicted_finding(seen: Sequence[Seen]) -> str:
    """How far the runs lie from their predictions."""
    if not seen:
        return "No run here has both a predicted and a measured peak yet"
    ratios = [run.ratio for run in seen]
    if len(ratios) == 1:
        return f"The one run here took {ratios[0]:.2f} times what was predicted"
    low, high = min(ratios), max(ratios)
    return f"{len(ratios)} runs here took {low:.2f} to {high:.2f} times what was predicted"


def _points(runs: Sequence[Seen]) -> dict[str, Any]:
    look = look_of(runs[0].method)
    highest = max(runs, key=lambda run: run.measured)
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": plain(runs[0].label),
        "x": [run.predicted for run in runs],
        "y": [run.measured for run in runs],
        "marker": {"color": look.colour, "symbol": look.marker, "size": 9},
        "text": [
            plain(short_name(run.label, run.method)) if run is highest else "" for run in runs
        ],
        "textposition": "top center",
        "textfont": {"size": 11},
        "cliponaxis": False,
        "hovertext": [
            f"<b>{plain(run.label)}</b><br>predicted ≈ {format_bytes(run.predicted)}, "
            f"measured {format_bytes(run.measured)}<br>{run.ratio:.2f} times"
            for run in runs
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _line(end: float, slope: float, name: str, dash: str) -> dict[str, Any]:
    reach = min(end, end / slope)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": [0, reach],
        "y": [0, slope * reach],
        "line": {"color": _PREDICTED, "width": 1.5, "dash": dash},
        "hoverinfo": "skip",
    }
