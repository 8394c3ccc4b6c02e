"""The metrics of a run, one module per group; every module here with `METRICS` is discovered.

Table, charts, command line and exports all read `METRICS`.
"""

from __future__ import annotations

import importlib
import pkgutil

from ftlab.records.metrics.spec import MetricSpec


def metrics() -> dict[str, MetricSpec]:
    """Every metric by its key, module by module; the optional ones come last."""
    found: list[MetricSpec] = [
        metric
        for module in pkgutil.iter_modules(__path__, f"{__name__}.")
        for metric in getattr(importlib.import_module(module.name), "METRICS", ())
    ]
    return {metric.key: metric for metric in sorted(found, key=lambda one: one.is_optional)}


METRICS = metrics()

OPTIONAL = tuple(key for key, metric in METRICS.items() if metric.is_optional)

HEADLINES = ("trainable_params", "net_peak_memory_bytes", "train_seconds", "adapter_bytes")
"""The four measures that the savings charts compare with full fine-tuning."""
