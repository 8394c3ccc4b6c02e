"""The measures of a run: what each is called, its unit, and which direction is better.

Table, charts, command line and exports all read this list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ftlab import units


def _score(value: float | None) -> str:
    return units.format_number(value, 2)


def _loss(value: float | None) -> str:
    return units.format_number(value, 3)


def _rate(value: float | None) -> str:
    return units.format_number(value, 0)


@dataclass(frozen=True)
class MetricSpec:
    """One column of the table. `key` is the column's name in the store's DataFrame.

    `in_table` says whether the results table shows it at first.
    """

    key: str
    label: str
    unit: str
    better: Literal["less", "more"]
    how: str
    format: Callable[[Any], str]
    in_table: bool = True


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
            "the training steps alone, device synchronised", units.format_seconds,
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
            "score_before", "Score, base", "0 to 1", "more",
            "the task's own score of the untouched model on held-out examples", _score,
        ),
        MetricSpec(
            "score_after", "Score", "0 to 1", "more",
            "the task's own score after training on the same examples", _score,
        ),
    )
}  # fmt: skip

HEADLINES = ("trainable_params", "net_peak_memory_bytes", "train_seconds", "adapter_bytes")
"""The four measures that the savings charts compare with full fine-tuning."""
