"""Quality metrics of a run: loss and score before and after, and forgetting."""

from __future__ import annotations

from collections.abc import Callable

from ftlab.basics import units
from ftlab.records.metrics.spec import MetricSpec


def _score(value: float | None) -> str:
    return units.format_number(value, 2)


def _loss(value: float | None) -> str:
    return units.format_number(value, 3)


def _signed(digits: int) -> Callable[[float | None], str]:
    """Formats a difference with its sign: 0.1 -> "+0.10"."""
    return lambda value: units.format_signed(value, digits)


METRICS = (
    MetricSpec(
        "eval_loss_before", "Loss, base", "nats a token", "less",
        "test loss of the untouched model", _loss, name="test loss of the untouched model",
    ),
    MetricSpec(
        "eval_loss_after", "Loss", "nats a token", "less",
        "test loss after training", _loss, name="test loss", before="eval_loss_before",
    ),
    MetricSpec(
        "loss_change", "Loss change", "nats a token", "less",
        "test loss after less before; interval: 95 %, bootstrap over the examples, paired "
        "with the untouched model's", _signed(3), in_table=False, interval=True,
        name="change of the test loss",
    ),
    MetricSpec(
        "score_before", "Score, base", "0 to 1", "more",
        "the task's own score of the untouched model on test examples", _score,
        name="score of the untouched model",
    ),
    MetricSpec(
        "score_after", "Score", "0 to 1", "more",
        "the task's own score after training on the same examples", _score, before="score_before",
    ),
    MetricSpec(
        "score_gain", "Gain", "-1 to 1", "more",
        "score after less before; interval: 95 %, bootstrap over the examples, paired with the "
        "untouched model's in the run's own precision", _signed(2), interval=True,
        name="gain in score over the untouched model",
    ),
    MetricSpec(
        "general_loss_before", "General loss, base", "nats a token", "less",
        "loss of the untouched model on plain text that has nothing to do with the task",
        _loss, in_table=False, name="loss of the untouched model on unrelated text",
    ),
    MetricSpec(
        "general_loss_after", "General loss", "nats a token", "less",
        "loss after training on the same text", _loss, in_table=False,
        name="loss on unrelated text", before="general_loss_before",
    ),
    MetricSpec(
        "general_loss_change", "Forgot", "nats a token", "less",
        "loss on unrelated text after less before: above 0 is forgotten; interval: 95 %, "
        "bootstrap over the passages, paired", _signed(2), interval=True, name="forgetting",
    ),
)  # fmt: skip
