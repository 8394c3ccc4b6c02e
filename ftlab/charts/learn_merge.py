"""The outputs of a merged matrix against those of base and adapter apart."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.template import figure
from ftlab.methods.lora import LORA, QLORA

_GREY = "#7b8494"  # seen on light and on dark; the template's ink is only for text
MARKS = {"nf4": ("x", "✖"), "bf16": ("circle-open", "○"), "fp32": ("circle", "●")}
"""How each kind of merged matrix is drawn, the least exact one first (and so undermost), and the
sign that stands for it in the legend."""

_COLOURS = {"nf4": QLORA.look.colour, "bf16": _GREY, "fp32": LORA.look.colour}
_SIZES = {"nf4": 6, "bf16": 9, "fp32": 4}


def outputs_figure(outputs: pd.DataFrame, height: int = 340) -> go.Figure:
    """A point an output (`apart`, and a column for each of `MARKS`); on the diagonal: the same."""
    fig = figure(height)
    low, high = float(outputs.to_numpy().min()), float(outputs.to_numpy().max())
    space = 0.04 * (high - low) or 1.0
    ends = [low - space, high + space]
    fig.add_scatter(
        x=ends, y=ends, mode="lines", line={"color": _GREY, "width": 1, "dash": "dot"},
        hoverinfo="skip", name="the same",
    )  # fmt: skip
    for held, (symbol, _) in MARKS.items():
        fig.add_scatter(
            x=outputs["apart"].tolist(),
            y=outputs[held].tolist(),
            mode="markers",
            marker={"symbol": symbol, "size": _SIZES[held], "color": _COLOURS[held]},
            hovertemplate=f"apart %{{x:.4f}}, merged in {held} %{{y:.4f}}<extra></extra>",
            name=held,
        )
    fig.update_xaxes(title_text="base and adapter apart", range=ends)
    return fig.update_yaxes(title_text="one merged matrix", range=ends)
