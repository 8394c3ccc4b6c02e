"""Costs of answering with what a run trained; runs measure them only if asked to."""

from __future__ import annotations

from ftlab.basics import units
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.result import ANSWER_WAYS, AnswerWay

_LABELS: dict[AnswerWay, str] = {"adapter": "Answer", "merged": "Merged", "nf4": "4-bit"}


def speed_key(way: AnswerWay) -> str:
    return f"answer_{way}_tokens_per_second"


def memory_key(way: AnswerWay) -> str:
    return f"answer_{way}_net_peak_bytes"


def _rate(value: float | None) -> str:
    return units.format_number(value, 1)


METRICS = (
    *(
        MetricSpec(
            speed_key(way), f"{_LABELS[way]} tok/s", "tokens per second", "more",
            f"one answer at a time, {words}: new tokens over the time from the prompt to the last "
            "of them, the median of several prompts", _rate, name=f"answering speed, {words}",
            is_optional=True,
        )
        for way, words in ANSWER_WAYS.items()
    ),
    *(
        MetricSpec(
            memory_key(way), f"{_LABELS[way]} peak", "bytes", "less",
            f"highest memory while it answers, {words}, minus the process with no model loaded",
            units.format_bytes, name=f"memory while answering, {words}", is_optional=True,
        )
        for way, words in ANSWER_WAYS.items()
    ),
)  # fmt: skip
