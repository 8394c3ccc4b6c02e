"""Measured against predicted peak memory, or training time: one point per run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from ftlab.basics.units import format_bytes, format_seconds
from ftlab.charts.drawing import axis_to, empty_figure, figure, fix_margins, plain, short_name
from ftlab.methods.registry import look_of
from ftlab.prediction.remedies import Band, Seen
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.spec import MetricSpec

_PREDICTED = "#8b5cf6"
_SPACE = 1.08


@dataclass(frozen=True)
class Quantity:
    """What was predicted: its measure, its name on the axes, and how a value is written."""

    metric: MetricSpec
    name: str
    written: Callable[[float], str]


PEAK = Quantity(METRICS["net_peak_memory_bytes"], "memory while training", format_bytes)
TIME = Quantity(METRICS["train_seconds"], "training time", format_seconds)


def predicted_figure(
    seen: Sequence[Seen], band: Band, height: int = 300, quantity: Quantity = PEAK
) -> go.Figure:
    """Plots what each run took over what was predicted of it; dotted lines show `band`.

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
        *(_points([run for run in seen if run.method == method], quantity)
          for method in dict.fromkeys(run.method for run in seen)),
    ])  # fmt: skip
    ticks = axis_to(quantity.metric, end)
    fig.update_xaxes(title_text=f"predicted {quantity.name}", **ticks)
    fig.update_yaxes(title_text=f"measured {quantity.name}", **ticks)
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


def _points(runs: Sequence[Seen], quantity: Quantity) -> dict[str, Any]:
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
            f"<b>{plain(run.label)}</b><br>predicted ≈ {quantity.written(run.predicted)}, "
            f"measured {quantity.written(run.measured)}<br>{run.ratio:.2f} times"
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
