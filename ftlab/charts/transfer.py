"""The chart of a study: each method's place in our table against that in a published one."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from ftlab.charts.drawing import Axis, figure, fix_margins, plain
from ftlab.charts.points import Spot, place_labels
from ftlab.methods.registry import BASE_LOOK, METHODS, label_of, look_of
from ftlab.records.metrics import METRICS
from ftlab.records.transfer import Placed, TransferRecord, Which

_FRAME_PIXELS = 58
_LABEL_PLACES = 3.0  # the methods that are last in both tables have no room on their other side


def transfer_figure(
    record: TransferRecord, column: str, which: Which, height: int = 420
) -> go.Figure:
    """One labelled point a method, place 1 at the top right; on the line both places are equal.

    A bar goes from the lowest to the highest place that its seeds have, each taken alone.
    """
    studied = record.column(column)
    placed = record.placed(studied, which)
    across = _axis("place in PEFT's table, 3B", len(placed), room=_LABEL_PLACES)
    up = _axis("place in this one", len(placed))
    fig = figure(height, margin={"r": 16, "t": 12})
    ends = [1.0, float(len(placed))]
    fig.add_scatter(
        x=ends, y=ends, mode="lines", hoverinfo="skip", name="the same place",
        line={"color": BASE_LOOK.colour, "dash": BASE_LOOK.dash, "width": 1.5},
    )  # fmt: skip
    metric = METRICS[studied.ours]
    for one in placed:
        hover = (
            f"<b>{plain(label_of(one.method))}</b><br>here {metric.format(one.mean)}, "
            f"place {one.our_rank:g}<br>published {one.theirs:.3f}, place {one.their_rank:g}"
        )
        fig.add_trace(_point(one, hover))
    fig.update_layout(xaxis=across.layout(), yaxis=up.layout())
    fix_margins(fig, up.texts, y_title=True)
    spots = [_spot(one, across, up) for one in placed]
    line = [(across.share(end), up.share(end)) for end in ends]
    places = place_labels(spots, height - _FRAME_PIXELS, len(spots), line)
    fig.update_layout(
        annotations=[
            {"x": one.their_rank, "y": one.our_rank, "text": plain(spot.text), **place.annotation()}
            for one, spot, place in zip(placed, spots, places, strict=True)
            if place is not None
        ]
    )
    return fig


def _axis(name: str, count: int, room: float = 1.0) -> Axis:
    """Places from 1, the best, at the end of the axis; with room for labels before the last."""
    ticks = tuple(float(place) for place in range(1, count + 1) if place == 1 or place % 5 == 0)
    texts = tuple(f"{tick:g}" for tick in ticks)
    return Axis(name, name, False, count + room, 0.0, ticks, texts)


def _point(one: Placed, hover: str) -> dict[str, Any]:
    look, (first, last) = look_of(one.method), one.seed_places
    return {
        "type": "scatter",
        "mode": "markers",
        "name": plain(label_of(one.method)),
        "x": [one.their_rank],
        "y": [one.our_rank],
        "error_y": {
            "type": "data", "symmetric": False, "array": [max(0.0, last - one.our_rank)],
            "arrayminus": [max(0.0, one.our_rank - first)], "color": look.colour, "thickness": 1.2,
            "width": 0,
        },
        "marker": {"color": look.colour, "symbol": look.marker, "size": 10},
        "hovertext": [hover],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }  # fmt: skip


def _spot(one: Placed, across: Axis, up: Axis) -> Spot:
    x, y = across.share(one.their_rank), up.share(one.our_rank)
    ends = sorted(up.share(place) for place in one.seed_places)
    return Spot(x, y, METHODS[one.method].short_label, (x, x), tuple(ends))
