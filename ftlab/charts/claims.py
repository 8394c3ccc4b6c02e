"""The chart of a claim: each estimate with its interval, over the values that agree with it."""

from __future__ import annotations

import math
import textwrap
from typing import Any

import plotly.graph_objects as go

from ftlab.charts.drawing import figure, plain
from ftlab.methods.families.lora import LORA
from ftlab.records.claims import RATIOS, Estimated, Tried

_BAND = "rgba(60,150,90,0.16)"
_ROW_PIXELS = 112
_TITLE_SHARE = 0.46  # of a row, above its axis
_LINE = 52  # letters that fit on a telephone


def claim_figure(tried: Tried) -> go.Figure:
    """One row an estimate, each with its own axis; ratios are on logarithmic ones."""
    count = len(tried.estimates)
    fig = figure(_ROW_PIXELS * max(1, count), margin={"l": 14, "r": 14, "t": 4, "b": 26})
    for row, found in enumerate(tried.estimates):
        number = "" if row == 0 else str(row + 1)
        top, height = 1 - row / count, 1 / count
        low, high = _ends(found)
        fig.update_layout({
            f"xaxis{number}": {
                "anchor": f"y{number}", "type": "log" if found.kind in RATIOS else "linear",
                "range": [_scaled(found, low), _scaled(found, high)], "nticks": 6,
                **_ticks(found, low, high),
            },
            f"yaxis{number}": {
                "anchor": f"x{number}", "range": [-1, 1], "visible": False,
                "domain": [top - height * 0.74, top - height * _TITLE_SHARE],
            },
        })  # fmt: skip
        axes = {"xaxis": f"x{number}", "yaxis": f"y{number}"}
        band_low, band_high = found.band
        fig.add_scatter(
            x=[low if band_low is None else max(low, band_low)] * 2
            + [high if band_high is None else min(high, band_high)] * 2,
            y=[-1, 1, 1, -1], fill="toself", fillcolor=_BAND, line={"width": 0}, mode="lines",
            hoverinfo="skip", name="agrees", **axes,
        )  # fmt: skip
        fig.add_scatter(
            x=[found.value], y=[0], mode="markers", name=plain(found.words),
            marker={"color": LORA.look.colour, "size": 10},
            error_x={
                "type": "data", "symmetric": False, "array": [found.high - found.value],
                "arrayminus": [found.value - found.low], "color": LORA.look.colour,
                "thickness": 2, "width": 5,
            },
            hovertext=[f"{plain(found.words)}: {found.numbers}"],
            hovertemplate="%{hovertext}<extra></extra>", **axes,
        )  # fmt: skip
        lines = textwrap.wrap(f"{found.words}: {found.numbers}", _LINE)
        fig.add_annotation(
            x=0, y=top - height * 0.04, xref="paper", yref="paper", xanchor="left", yanchor="top",
            text="<br>".join(map(plain, lines)), showarrow=False, align="left",
        )  # fmt: skip
    return fig


def _ends(found: Estimated) -> tuple[float, float]:
    """The ends of the axis: all of the interval and of the band, with some space."""
    values = [found.low, found.high, *(end for end in found.band if end is not None)]
    if found.kind in RATIOS and min(values) > 0:
        return min(values) / 1.6, max(values) * 1.6
    space = 0.15 * ((max(values) - min(values)) or 1.0)
    return min(values) - space, max(values) + space


def _ticks(found: Estimated, low: float, high: float) -> dict[str, Any]:
    """Of a logarithmic axis, on which plotly writes 20 as a small 2."""
    if found.kind not in RATIOS:
        return {}
    ticks = [step * 10.0**decade for decade in range(-3, 4) for step in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    return {"tickmode": "array", "tickvals": shown, "ticktext": [f"{tick:g}" for tick in shown]}


def _scaled(found: Estimated, value: float) -> float:
    return math.log10(value) if found.kind in RATIOS else value
