"""The look of every figure: one plotly template, transparent, with one ink and one grid colour.

The page recolours whatever wears `INK` and `GRID` by CSS when it turns dark; a file that stands
alone (the report) asks for the dark template instead. Titles and legends are HTML around a figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from ftlab.methods.registry import METHODS, label_of, look_of

INK, GRID = "#57606e", "#e6e9ee"
DARK_INK, DARK_GRID = "#aab4c0", "#2a313b"
_HIDDEN_BUTTONS = [
    "zoom", "pan", "select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "resetScale2d",
    "toImage",
]  # fmt: skip
_CHARACTER_PIXELS = 7
_GLYPHS = {
    "circle": "●", "diamond": "◆", "triangle-up": "▲", "cross": "✚", "x": "✖", "star": "★",
    "circle-open": "○", "square-open": "□", "diamond-open": "◇", "triangle-up-open": "△",
    "triangle-down": "▼", "pentagon": "⬟", "hexagon": "⬢", "square-cross": "⊞",
    "star-diamond": "✦", "hexagram": "✶",
}  # fmt: skip


def template(dark: bool = False) -> go.layout.Template:
    ink, grid = (DARK_INK, DARK_GRID) if dark else (INK, GRID)
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zeroline": False,
        "ticks": "",
        "ticklabelstandoff": 5,
        "automargin": True,
        "ticklabeloverflow": "allow",  # plotly measures every label for any other choice
        "title": {"standoff": 8, "font": {"size": 12}},
    }
    return go.layout.Template(
        layout={
            "font": {"family": "IBM Plex Sans, system-ui, sans-serif", "size": 12, "color": ink},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
            "xaxis": axis,
            "yaxis": axis,
            "hoverlabel": {
                "align": "left",
                "font": {"family": "IBM Plex Mono, monospace", "size": 12},
            },
            "showlegend": False,
            "dragmode": False,
            "modebar": {"remove": _HIDDEN_BUTTONS, "bgcolor": "rgba(0,0,0,0)", "color": ink},
        }
    )


TEMPLATE = template()


def figure(height: int, **layout: Any) -> go.Figure:
    """An empty figure in the template, `height` pixels high."""
    return go.Figure(layout={"template": TEMPLATE, "height": height, **layout})


def fix_margins(
    fig: go.Figure, left: Sequence[str], y_title: bool, x_ticks: bool = True
) -> go.Figure:
    """Gives the axes the room that they need: where plotly finds it itself, it draws twice.

    `left` are the labels of the y axis; `y_title` says whether it has a title, `x_ticks` whether
    the x axis has labels. There is room for the title of the x axis.
    """
    return fig.update_layout(
        margin_l=14 + _CHARACTER_PIXELS * max(map(len, left), default=0) + (24 if y_title else 0),
        margin_b=26 + (22 if x_ticks else 0),
        xaxis_automargin=False,
        yaxis_automargin=False,
    )


def plain(text: str) -> str:
    """Text from a record made safe for plotly, which reads tags and `%{…}` in its labels."""
    return escape(text, quote=False).replace("%{", "%&#123;")


def short_name(variant: str, method: str, limit: int = 16) -> str:
    """A variant's name for a narrow axis: the method's short label, cut to `limit` characters."""
    label = label_of(method)
    if method in METHODS and variant.startswith(label):
        variant = METHODS[method].short_label + variant.removeprefix(label)
    return variant if len(variant) <= limit else variant[: limit - 1].rstrip() + "…"


def glyph(method: str, marker: str | None = None) -> str:
    """A method's colour as a square, or as a marker, before a label whose words are in ink.

    The colours are too pale to be read as text.
    """
    return f'<span style="color:{look_of(method).colour}">{_GLYPHS.get(marker or "", "■")}</span>'
