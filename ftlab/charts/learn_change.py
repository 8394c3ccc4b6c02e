"""How far full fine-tuning moved each part of a model."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from ftlab import units
from ftlab.charts.template import figure, plain
from ftlab.methods.full import FULL


def change_figure(parts: pd.DataFrame, height: int = 250) -> go.Figure:
    """A bar a part of the model, from `layer_changes`: change over base, in per cent."""
    fig = figure(height)
    fig.add_bar(
        x=list(range(len(parts))),
        y=(100 * parts["relative"]).tolist(),
        marker={"color": FULL.look.colour, "line_width": 0},
        customdata=[
            f"{plain(row.part)}: moved by {units.format_share(row.relative)} of its size<br>"
            f"{units.format_share(row.share)} of its {units.format_count(row.numbers)} numbers "
            "changed"
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
