"""The axis of a measure: its title with unit and direction of better, its range and its ticks.

Ticks are ours, so that they carry units as everywhere else on the page ("500 MB", "2 min").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ftlab.runs.metrics import MetricSpec

LOG_RATIO = 30.0
"""An axis is logarithmic where the largest value is more than this many times the smallest."""

_NAMES = {
    "trainable_params": "trained parameters",
    "trainable_share": "share of the parameters trained",
    "total_params": "parameters in all",
    "peak_memory_bytes": "peak memory of the process, train phase",
    "net_peak_memory_bytes": "net peak memory, train phase",
    "train_seconds": "training time",
    "tokens_per_second": "training speed",
    "adapter_bytes": "file to ship",
    "eval_loss_before": "held-out loss of the untouched model",
    "eval_loss_after": "held-out loss",
    "score_before": "score of the untouched model",
    "loss_change": "change of the held-out loss",
    "score_after": "score",
    "score_gain": "gain in score over the untouched model",
    "general_loss_before": "loss of the untouched model on unrelated text",
    "general_loss_after": "loss on unrelated text",
    "general_loss_change": "forgetting",
}
_UNITS_IN_TITLE = {"nats a token", "0 to 1", "-1 to 1"}
_SPACE = 0.09  # of the span, beyond the outermost values
_SECOND_STEPS = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    21600,
)
_SECOND_DECADES = (0.1, 1, 10, 60, 600, 3600, 36000)
_PREFIXES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Axis:
    """`low`, `high` and `ticks` are values of the measure, whether or not the axis is a log one."""

    name: str
    title: str
    log: bool
    low: float
    high: float
    ticks: tuple[float, ...]
    texts: tuple[str, ...]

    def share(self, value: float) -> float:
        """Where a value lies on the axis, 0 at its beginning and 1 at its end."""
        low, high = self.scaled(self.low), self.scaled(self.high)
        return (self.scaled(value) - low) / (high - low)

    def layout(self) -> dict[str, Any]:
        """What plotly calls `xaxis` or `yaxis`."""
        return {
            "title": {"text": self.title},
            "type": "log" if self.log else "linear",
            "range": [self.scaled(self.low), self.scaled(self.high)],
            "tickmode": "array",
            "tickvals": list(self.ticks),
            "ticktext": list(self.texts),
        }

    def scaled(self, value: float) -> float:
        """The value as plotly wants it in ranges and annotations: its logarithm on a log axis."""
        return math.log10(value) if self.log else value


def measure_name(metric: MetricSpec) -> str:
    """What the measure is called in a sentence and on an axis."""
    return _NAMES.get(metric.key, metric.label.lower())


def axis_title(metric: MetricSpec, name: str = "") -> str:
    """As in "net peak memory, train phase (less is better)"."""
    unit = f"{metric.unit}, " if metric.unit in _UNITS_IN_TITLE else ""
    return f"{name or measure_name(metric)} ({unit}{metric.better} is better)"


def needs_log(values: Sequence[float]) -> bool:
    """Whether the values span more than `LOG_RATIO`; only positive ones can."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > LOG_RATIO


def axis_of(metric: MetricSpec, values: Sequence[float], name: str = "") -> Axis:
    """The axis on which those values of the measure lie, with some space around them."""
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
    return Axis(name or measure_name(metric), title, needs_log(values), low, high, ticks, texts)


def tick_text(metric: MetricSpec, value: float) -> str:
    """A round value with its unit, as short as it can be said."""
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
