"""The measures of a run: what each is called, its unit, and which direction is better.

Table, charts, command line and exports all read this list.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ftlab.basics import units


def _score(value: float | None) -> str:
    return units.format_number(value, 2)


def _loss(value: float | None) -> str:
    return units.format_number(value, 3)


def _signed(digits: int) -> Callable[[float | None], str]:
    """0.1 -> "+0.10": a difference; its spread is no difference and has no sign."""
    return lambda value: units.format_signed(value, digits)


def _rate(value: float | None) -> str:
    return units.format_number(value, 0)


@dataclass(frozen=True)
class MetricSpec:
    """One column of the table. `key` is the column's name in the store's DataFrame.

    `in_table` says whether the results table shows it at first. `interval`: it is a difference that
    has a 95 % interval, in the columns `interval_keys`.
    """

    key: str
    label: str
    unit: str
    better: Literal["less", "more"]
    how: str
    format: Callable[[Any], str]
    in_table: bool = True
    interval: bool = False

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


METRICS: dict[str, MetricSpec] = {
    metric.key: metric
    for metric in (
        MetricSpec(
            "trainable_params", "Trainable", "parameters", "less",
            "counted on the real model, after the optimizer was made", units.format_count,
        ),
        MetricSpec(
            "trainable_share", "Share", "of all parameters", "less",
            "trainable parameters over total parameters", units.format_share,
        ),
        MetricSpec(
            "total_params", "Total", "parameters", "less",
            "counted on the real model; a 4-bit weight counts its logical size",
            units.format_count, in_table=False,
        ),
        MetricSpec(
            "peak_memory_bytes", "Peak", "bytes", "less",
            "highest memory of the training phase; CPU: resident size of the process, "
            "GPU: bytes allocated by torch", units.format_bytes,
        ),
        MetricSpec(
            "net_peak_memory_bytes", "Net peak", "bytes", "less",
            "peak of the training phase minus the process with no model loaded",
            units.format_bytes,
        ),
        MetricSpec(
            "train_seconds", "Train", "seconds", "less",
            "the training steps alone, device synchronised, after an untimed pass",
            units.format_seconds,
        ),
        MetricSpec(
            "tokens_per_second", "tok/s", "tokens per second", "more",
            "real tokens, not padding, over the steps after the first", _rate,
        ),
        MetricSpec(
            "adapter_bytes", "File", "bytes", "less",
            "what must be shipped to reuse the result", units.format_bytes,
        ),
        MetricSpec(
            "eval_loss_before", "Loss, base", "nats a token", "less",
            "held-out loss of the untouched model", _loss,
        ),
        MetricSpec(
            "eval_loss_after", "Loss", "nats a token", "less",
            "held-out loss after training", _loss,
        ),
        MetricSpec(
            "loss_change", "Loss change", "nats a token", "less",
            "held-out loss after less before; interval: 95 %, bootstrap over the examples, paired "
            "with the untouched model's", _signed(3), in_table=False, interval=True,
        ),
        MetricSpec(
            "score_before", "Score, base", "0 to 1", "more",
            "the task's own score of the untouched model on held-out examples", _score,
        ),
        MetricSpec(
            "score_after", "Score", "0 to 1", "more",
            "the task's own score after training on the same examples", _score,
        ),
        MetricSpec(
            "score_gain", "Gain", "-1 to 1", "more",
            "score after less before; interval: 95 %, bootstrap over the examples, paired with the "
            "untouched model's in the run's own precision", _signed(2), interval=True,
        ),
        MetricSpec(
            "general_loss_before", "General loss, base", "nats a token", "less",
            "loss of the untouched model on plain text that has nothing to do with the task",
            _loss, in_table=False,
        ),
        MetricSpec(
            "general_loss_after", "General loss", "nats a token", "less",
            "loss after training on the same text", _loss, in_table=False,
        ),
        MetricSpec(
            "general_loss_change", "Forgot", "nats a token", "less",
            "loss on unrelated text after less before: above 0 is forgotten; interval: 95 %, "
            "bootstrap over the passages, paired", _signed(2), interval=True,
        ),
    )
}  # fmt: skip

HEADLINES = ("trainable_params", "net_peak_memory_bytes", "train_seconds", "adapter_bytes")
"""The four measures that the savings charts compare with full fine-tuning."""
