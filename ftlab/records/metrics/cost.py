"""Cost metrics of a run: parameters, memory, time, and the size of the file to deliver."""

from __future__ import annotations

from ftlab.basics import units
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.result import RunResult


def _rate(value: float | None) -> str:
    return units.format_number(value, 0)


def _trainable_share(result: RunResult) -> float | None:
    trainable, total = result.measures.trainable_params, result.measures.total_params
    return trainable / total if trainable is not None and total else None


METRICS = (
    MetricSpec(
        "trainable_params", "Trainable", "parameters", "less",
        "weights that the method trains; counted on the real model, after the optimizer was made",
        units.format_count, is_counted=True, name="trainable parameters",
    ),
    MetricSpec(
        "trainable_share", "Share", "of all parameters", "less",
        "trainable parameters over all parameters", units.format_share,
        read=_trainable_share, is_counted=True, name="share of the parameters trained",
    ),
    MetricSpec(
        "total_params", "Total", "parameters", "less",
        "counted on the real model; a 4-bit weight counts its logical size",
        units.format_count, in_table=False, is_counted=True, name="parameters in all",
    ),
    MetricSpec(
        "peak_memory_bytes", "Peak", "bytes", "less",
        "highest memory of the training phase; CPU: resident size of the process, "
        "GPU: bytes allocated by torch", units.format_bytes,
        name="memory of the whole process while training",
    ),
    MetricSpec(
        "net_peak_memory_bytes", "Memory", "bytes", "less",
        "net peak: peak of the training phase minus the process with no model loaded",
        units.format_bytes, name="memory while training",
    ),
    MetricSpec(
        "train_seconds", "Train", "seconds", "less",
        "the training steps alone, device synchronised, after an untimed pass",
        units.format_seconds, name="training time",
    ),
    MetricSpec(
        "tokens_per_second", "tok/s", "tokens per second", "more",
        "real tokens, not padding, over the steps after the first", _rate, name="training speed",
    ),
    MetricSpec(
        "adapter_bytes", "File", "bytes", "less",
        "what must be delivered to reuse the result", units.format_bytes, is_counted=True,
        name="file to deliver",
    ),
)  # fmt: skip
