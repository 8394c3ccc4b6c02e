"""The runs of a sweep by variant, for figures: which are drawn, which are left out, what differs.

All of it reads the store's table (columns `ROW_KEYS`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ftlab.runs.comparable import likeness_of_rows
from ftlab.runs.metrics import MetricSpec
from ftlab.runs.result import status_label

EXACT = frozenset({"trainable_params", "trainable_share", "total_params", "adapter_bytes"})
"""Measures that are counted: they do not scatter, so that one run is enough."""

SETTINGS = (
    "run_id", "variant", "method", "seed", "hyperparameters", "learning_rate", "steps",
    "batch_size", "dtype_policy", "device", "machine",
)  # fmt: skip
"""Columns that a hover tells."""


@dataclass(frozen=True)
class VariantRuns:
    """The runs of one variant, one a seed; `rows` are rows of the table."""

    variant: str
    method: str
    rows: tuple[Mapping[str, Any], ...]

    def values(self, key: str) -> list[float]:
        """The measured values, in the order of the runs."""
        return [float(row[key]) for row in self.rows if is_measured(row[key])]

    def mean(self, key: str) -> float:
        """Mean over the runs; NaN where none has the measure."""
        values = self.values(key)
        return sum(values) / len(values) if values else math.nan

    def low(self, key: str) -> float:
        return min(self.values(key), default=math.nan)

    def high(self, key: str) -> float:
        return max(self.values(key), default=math.nan)

    def reach(self, metric: MetricSpec) -> tuple[float, float]:
        """The ends of its bar: the range of the seeds; of one run its 95 % interval, if it has one.

        The rows must hold `metric.interval_keys`.
        """
        if len(self.rows) == 1 and metric.interval:
            ends = [self.rows[0][key] for key in metric.interval_keys]
            if all(map(is_measured, ends)):
                return float(ends[0]), float(ends[1])
        return self.low(metric.key), self.high(metric.key)

    @property
    def run_ids(self) -> str:
        """The ids of the runs with spaces between them, as a figure's `customdata` holds them."""
        return " ".join(str(row["run_id"]) for row in self.rows)


def is_measured(value: Any) -> bool:
    """Whether the value of a cell is a number; NaN, infinity and `None` are not."""
    return value is not None and math.isfinite(value)


def left_out(table: pd.DataFrame, *keys: str) -> tuple[pd.DataFrame, int]:
    """(the runs that are done and have all those measures, how many of the table are not)."""
    kept = table["status"] == "done"
    for key in keys:
        kept &= table[key].astype(float).map(math.isfinite)
    rows = table[kept]
    return rows, len(table) - len(rows)


def left_out_line(table: pd.DataFrame, *keys: str) -> str:
    """As in "3 runs left out: 1 failed, 2 not measured."; empty where none is."""
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


def unlike_line(table: pd.DataFrame, *keys: str) -> str:
    """As in "Not like for like: steps (30, 60)." of the runs that have all those measures."""
    return likeness_of_rows(left_out(table, *keys)[0]).sentence


def by_variant(rows: pd.DataFrame, *keys: str) -> list[VariantRuns]:
    """The rows by variant, in the order of the table.

    Only settings and the columns `keys` are kept, all of them where none is named.
    """
    if rows.empty:
        return []
    columns = list(dict.fromkeys([*SETTINGS, *keys])) if keys else list(rows.columns)
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for values in zip(*(rows[column].tolist() for column in columns), strict=True):
        row = dict(zip(columns, values, strict=True))
        groups.setdefault((str(row["variant"]), str(row["method"])), []).append(row)
    return [VariantRuns(*key, tuple(members)) for key, members in groups.items()]


def unknown_spread(groups: Sequence[VariantRuns]) -> str:
    """What follows a finding that rests on single runs, in brackets."""
    if all(len(group.rows) < 2 for group in groups):
        return " (one seed: no spread is known)"
    lone = [group.variant for group in groups if len(group.rows) < 2]
    who = lone[0] if len(lone) == 1 else f"{len(lone)} variants"
    return f" (one seed of {who}: no spread is known)" if lone else ""


def separated(one: VariantRuns, other: VariantRuns, key: str) -> bool | None:
    """Whether every run of one lies on the same side of every run of the other.

    `None` where nobody knows: one of them has a single run, of a measure that scatters.
    """
    ours, theirs = one.values(key), other.values(key)
    if not ours or not theirs or (key not in EXACT and min(len(ours), len(theirs)) < 2):
        return None
    return max(ours) < min(theirs) or max(theirs) < min(ours)
