"""The charts of the Learn tab."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ftlab.basics.units import format_count, format_number, format_share
from ftlab.charts.drawing import INK, figure, plain
from ftlab.methods.families.full import FULL
from ftlab.methods.families.lora import LORA
from ftlab.methods.families.prompts import PROMPT_TUNING
from ftlab.methods.families.quantised import QLORA

_GREY = "#7b8494"  # visible on light and on dark; the template's ink is only for text
MARKS = {"nf4": ("x", "✖"), "bf16": ("circle-open", "○"), "fp32": ("circle", "●")}
"""Marker and legend sign of each merged matrix; the least exact first, so drawn lowest."""

_COLOURS = {"nf4": QLORA.look.colour, "bf16": _GREY, "fp32": LORA.look.colour}
_SIZES = {"nf4": 6, "bf16": 9, "fp32": 4}
_BAND = "rgba(112,123,140,0.22)"
MAP_COLUMNS = ["layer", "part", "name", "size", "effective_rank", "rank"]
MEASURES = {"size": "size", "effective_rank": "effective rank"}
_LEFT_OUT = "rgba(128,138,152,0.45)"
_ROW_PIXELS = 19


def change_figure(parts: pd.DataFrame, height: int = 250) -> go.Figure:
    """One bar per part of the model, from `layer_changes`: relative change in per cent."""
    fig = figure(height)
    fig.add_bar(
        x=list(range(len(parts))),
        y=(100 * parts["relative"]).tolist(),
        marker={"color": FULL.look.colour, "line_width": 0},
        customdata=[
            f"{plain(row.part)}: moved by {format_share(row.relative)} of its size<br>"
            f"{format_share(row.share)} of its {format_count(row.numbers)} numbers changed"
            for row in parts.itertuples()
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )
    names = [_short(str(part)) for part in parts["part"]]
    shown = [
        i for i, name in enumerate(names) if not name.isdigit() or int(name) % 5 == 0 < int(name)
    ]
    fig.update_xaxes(
        tickvals=shown,
        ticktext=[plain(names[i]) for i in shown],
        tickangle=0,
        showgrid=False,
        title_text="layer",
    )
    fig.update_yaxes(title_text="change, share of the weights' size", ticksuffix=" %")
    return fig.update_yaxes(rangemode="tozero").update_layout(bargap=0.25)


def _short(part: str) -> str:
    """ "layer 12" -> "12"; "embeddings" -> "emb."; other names as they are."""
    return {"embeddings": "emb.", "last norm": "norm"}.get(part, part.removeprefix("layer "))


def outputs_figure(outputs: pd.DataFrame, height: int = 340) -> go.Figure:
    """One point per output (columns `apart` and `MARKS`); on the diagonal both are the same."""
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


def block_figure(block: pd.DataFrame, levels: pd.DataFrame, height: int = 360) -> go.Figure:
    """The weights of one block (`weight`, `restored`) over lines at the levels (`value`).

    The line between the two points of a weight is its error.
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
    """One bar per level (`level`, `share`): the share of the weights at that level."""
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


@dataclass(frozen=True)
class TokenBand:
    """Cosines of real tokens: to the nearest other (`low` to `high`), and of a typical `pair`."""

    low: float
    high: float
    pair: float


def nearest_figure(vectors: pd.DataFrame, band: TokenBand, height: int = 250) -> go.Figure:
    """One point per vector (`vector`, `cosine`, `token`), over the usual range of real tokens."""
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


def spectrum_rows(values: np.ndarray, rank: int, limit: int = 64) -> pd.DataFrame:
    """One row for each of the first `limit` singular values; `values` are all, in descending order.

    `energy` is the share of the squared Frobenius norm, `cumulative` the sum of these shares up to
    the value, `kept` whether the value is among the first `rank`.
    """
    values = np.asarray(values, dtype=np.float64)
    directions = np.arange(1, len(values) + 1)
    energy = np.square(values) / (np.square(values).sum() or 1.0)
    return pd.DataFrame(
        {
            "direction": directions,
            "value": values,
            "energy": energy,
            "cumulative": np.cumsum(energy),
            "kept": directions <= rank,
        }
    ).head(limit)


