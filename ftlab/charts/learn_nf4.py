"""A block of weights before and after 4 bits, and how often each level is used."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.template import figure
from ftlab.methods.lora import QLORA

_GREY = "#7b8494"  # seen on light and on dark; the template's ink is only for text


def block_figure(block: pd.DataFrame, levels: pd.DataFrame, height: int = 360) -> go.Figure:
    """The weights of one block (`weight`, `restored`) over the lines of the levels (`value`).

    A line between the two points of a weight is its error.
    """
    fig = figure(height)
    places = list(range(1, len(block) + 1))
    before, after = block["weight"].tolist(), block["restored"].tolist()
    fig.add_scatter(
        x=[x for place in places for x in (place, place, None)],
        y=[y for pair in zip(before, after, strict=True) for y in (*pair, None)],
        mode="lines",
        line={"color": _GREY, "width": 1},
        hoverinfo="skip",
        name="error",
    )
    fig.add_scatter(
        x=places,
        y=after,
        mode="markers",
        marker={"symbol": "diamond", "size": 7, "color": QLORA.look.colour},
        customdata=[f"{a - b:+.4f}" for a, b in zip(after, before, strict=True)],
        hovertemplate="weight %{x} in 4 bits: %{y:.4f}, off by %{customdata}<extra></extra>",
        name="after",
    )
    fig.add_scatter(
        x=places,
        y=before,
        mode="markers",
        marker={"symbol": "circle-open", "size": 7, "color": _GREY, "line_width": 1.5},
        hovertemplate="weight %{x}: %{y:.4f}<extra></extra>",
        name="before",
    )
    values = levels["value"].tolist()
    largest = max(map(abs, values)) or 1.0
    fig.update_xaxes(title_text="weight of the block", range=[0, len(block) + 1], showgrid=False)
    return fig.update_yaxes(
        tickvals=values,
        ticktext=[f"{value:.2f}" for value in values],
        tickfont={"size": 10},
        range=[-1.06 * largest, 1.06 * largest],
        title_text="value; a line a level",
    )


def levels_figure(used: pd.DataFrame, height: int = 180) -> go.Figure:
    """A bar a level (`level`, `share`): how much of the weights take it."""
    fig = figure(height)
    fig.add_bar(
        x=list(range(len(used))),
        y=(100 * used["share"]).tolist(),
        marker={"color": QLORA.look.colour, "line_width": 0},
        customdata=[f"{level:.3f}" for level in used["level"]],
        hovertemplate="level %{x} (%{customdata} of absmax): %{y:.1f} %<extra></extra>",
    )
    ticks = [0, 7, len(used) - 1] if len(used) == 16 else [0, len(used) - 1]
    names = {0: "−absmax", 7: "0", len(used) - 1: "absmax"}
    fig.update_xaxes(tickvals=ticks, ticktext=[names[i] for i in ticks], showgrid=False)
    return fig.update_yaxes(ticksuffix=" %", rangemode="tozero", nticks=4).update_layout(bargap=0.2)
