"""The singular values of a change, and how large the change of each weight matrix is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.template import INK, figure, plain
from ftlab.units import format_number, format_share

SPECTRUM_COLUMNS = ["direction", "value", "energy", "cumulative", "kept"]
MAP_COLUMNS = ["layer", "part", "name", "size", "effective_rank", "rank"]
MEASURES = {"size": "size", "effective_rank": "effective rank"}
_LEFT_OUT = "rgba(128,138,152,0.45)"
_ROW_PIXELS = 19


def spectrum_rows(values: np.ndarray, rank: int, limit: int = 64) -> pd.DataFrame:
    """One row for each of the first `limit` singular values (of all, in falling order).

    `energy` is its share of the squared Frobenius norm, `cumulative` that share with all before
    it, `kept` whether it is among the first `rank`.
    """
    squares = np.square(np.asarray(values, dtype=np.float64))
    total = squares.sum()
    energy = squares / total if total > 0 else np.zeros_like(squares)
    rows = pd.DataFrame(
        {
            "direction": np.arange(1, len(squares) + 1),
            "value": np.asarray(values, dtype=np.float64),
            "energy": energy,
            "cumulative": np.cumsum(energy),
        }
    )
    return rows.assign(kept=rows["direction"] <= rank).head(limit)[SPECTRUM_COLUMNS]


def spectrum_figure(rows: pd.DataFrame, colour: str, height: int = 150) -> go.Figure:
    """Bars of singular values, those that are kept in `colour`; columns `SPECTRUM_COLUMNS`."""
    fig = figure(height, margin={"l": 8, "r": 8, "t": 6, "b": 8}, bargap=0.2)
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
    """A cell for each weight matrix: layers across, matrices of a layer down.

    `rows` has the columns `MAP_COLUMNS`, in the order in which parts stand; `measure` is "size"
    (Frobenius norm of the change) or "effective_rank"; the matrix named `chosen` wears a frame.
    """
    parts = list(dict.fromkeys(rows["part"]))
    layers = list(dict.fromkeys(rows["layer"]))
    table = rows.pivot(index="part", columns="layer", values=measure).reindex(parts)[layers]
    words = rows.assign(words=[_matrix(row) for row in rows.itertuples()]).pivot(
        index="part", columns="layer", values="words"
    )
    fig = figure(64 + _ROW_PIXELS * len(parts), margin={"l": 8, "r": 8, "t": 6, "b": 8})
    fig.add_heatmap(
        z=table.to_numpy().tolist(),
        x=list(range(len(layers))),
        y=list(range(len(parts))),
        text=words.reindex(parts)[layers].fillna("").to_numpy().tolist(),
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
        # A letter in the ink of the template follows the page from light to dark; a shape does not.
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
