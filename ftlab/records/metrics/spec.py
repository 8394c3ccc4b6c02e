"""What a metric is: one measure of a run, described once for every surface."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ftlab.records.result import RunResult


@dataclass(frozen=True)
class MetricSpec:
    """One column of the table. `key` is the column's name in the store's DataFrame.

    `read` takes the value out of a run's result, `None` where it was not measured; by default it is
    the field of `Measures` with that key. `how` says how it is measured, in half a sentence.
    `in_table` says whether the results table shows it at first. `interval`: it is a difference that
    has a 95 % interval, in the columns `interval_keys`. `is_counted`: it is counted, not measured,
    so it is the same in every run of a spec and one run is enough.
    """

    key: str
    label: str
    unit: str
    better: Literal["less", "more"]
    how: str
    format: Callable[[Any], str]
    read: Callable[[RunResult], float | None] | None = None
    in_table: bool = True
    interval: bool = False
    is_counted: bool = False

    def value(self, result: RunResult) -> float | None:
        """The value of that run."""
        if self.read is not None:
            return self.read(result)
        value: float | None = getattr(result.measures, self.key)
        return value

    @property
    def interval_keys(self) -> tuple[str, ...]:
        """The columns of the lower and the upper end; none where it has no interval."""
        return (f"{self.key}_low", f"{self.key}_high") if self.interval else ()

    def text(self, value: float | None, low: Any = None, high: Any = None) -> str:
        """As in "+0.32 (+0.20 to +0.44)"; without the ends of the interval the value alone."""
        shown = self.format(value)
        if not (_is_number(low) and _is_number(high)):
            return shown
        return f"{shown} ({self.format(low)} to {self.format(high)})"

    def spread_text(self, spread: float) -> str:
        """A standard deviation of the measure."""
        return self.format(spread).removeprefix("+")


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
