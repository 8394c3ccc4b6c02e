"""How near the vectors of a learnt prompt are to real tokens."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.template import figure, plain
from ftlab.methods.prompts import PROMPT_TUNING

_BAND = "rgba(112,123,140,0.22)"


@dataclass(frozen=True)
class TokenBand:
    """Cosines among real tokens: to the nearest other one (`low` to `high`), and of any `pair`."""

    low: float
    high: float
    pair: float


def nearest_figure(vectors: pd.DataFrame, band: TokenBand, height: int = 250) -> go.Figure:
    """A point a vector (`vector`, `cosine`, `token`), over what is usual among real tokens."""
    fig = figure(height)
    last = len(vectors) + 0.5
    fig.add_shape(
        type="rect", x0=0.5, x1=last, y0=band.low, y1=band.high, fillcolor=_BAND, line_width=0,
        layer="below",
    )  # fmt: skip
    fig.add_shape(
        type="line", x0=0.5, x1=last, y0=band.pair, y1=band.pair,
        line={"color": PROMPT_TUNING.look.colour, "width": 1.5, "dash": "dot"},
    )  # fmt: skip
    fig.add_scatter(
        x=vectors["vector"].tolist(),
        y=vectors["cosine"].tolist(),
        mode="markers",
        marker={
            "symbol": PROMPT_TUNING.look.marker, "size": 9, "color": PROMPT_TUNING.look.colour,
        },
        text=[plain(str(token)) for token in vectors["token"]],
        hovertemplate="v%{x}: nearest %{text}, cosine %{y:.2f}<extra></extra>",
    )  # fmt: skip
    fig.update_xaxes(title_text="learnt vector", range=[0.5, last], showgrid=False)
    low = min(0.0, float(vectors["cosine"].min()), band.pair)
    return fig.update_yaxes(title_text="cosine to its nearest token", range=[low, 1.02])
