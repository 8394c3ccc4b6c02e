"""The runs of a sweep as charts use them: grouped by variant, filtered, and described.

Everything is read from the store's table (columns `ROW_KEYS`).
"""

from __future__ import annotations

import math
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.basics.words import rate_name
from ftlab.charts.drawing import plain
from ftlab.records.comparability import Comparability, comparability_of_rows
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.result import status_label
from ftlab.records.table import ORIGINS, origin_label

SETTINGS = (
    "run_id", "variant", "method", "seed", "hyperparameters", "learning_rate", "steps",
    "batch_size", "dtype_policy", "device", "machine",
)  # fmt: skip
"""Columns shown on hover."""

_MOST_VALUES = 6  # values shown of a setting in which the runs differ
_LINE_CHARACTERS, _LINE_PIXELS = 44, 14  # of a text line above the narrowest figure
_MOST_NAMES = 3  # differing settings named within a figure
NOTE_PIXELS = 18
"""Height of the line above a figure that shows the origin of its numbers."""

_ABOVE = {"y": 1, "xref": "paper", "yref": "paper", "yanchor": "bottom", "showarrow": False,
          "font": {"size": 11}}  # fmt: skip


@dataclass(frozen=True)
class VariantRuns:
    """The runs of one variant, one per seed; `rows` are rows of the table."""

    variant: str
    method: str
    rows: tuple[Mapping[str, Any], ...]

    def values(self, key: str) -> list[float]:
        """The measured values, in the order of the runs."""
        return [float(row[key]) for row in self.rows if is_measured(row[key])]

    def mean(self, key: str) -> float:
        """Mean over the runs; NaN if none has the measure."""
        values = self.values(key)
        return sum(values) / len(values) if values else math.nan

    def low(self, key: str) -> float:
        return min(self.values(key), default=math.nan)

    def high(self, key: str) -> float:
        return max(self.values(key), default=math.nan)

    def reach(self, metric: MetricSpec) -> tuple[float, float]:
        """The ends of the error bar: the range of the seeds; for one run its 95 % interval, if any.

        The rows must have `metric.interval_keys`.
        """
        if len(self.rows) == 1 and metric.interval:
            ends = [self.rows[0][key] for key in metric.interval_keys]
            if all(map(is_measured, ends)):
                return float(ends[0]), float(ends[1])
        return self.low(metric.key), self.high(metric.key)

    @property
    def run_ids(self) -> str:
        """The run ids, separated by spaces, as in the `customdata` of a figure."""
        return " ".join(str(row["run_id"]) for row in self.rows)


