"""What every figure says of its runs: settings on hover, origin, and whether they compare."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.template import plain
from ftlab.runs.comparable import Likeness, likeness_of_rows
from ftlab.runs.table import ORIGINS
from ftlab.words import rate_name

_MOST_VALUES = 6  # of a setting in which the runs differ
_LINE_CHARACTERS, _LINE_PIXELS = 44, 14  # of a line of words above the narrowest figure
_MOST_NAMES = 3  # of what differs, within a figure
NOTE_PIXELS = 18
"""Height of the line above a figure that says where its numbers come from."""


def settings_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """The settings of runs of one variant as lines for a hover, safe for plotly."""
    lines = [
        [_value(rows, "hyperparameters")],
        [
            _named(rows, "learning rate {}", "learning_rate", rate_name),
            _named(rows, "{} steps", "steps"),
            _named(rows, "batch {}", "batch_size"),
        ],
        [
            _value(rows, "dtype_policy"),
            " ".join(filter(None, [_value(rows, "device"), _in_brackets(_value(rows, "machine"))])),
        ],
        [_seeds(rows)],
    ]
    texts = (", ".join(filter(None, parts)) for parts in lines)
    return "<br>".join(plain(text) for text in texts if text)


def click_hint(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a click on a point or bar of those runs opens."""
    if len(rows) > 1:
        return f"<br><i>click: open seed {_cell(rows[0].get('seed'))}</i>"
    return "<br><i>click: open this run</i>"


def origin_words(table: pd.DataFrame) -> str:
    """As in "recorded 25 Nov 2026", "imported"; empty where the table has no run.

    Reads the columns `origin` and `created_at`; an import's date says nothing of its numbers.
    """
    known = list(zip(table["origin"].tolist(), table["created_at"].tolist(), strict=True))
    parts = []
    for origin in ORIGINS:
        dates = [date for of, date in known if of == origin]
        if not dates:
            continue
        given = [float(date) for date in dates if date is not None and math.isfinite(date)]
        dated = origin != "imported" and bool(given)
        parts.append(f"{origin} {day(min(given))}" if dated else origin)
    return ", ".join(parts)


def day(timestamp: float) -> str:
    """Seconds since 1970 as in "5 Nov 2026", in local time."""
    when = time.localtime(timestamp)
    return f"{when.tm_mday} {time.strftime('%b %Y', when)}"


def add_facts(fig: go.Figure, rows: pd.DataFrame) -> go.Figure:
    """Writes above the plot where the numbers of the rows come from, and why they do not compare.

    So a downloaded image says it too. `rows` are those drawn, with the columns of `ROW_KEYS`.
    """
    return add_unlike(add_origin(fig, rows), likeness_of_rows(rows))


def add_unlike(fig: go.Figure, found: Likeness) -> go.Figure:
    """Writes in lines of their own above the plot what differs; makes the figure as much higher.

    There is room for few names: the values are there on hover, and `assets/figures.js` writes them
    into an image.
    """
    if found.is_like:
        return fig
    words = f"Not like for like: {found.names(_MOST_NAMES)}"
    lines = [plain(line) for line in textwrap.wrap(words, _LINE_CHARACTERS, max_lines=3)]
    more = _LINE_PIXELS * len(lines)
    margin, height = _top(fig), fig.layout.height + more
    fig.update_layout(margin_t=margin + more, height=height)
    return fig.add_annotation(
        text="<br>".join(lines),
        hovertext=plain(found.sentence),
        name="unlike",
        align="left",
        x=0,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        xshift=-_left(fig),
        yshift=margin,
        showarrow=False,
        font_size=11,
    )


def add_origin(fig: go.Figure, table: pd.DataFrame) -> go.Figure:
    """Writes above the plot, at the right, where the numbers come from: a downloaded image has it.

    Makes the top margin `NOTE_PIXELS` high if it is less, and the figure as much higher.
    """
    words = origin_words(table)
    if not words:
        return fig
    top = _top(fig)
    more = max(0, NOTE_PIXELS - top)
    fig.update_layout(margin_t=top + more, height=fig.layout.height + more)
    return fig.add_annotation(
        text=words,
        name="origin",
        x=1,
        y=1,
        xref="paper",
        yref="paper",
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        font_size=11,
    )


def _top(fig: go.Figure) -> int:
    """Pixels of the margin above the plot."""
    top = fig.layout.margin.t
    return int(fig.layout.template.layout.margin.t if top is None else top)


def _left(fig: go.Figure) -> int:
    left = fig.layout.margin.l
    return int(fig.layout.template.layout.margin.l if left is None else left)


def _cell(value: Any) -> str:
    """A cell as text; empty for `None` and NaN. 60.0 is 60."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _named(
    rows: Sequence[Mapping[str, Any]], words: str, key: str, show: Callable[[Any], str] = _cell
) -> str:
    value = _value(rows, key, show)
    return words.format(value) if value else ""


def _value(rows: Sequence[Mapping[str, Any]], key: str, show: Callable[[Any], str] = _cell) -> str:
    """The value that the rows share, or those they have, with "or" between them."""
    there = dict.fromkeys(row.get(key) for row in rows if _cell(row.get(key)))
    values = [show(value) for value in there]
    more = [f"{len(values) - _MOST_VALUES} more"] if len(values) > _MOST_VALUES else []
    return " or ".join(values[:_MOST_VALUES] + more)


def _seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    seeds = [seed for seed in (_cell(row.get("seed")) for row in rows) if seed]
    if not seeds:
        return ""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    shown = ", ".join(seeds[:_MOST_VALUES]) + (", …" if len(seeds) > _MOST_VALUES else "")
    return f"{len(seeds)} seeds: {shown}"


def _in_brackets(text: str) -> str:
    return f"({text})" if text else ""
