"""Serving many adapters on one base beside as many full models: memory against their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from ftlab.basics.units import format_bytes
from ftlab.charts.drawing import axis_of, empty_figure, figure, fix_margins, log_axis, plain
from ftlab.methods.families.full import FULL
from ftlab.methods.registry import look_of
from ftlab.records.metrics import METRICS
from ftlab.records.serving import ServingPoint, ServingRecord

_MEMORY = METRICS["net_peak_memory_bytes"]


def served_figure(record: ServingRecord, height: int = 260) -> go.Figure:
    """Memory of all weights against the number of models, both logarithmic: a line for each way."""
    lines = [
        (record.label, record.method, _measured(record.adapters)),
        (FULL.label, FULL.id, _measured(record.full_models)),
    ]
    lines = [line for line in lines if line[2]]
    values = [float(point.memory_bytes or 0) for _, _, points in lines for point in points]
    if not values:
        return empty_figure("memory was not measurable", height)
    counts = sorted({point.count for _, _, points in lines for point in points})
    axis = axis_of(_MEMORY, values)
    fig = figure(height, margin={"r": 12, "t": 12})
    fig.add_traces([_trace(*line) for line in lines])
    fig.update_layout(
        xaxis=log_axis("models in memory at once", counts, space=1.15),
        yaxis={
            "title": {"text": "memory (lower is better)"},
            "type": "log" if axis.log else "linear",
            "range": [math.log10(axis.low), math.log10(axis.high)]
            if axis.log
            else [axis.low, axis.high],
            "tickmode": "array",
            "tickvals": list(axis.ticks),
            "ticktext": list(axis.texts),
        },
    )
    return fix_margins(fig, axis.texts, y_title=True)


def _measured(points: Sequence[ServingPoint]) -> list[ServingPoint]:
    return [point for point in points if point.memory_bytes]


def _trace(label: str, method: str, points: Sequence[ServingPoint]) -> dict[str, Any]:
    look = look_of(method)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": plain(label),
        "x": [point.count for point in points],
        "y": [point.memory_bytes for point in points],
        "line": {"color": look.colour, "dash": look.dash, "width": 2},
        "marker": {"color": look.colour, "symbol": look.marker, "size": 8},
        "cliponaxis": False,
        "hovertext": [
            f"{point.count:,} x {plain(label)}: {format_bytes(point.memory_bytes or 0)}<br>"
            f"{point.answers_per_second:.2g} answers a second"
            for point in points
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