def opening(groups: Sequence[VariantRuns], hover: Iterable[str]) -> dict[str, Any]:
    """The part of a trace that shows text and settings of a group, and opens it by a click."""
    texts = [
        f"{text}<br>{settings_text(group.rows)}{click_hint(group.rows)}"
        for text, group in zip(hover, groups, strict=True)
    ]
    return {
        "cliponaxis": False,
        "customdata": [group.run_ids for group in groups],
        "hovertext": texts,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def is_measured(value: Any) -> bool:
    """Whether the value of a cell is a number; NaN, infinity and `None` are not."""
    return value is not None and math.isfinite(value)


def left_out(table: pd.DataFrame, *keys: str) -> tuple[pd.DataFrame, int]:
    """Returns (the finished runs that have all those measures, the number of the other runs)."""
    kept = table["status"] == "done"
    for key in keys:
        kept &= table[key].astype(float).map(math.isfinite)
    rows = table[kept]
    return rows, len(table) - len(rows)


def left_out_line(table: pd.DataFrame, *keys: str) -> str:
    """As in "3 runs left out: 1 failed, 2 not measured."; empty if none is left out."""
    rows, count = left_out(table, *keys)
    if not count:
        return ""
    missing = table["status"][~table.index.isin(rows.index)]
    reasons = Counter(status_label(str(status)) for status in missing)
    done = reasons.pop("done", 0)
    parts = [f"{number} {reason}" for reason, number in reasons.items()]
    if done:
        parts.append(f"{done} not measured" if parts else "not measured")
    elif len(parts) == 1:
        parts = [next(iter(reasons))]
    return f"{count:,} {'run' if count == 1 else 'runs'} left out: {', '.join(parts)}."


def by_variant(rows: pd.DataFrame, *keys: str) -> list[VariantRuns]:
    """Groups the rows by variant, in the order of the table.

    Keeps only the settings and the columns `keys`; keeps all columns if no key is given.
    """
    if rows.empty:
        return []
    columns = list(dict.fromkeys([*SETTINGS, *keys])) if keys else list(rows.columns)
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for values in zip(*(rows[column].tolist() for column in columns), strict=True):
        row = dict(zip(columns, values, strict=True))
        groups.setdefault((str(row["variant"]), str(row["method"])), []).append(row)
    return [VariantRuns(*key, tuple(members)) for key, members in groups.items()]


def shared_reason(reasons: Iterable[str]) -> str:
    """The text after "no difference is shown": a colon and the reason; empty if reasons differ."""
    different = set(reasons)
    return f": {different.pop()}" if len(different) == 1 else ""


def unknown_spread(groups: Sequence[VariantRuns]) -> str:
    """A remark in brackets for a finding that is based on single runs."""
    if all(len(group.rows) < 2 for group in groups):
        return " (each was run once: how far repeats differ is not known)"
    lone = [group.variant for group in groups if len(group.rows) < 2]
    who = f"{lone[0]} was" if len(lone) == 1 else f"{len(lone)} variants were"
    return f" ({who} run once: how far repeats differ is not known)" if lone else ""


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
            f"{_value(rows, 'device')} {_named(rows, '({})', 'machine')}".strip(),
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
    """As in "recorded 25 Nov 2026", "imported"; empty if the table has no run.

    Reads the columns `origin` and `created_at`; an import's date is not the date of its numbers.
    """
    dates = table["created_at"].astype(float).groupby(table["origin"]).min()
    return ", ".join(
        f"{origin_label(origin)} {day(dates[origin])}"
        if origin != "imported" and is_measured(dates[origin])
        else origin_label(origin)
        for origin in ORIGINS
        if origin in dates
    )


def day(timestamp: float) -> str:
    """Formats seconds since 1970 as in "5 Nov 2026", in local time."""
    when = time.localtime(timestamp)
    return f"{when.tm_mday} {time.strftime('%b %Y', when)}"


def add_facts(fig: go.Figure, rows: pd.DataFrame) -> go.Figure:
    """Writes the origin of the numbers above the plot, and why the rows are not comparable.

    A downloaded image then shows it too. `rows` are the drawn rows, with the columns of `ROW_KEYS`.
    """
    return add_unlike(add_origin(fig, rows), comparability_of_rows(rows))


def add_unlike(fig: go.Figure, found: Comparability) -> go.Figure:
    """Writes what differs above the plot, and makes the figure higher by these lines.

    There is space for few names. The values are shown on hover, and `assets/figures.js` writes them
    into an image.
    """
    if found.is_like:
        return fig
    words = f"Not a fair comparison: {found.names(_MOST_NAMES)}"
    lines = [plain(line) for line in textwrap.wrap(words, _LINE_CHARACTERS, max_lines=3)]
    more = _LINE_PIXELS * len(lines)
    margin = _margin(fig, "t")
    fig.update_layout(margin_t=margin + more, height=fig.layout.height + more)
    return fig.add_annotation(
        _ABOVE, text="<br>".join(lines), hovertext=plain(found.sentence), name="unlike",
        align="left", x=0, xanchor="left", xshift=-_margin(fig, "l"), yshift=margin,
    )  # fmt: skip


def add_origin(fig: go.Figure, table: pd.DataFrame) -> go.Figure:
    """Writes the origin of the numbers above the plot, at the right; a downloaded image shows it.

    Raises the top margin to `NOTE_PIXELS` if it is less, and the height of the figure by as much.
    """
    words = origin_words(table)
    if not words:
        return fig
    top = _margin(fig, "t")
    more = max(0, NOTE_PIXELS - top)
    fig.update_layout(margin_t=top + more, height=fig.layout.height + more)
    return fig.add_annotation(_ABOVE, text=words, name="origin", x=1, xanchor="right")


def _margin(fig: go.Figure, side: str) -> int:
    """Pixels of the margin at that side ("t", "l"), the template's if the figure sets none."""
    own = fig.layout.margin[side]
    return int(fig.layout.template.layout.margin[side] if own is None else own)


def _cell(value: Any) -> str:
    """A cell as text; empty for `None` and NaN. 60.0 becomes "60"."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _named(
    rows: Sequence[Mapping[str, Any]], words: str, key: str, show: Callable[[Any], str] = _cell
) -> str:
    value = _value(rows, key, show)
    return words.format(value) if value else ""


def _value(rows: Sequence[Mapping[str, Any]], key: str, show: Callable[[Any], str] = _cell) -> str:
    """The shared value of the rows, or their different values joined by "or"."""
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