def spectrum_figure(rows: pd.DataFrame, colour: str, height: int = 150) -> go.Figure:
    """Bars of singular values from `spectrum_rows`, with the kept ones in `colour`."""
    fig = figure(height, margin={"r": 8, "t": 6}, bargap=0.2)
    fig.add_bar(
        x=rows["direction"].tolist(),
        y=rows["value"].tolist(),
        marker={"color": [colour if kept else _LEFT_OUT for kept in rows["kept"]], "line_width": 0},
        hovertext=[_direction(row) for row in rows.itertuples()],
        hovertemplate="%{hovertext}<extra></extra>",
    )
    last = len(rows)
    fig.update_xaxes(title="direction", range=[0.4, max(8, last) + 0.6], tickformat="d")
    fig.update_xaxes(showgrid=False, nticks=9)
    return fig.update_yaxes(title="singular value", rangemode="tozero", nticks=4)


def change_map(rows: pd.DataFrame, measure: str, chosen: str, colour: str) -> go.Figure:
    """One cell per weight matrix: layers across, matrices of a layer down.

    `rows` has the columns `MAP_COLUMNS`, in the display order of the parts. `measure` is "size"
    (Frobenius norm of the change) or "effective_rank". The matrix named `chosen` has a frame.
    """
    parts = list(dict.fromkeys(rows["part"]))
    layers = list(dict.fromkeys(rows["layer"]))
    described = rows.assign(words=[_matrix(row) for row in rows.itertuples()])
    cells = described.pivot(index="part", columns="layer").reindex(parts)
    fig = figure(64 + _ROW_PIXELS * len(parts), margin={"r": 8, "t": 6})
    fig.add_heatmap(
        z=cells[measure][layers].to_numpy().tolist(),
        x=list(range(len(layers))),
        y=list(range(len(parts))),
        text=cells["words"][layers].fillna("").to_numpy().tolist(),
        hovertemplate="%{text}<extra></extra>",
        hoverongaps=False,
        colorscale=[[0, "rgba(128,138,152,0.12)"], [1, colour]],
        zmin=0,
        zmax=max(float(rows[measure].max()), 1e-9),
        xgap=1,
        ygap=1,
        colorbar={"thickness": 8, "outlinewidth": 0, "nticks": 4, "len": 1.0, "tickfont_size": 11},
    )
    step = max(1, -(-len(layers) // 10))
    fig.update_xaxes(
        title="layer",
        showgrid=False,
        tickvals=list(range(0, len(layers), step)),
        ticktext=[str(layer) if layer >= 0 else "outside" for layer in layers[::step]],
    )
    fig.update_yaxes(
        showgrid=False,
        autorange="reversed",
        tickvals=list(range(len(parts))),
        ticktext=[plain(part) for part in parts],
    )
    for row in rows[rows["name"] == chosen].itertuples():
        x, y = layers.index(row.layer), parts.index(row.part)
        # A character in the template's ink follows light and dark mode; a shape does not.
        fig.add_annotation(
            x=x, y=y, text="□", showarrow=False, font={"size": 19, "color": INK}, yshift=1
        )
    return fig


def _direction(row: Any) -> str:
    number, value = int(row.direction), float(row.value)
    energy, cumulative = float(row.energy), float(row.cumulative)
    return (
        f"direction {number}: {format_number(value, 3)}<br>{format_share(energy)} of the change, "
        f"{format_share(cumulative)} with those before"
    )


def _matrix(row: Any) -> str:
    name, size = plain(str(row.name)), float(row.size)
    used, rank = float(row.effective_rank), int(row.rank)
    return (
        f"{name}<br>size of the change {format_number(size, 3)}"
        f"<br>effective rank {format_number(used, 1)} of {rank}"
    )
