"""The columns that the table of runs can show: their names, and how values are written."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from ftlab import units
from ftlab.methods.registry import label_of
from ftlab.models.reference import model_label
from ftlab.runs.metrics import METRICS
from ftlab.runs.result import ANATOMY, status_label
from ftlab.ui.results.names import run_name, sweep_name
from ftlab.words import rate_name

Kind = Literal["text", "number", "measure"]
"""Text; a number that was set, the same for all seeds; a number that was measured."""

GROUPS = ("Measures", "Settings", "The run")
MEMORY_KEYS = ("peak_memory_bytes", "net_peak_memory_bytes")
KIND_WORDS = {
    "CPU resident": "the resident size of the process on the CPU",
    "CUDA allocated": "bytes that torch allocated on the GPU",
}


@dataclass(frozen=True)
class Column:
    """One column. `key` is its name in the store's DataFrame, `format` its text for people.

    `unit` and `how` are for measures: the unit of the raw value, and how it is measured.
    `interval_keys` are the columns of the ends of its 95 % interval.
    """

    key: str
    label: str
    group: str
    format: Callable[[Any], str]
    kind: Kind = "text"
    better: Literal["less", "more", ""] = ""
    unit: str = ""
    how: str = ""
    interval_keys: tuple[str, ...] = ()

    def text(self, value: Any) -> str:
        """The value for people; a dash where there is none. Not escaped."""
        if is_missing(value):
            return units.DASH
        if self.kind != "text" and isinstance(value, str):
            return value  # several values of a group, already written
        return self.format(value)


def is_missing(value: Any) -> bool:
    """True for `None`, NaN and an empty text."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _moment(seconds: float) -> str:
    return time.strftime("%d %b %Y %H:%M", time.localtime(seconds))


def _further(key: str, label: str, unit: str, how: str, written: Callable[[Any], str]) -> Column:
    return Column(key, label, "Measures", written, "measure", "less", unit, how)


def _columns() -> list[Column]:
    about, settings = "The run", "Settings"
    sizes, times = ("bytes", units.format_bytes), ("seconds", units.format_seconds)
    measures = [
        Column(
            m.key,
            m.label,
            "Measures",
            m.format,
            "measure",
            m.better,
            m.unit,
            m.how,
            m.interval_keys,
        )
        for m in METRICS.values()
    ]
    further = [
        _further("total_seconds", "In all", times[0], "from load to save", times[1]),
        _further("step_seconds", "Step", times[0], "median step after the first", times[1]),
        *(
            _further(
                f"{phase}_peak_bytes", f"Peak, {phase}", sizes[0],
                f"highest memory of the {phase} phase", sizes[1],
            )
            for phase in ("load", "evaluate", "save")
        ),
        _further(
            "predicted_net_peak_bytes", "Net peak, predicted", sizes[0],
            "worked out before the run; never measured", sizes[1],
        ),
        *(
            _further(
                f"anatomy_{part}_bytes", f"Peak: {part}", sizes[0],
                f"{part} at the training peak, from one step under a memory tracker", sizes[1],
            )
            for part in ANATOMY
        ),
    ]  # fmt: skip
    return [
        Column("status", "Status", about, status_label),
        Column("variant", "Variant", about, str),
        Column("method", "Method", settings, label_of),
        Column("task", "Task", settings, str),
        Column("seed", "Seed", settings, str, "number"),
        *measures,
        *(column for column in further if column.key not in METRICS),
        Column("learning_rate", "Learning rate", settings, rate_name, "number"),
        Column("hyperparameters", "Hyperparameters", settings, str),
        Column("steps", "Steps", settings, _whole, "number"),
        Column("batch_size", "Batch", settings, _whole, "number"),
        Column("dtype_policy", "Dtype", settings, str),
        Column("model", "Model", settings, model_label),
        Column("device", "Device", settings, str),
        Column("machine", "Machine", about, str),
        Column("origin", "Origin", about, str),
        Column("tags", "Tags", about, str),
        Column("note", "Note", about, str),
        Column("reason", "Why it ended", about, str),
        Column("created_at", "Queued", about, _moment, "number"),
        Column("sweep_id", "Sweep", about, sweep_name),
        Column("run_id", "Run", about, run_name),
    ]


COLUMNS: dict[str, Column] = {column.key: column for column in _columns()}
"""Every column, in the order in which they stand."""

MEASURES = tuple(column for column in COLUMNS.values() if column.kind == "measure")
_USUAL = (
    "status", "variant", "task", "seed",
    *(metric.key for metric in METRICS.values() if metric.in_table), "device", "run_id",
)  # fmt: skip


def usual_columns(table: pd.DataFrame) -> tuple[str, ...]:
    """Keys of the columns that are shown at first: tags only where a run has one."""
    tagged = bool((table["tags"] != "").any()) if len(table) else False
    return in_order([*_USUAL, "tags"] if tagged else _USUAL)


def in_order(keys: Collection[str]) -> tuple[str, ...]:
    """The known ones of the keys, in the order of the table."""
    return tuple(key for key in COLUMNS if key in keys)


def column_label(column: Column, kinds: Collection[str]) -> str:
    """The column's head; memory names its kind where all rows share one, as in "Peak, CPU"."""
    if column.key in MEMORY_KEYS and len(kinds) == 1:
        return f"{column.label}, {next(iter(kinds)).split()[0].rstrip(':')}"
    return column.label


def memory_kinds(rows: pd.DataFrame) -> list[str]:
    """What the bytes of the rows are, as in ["CPU resident"]."""
    return sorted({str(kind) for kind in rows["peak_memory_kind"] if kind})
