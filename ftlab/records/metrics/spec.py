"""The definition of a metric: one measure of a run, described once for page, CLI and exports."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ftlab.basics import units
from ftlab.records.result import RunResult


@dataclass(frozen=True)
class MetricSpec:
    """One column of the table. `key` is the column's name in the store's DataFrame.

    `read` returns the value from a run's result, `None` if it was not measured; the default is the
    field of `Measures` with that key. `how` describes the measurement in half a sentence. With
    `in_table` the results tables show it by default; one that `is_optional` only where a run has
    it, and then the report too. `interval`: it is a difference with a 95 %
    interval, in the columns `interval_keys`. `is_counted`: it is counted, not measured, so it is
    the same in every run of a spec and one run is enough. `name` is its name in a sentence and on
    an axis; default: the label. `before` is the key of the same measure of the untouched model.
    """

    key: str
    label: str
    unit: str
    better: Literal["less", "more"]
    how: str
    format: Callable[[Any], str]
    read: Callable[[RunResult], float | None] | None = None
    in_table: bool = True
    is_optional: bool = False
    interval: bool = False
    is_counted: bool = False
    name: str = ""
    before: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.label.lower())

    @property
    def direction(self) -> Literal["lower", "higher"]:
        """Which values are better, as in "lower is better"."""
        return "lower" if self.better == "less" else "higher"

    def value(self, result: RunResult) -> float | None:
        """The metric's value for that run; `None` if it was not measured."""
        if self.read is not None:
            return self.read(result)
        value: float | None = getattr(result.measures, self.key)
        return value

    @property
    def interval_keys(self) -> tuple[str, ...]:
        """The columns of the lower and the upper end; empty without an interval."""
        return (f"{self.key}_low", f"{self.key}_high") if self.interval else ()

    def text(self, value: float | None, low: Any = None, high: Any = None) -> str:
        """As in "+0.32 (+0.20 to +0.44)"; only the value if the interval is missing."""
        shown = units.DASH if value is None else self.format(value)
        if not (_is_number(low) and _is_number(high)):
            return shown
        return f"{shown} ({self.format(low)} to {self.format(high)})"

    def spread_text(self, spread: float) -> str:
        """The metric's standard deviation as text, without a sign."""
        return self.format(spread).removeprefix("+")


def _is_number(value: Any) -> bool:
    return value is not None and math.isfinite(value)
