"""The look of every figure: one plotly template, and axes whose ticks have units.

The template is transparent, with one ink and one grid colour. In dark mode, the CSS of the page or
of the report recolours everything that has `INK` or `GRID`. Titles and legends are HTML around a
figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from ftlab.methods.registry import METHODS, label_of, look_of
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.spec import MetricSpec

INK, GRID = "#57606e", "#e6e9ee"
DARK_INK, DARK_GRID = "#aab4c0", "#2a313b"
_HIDDEN_BUTTONS = [
    "zoom", "pan", "select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "resetScale2d",
    "toImage",
]  # fmt: skip
HEIGHT = 330
"""Default height of a figure, in pixels."""

_CHARACTER_PIXELS = 7
_GLYPHS = {
    "circle": "●", "diamond": "◆", "triangle-up": "▲", "cross": "✚", "x": "✖", "star": "★",
    "circle-open": "○", "square-open": "□", "diamond-open": "◇", "triangle-up-open": "△",
    "triangle-down": "▼", "pentagon": "⬟", "hexagon": "⬢", "square-cross": "⊞",
    "star-diamond": "✦", "hexagram": "✶",
}  # fmt: skip

LOG_RATIO = 30.0
"""An axis is logarithmic if the largest value is more than this many times the smallest."""

_UNITS_IN_TITLE = {"0 to 1", "-1 to 1"}
_SPACE = 0.09  # share of the span that is added beyond the outermost values
_SECOND_STEPS = (
    0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600,
)  # fmt: skip
_SECOND_DECADES = (0.1, 1, 10, 60, 600, 3600, 36000)
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def template(dark: bool = False) -> go.layout.Template:
    ink, grid = (DARK_INK, DARK_GRID) if dark else (INK, GRID)
    axis = {
        "gridcolor": grid,
        "linecolor": grid,
        "zeroline": False,
        "ticks": "",
        "ticklabelstandoff": 5,
        "automargin": True,
        "ticklabeloverflow": "allow",  # with any other value plotly measures each label
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


def empty_figure(words: str, height: int = HEIGHT) -> go.Figure:
    """A figure without data that shows the reason."""
    fig = figure(height)
    fig.update_xaxes(visible=False).update_yaxes(visible=False)
    return fig.add_annotation(text=words, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)


def name_rows(
    fig: go.Figure,
    variants: Iterable[tuple[str, str]],
    places: Sequence[float],
    ends: tuple[float, float],
    x_ticks: bool = True,
) -> go.Figure:
    """Labels the rows of a bar chart with the short names of (variant, method), downwards.

    `ends` are the positions above the first and below the last row.
    """
    names = [short_name(variant, method) for variant, method in variants]
    fig.update_yaxes(
        showgrid=False, tickvals=list(places), ticktext=[plain(name) for name in names],
        range=ends[::-1],
    )  # fmt: skip
    return fix_margins(fig, names, y_title=False, x_ticks=x_ticks)


def fix_margins(
    fig: go.Figure, left: Sequence[str], y_title: bool, x_ticks: bool = True
) -> go.Figure:
    """Sets fixed margins that fit the axes: with automatic margins plotly draws twice.

    `left` are the labels of the y axis. `y_title` is whether it has a title, `x_ticks` whether the
    x axis has labels. There is always space for the title of the x axis.
    """
    return fig.update_layout(
        margin_l=14 + _CHARACTER_PIXELS * max(map(len, left), default=0) + (24 if y_title else 0),
        margin_b=26 + (22 if x_ticks else 0),
        xaxis_automargin=False,
        yaxis_automargin=False,
    )


def plain(text: str) -> str:
    """Escapes text from a record for plotly, which parses tags and `%{…}` in its labels."""
    return escape(text, quote=False).replace("%{", "%&#123;")


def short_name(variant: str, method: str, limit: int = 16) -> str:
    """A variant's name for a narrow axis: the method's short label, cut to `limit` characters."""
    label = label_of(method)
    if method in METHODS and variant.startswith(label):
        variant = METHODS[method].short_label + variant.removeprefix(label)
    return variant if len(variant) <= limit else variant[: limit - 1].rstrip() + "…"


def glyph(method: str, marker: str | None = None) -> str:
    """The method's colour as a square or marker symbol, to put before a label.

    The label itself keeps the ink colour: the method colours are too pale for text.
    """
    return f'<span style="color:{look_of(method).colour}">{_GLYPHS.get(marker or "", "■")}</span>'


@dataclass(frozen=True)
class Axis:
    """`low`, `high` and `ticks` are values of the measure, also on a logarithmic axis."""

    name: str
    title: str
    log: bool
    low: float
    high: float
    ticks: tuple[float, ...]
    texts: tuple[str, ...]

    def share(self, value: float) -> float:
        """The position of a value on the axis: 0 at its start, 1 at its end."""
        low, high = self.scaled(self.low), self.scaled(self.high)
        return (self.scaled(value) - low) / (high - low)

    def layout(self) -> dict[str, Any]:
        """The properties of a plotly `xaxis` or `yaxis`."""
        return {
            "title": {"text": self.title},
            "type": "log" if self.log else "linear",
            "range": [self.scaled(self.low), self.scaled(self.high)],
            "tickmode": "array",
            "tickvals": list(self.ticks),
            "ticktext": list(self.texts),
        }

    def scaled(self, value: float) -> float:
        """The value for plotly's ranges and annotations: its logarithm on a log axis."""
        return math.log10(value) if self.log else value


