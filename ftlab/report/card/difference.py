"""Whether two variants of a sweep differ in a measure, or whether the runs do not show it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ftlab.charts.savings import times
from ftlab.runs.statistics import paired_interval
from ftlab.runs.store import Run
from ftlab.runs.sweep_data import SweepData

_PER_EXAMPLE = {"score_after": "score_after", "eval_loss_after": "loss_after"}
"""Measure of a run -> its value of one example, as `samples.jsonl` has it."""

_FEWEST_EXAMPLES = 10  # a bootstrap over fewer says nothing

Example = tuple[str, str]
"""Prompt and wanted answer, as text: what makes two examples the same."""


@dataclass(frozen=True)
class Interval:
    """The 95 % interval of a gain, paired over `examples` held-out examples."""

    low: float
    high: float
    examples: int

    @property
    def separates(self) -> bool:
        """Whether no gain at all lies outside the interval."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """A variant's quality less the other's, in the measure's own unit.

    `shown` is `None` where one run each, without its examples, leaves the spread unknown.
    """

    gain: float
    shown: bool | None
    interval: Interval | None = None


def quality_difference(data: SweepData, key: str, variant: str, other: str) -> Difference:
    """`key` is "score_after" or "eval_loss_after".

    Shown is what lies outside the interval over the examples, where both variants answered the same
    ones, and what keeps the ranges of the seeds apart, where both have several.
    """
    own, full = _values(data.table, key, variant), _values(data.table, key, other)
    interval = _paired(data, key, variant, other)
    overlap = ranges_overlap(own, full)
    if interval is not None:
        shown: bool | None = interval.separates and overlap is not True
    else:
        shown = None if overlap is None else not overlap
    return Difference(_mean(own) - _mean(full), shown, interval)


def is_even(table: pd.DataFrame, key: str, variant: str, other: str) -> bool:
    """Whether a cost is the same within what is known: two decimals, or the ranges of the seeds."""
    own, full = _values(table, key, variant), _values(table, key, other)
    base = _mean(full)
    if base > 0 and times(_mean(own) / base) == "1.00x":
        return True
    return ranges_overlap(own, full) is True


def ranges_overlap(own: Sequence[float], other: Sequence[float]) -> bool | None:
    """Whether two lists of seeds' values lie within each other's range; `None` below two each."""
    if len(own) < 2 or len(other) < 2:
        return None
    return min(own) <= max(other) and min(other) <= max(own)


def _values(table: pd.DataFrame, key: str, variant: str) -> list[float]:
    rows = table[(table["status"] == "done") & (table["variant"] == variant)]
    return [float(value) for value in rows[key] if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _paired(data: SweepData, key: str, variant: str, other: str) -> Interval | None:
    own, full = _per_example(data, key, variant), _per_example(data, key, other)
    if own is None or full is None or own.keys() != full.keys():
        return None
    if len(own) < _FEWEST_EXAMPLES:
        return None
    places = sorted(own)
    _, low, high = paired_interval([full[at] for at in places], [own[at] for at in places])
    return Interval(low, high, len(places))


def _per_example(
    data: SweepData, key: str, variant: str
) -> dict[tuple[int, Example], float] | None:
    """The variant's mean over its seeds, by example; `None` unless all seeds have the same ones."""
    runs = [run for run in data.own_runs if run.status == "done" and run.spec.label == variant]
    each = [_examples(run, _PER_EXAMPLE[key]) for run in runs]
    if not each or any(examples.keys() != each[0].keys() for examples in each):
        return None
    return {at: _mean([examples[at] for examples in each]) for at in each[0]}


def _examples(run: Run, key: str) -> dict[tuple[int, Example], float]:
    """Number and example -> value; empty where a value is missing or the file cannot be read."""
    try:
        rows = run.directory.samples()
    except OSError:
        return {}
    values: dict[tuple[int, Example], float] = {}
    for row in rows:
        value = row.get(key)
        if not isinstance(value, int | float) or not math.isfinite(value):
            return {}
        values[(len(values), _example(row))] = float(value)
    return values


def _example(row: dict[str, Any]) -> Example:
    return str(row.get("prompt")), str(row.get("reference"))