def axis_title(metric: MetricSpec, name: str = "") -> str:
    """The title of an axis, as in "memory while training (lower is better)"."""
    unit = f"{metric.unit}, " if metric.unit in _UNITS_IN_TITLE else ""
    return f"{name or metric.name} ({unit}{metric.direction} is better)"


def needs_log(values: Sequence[float]) -> bool:
    """Whether the values are positive and span more than `LOG_RATIO`."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_RATIO


def axis_of(metric: MetricSpec, values: Sequence[float], name: str = "") -> Axis:
    """The axis for those values of the measure, with some space around them."""
    title = axis_title(metric, name)
    least, most = min(values), max(values)
    if needs_log(values):
        space = _SPACE * math.log10(most / least)
        low, high = least / 10**space, most * 10**space
        ticks = _log_ticks(metric, low, high)
    else:
        space = _SPACE * (most - least) or 0.1 * abs(most) or 1.0
        low, high = least - space, most + space
        ticks = _linear_ticks(metric, low, high, floor=least >= 0)
    texts = tuple(tick_text(metric, tick) for tick in ticks)
    return Axis(name or metric.name, title, needs_log(values), low, high, ticks, texts)


def bytes_axis(end: float) -> dict[str, Any]:
    """The properties of a plotly axis in bytes, from 0 to `end`."""
    return axis_to(METRICS["net_peak_memory_bytes"], end)


def log_axis(title: str, ticks: Sequence[int], space: float = 1.1) -> dict[str, Any]:
    """The properties of a logarithmic plotly axis that names each of these sorted numbers.

    It ends `space` times beyond the first and the last.
    """
    return {
        "title": {"text": title},
        "type": "log",
        "range": [math.log10(ticks[0] / space), math.log10(ticks[-1] * space)],
        "tickmode": "array",
        "tickvals": list(ticks),
        "ticktext": [f"{tick:,}" for tick in ticks],
    }


def axis_to(metric: MetricSpec, end: float) -> dict[str, Any]:
    """The properties of a plotly axis of the measure, from 0 to `end`."""
    axis = axis_of(metric, [0.0, end])
    ticks = [tick for tick in zip(axis.ticks, axis.texts, strict=True) if 0 <= tick[0] <= end]
    return {
        "range": [0, end],
        "tickmode": "array",
        "tickvals": [value for value, _ in ticks],
        "ticktext": [text for _, text in ticks],
    }


def tick_text(metric: MetricSpec, value: float) -> str:
    """A round value with its unit, as short as possible."""
    if metric.unit == "seconds":
        return _seconds(value)
    if metric.unit == "of all parameters":
        return f"{100 * value:.6g} %"
    if metric.unit in ("bytes", "parameters"):
        unit = "B" if metric.unit == "bytes" else ""
        for size, prefix in _PREFIXES:
            if abs(value) >= size:
                return f"{value / size:.6g} {prefix}{unit}"
        return f"{value:.6g} {unit}".strip()
    return f"{value:.6g}"


def _seconds(value: float) -> str:
    if value >= 3600 and value % 3600 == 0:
        return f"{value / 3600:g} h"
    if value >= 60 and value % 60 == 0:
        return f"{value / 60:g} min"
    return f"{value:.6g} s"


def _linear_ticks(metric: MetricSpec, low: float, high: float, floor: bool) -> tuple[float, ...]:
    step = _step(metric, (high - low) / 5)
    first = math.ceil(low / step)
    ticks = [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]
    return tuple(tick for tick in ticks if tick >= 0 or not floor)


def _step(metric: MetricSpec, wanted: float) -> float:
    if metric.unit == "seconds" and _SECOND_STEPS[0] <= wanted <= _SECOND_STEPS[-1]:
        return next(step for step in _SECOND_STEPS if step >= wanted)
    if not wanted > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= 0.999 * wanted)


def _log_ticks(metric: MetricSpec, low: float, high: float) -> tuple[float, ...]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    decades = _SECOND_DECADES if metric.unit == "seconds" else [10.0**power for power in powers]
    for factors in ((1,), (1, 3)):
        ticks = [decade * factor for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    skip = math.ceil(len(ticks) / 7)
    return tuple(ticks[::skip])
