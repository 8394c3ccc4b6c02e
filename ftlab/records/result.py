"""What a run found out: the lines that its worker writes as it goes, and the result at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from ftlab.basics.parsing import parse_json

Phase = Literal["load", "train", "evaluate", "save"]
PHASES: tuple[Phase, ...] = ("load", "train", "save", "evaluate")

MEMORY_PARTS = ("weights", "gradients", "optimizer", "activations", "temporary")
"""The parts of a training peak, in the order in which they are drawn."""

FinalStatus = Literal["done", "cancelled", "out_of_memory", "diverged", "not_applicable", "failed"]
Status = Literal[
    "queued", "running", "done", "cancelled", "out_of_memory", "diverged", "not_applicable",
    "failed", "interrupted",
]  # fmt: skip
OPEN: frozenset[Status] = frozenset({"queued", "running"})
STATUS_LABELS: dict[Status, str] = {
    "queued": "queued",
    "running": "running",
    "done": "done",
    "cancelled": "cancelled",
    "out_of_memory": "out of memory",
    "diverged": "diverged",
    "not_applicable": "not applicable",
    "failed": "failed",
    "interrupted": "interrupted",
}


def status_label(status: str) -> str:
    """A status as people call it; one that is not known as it is."""
    return {str(known): label for known, label in STATUS_LABELS.items()}.get(status, status)


_IGNORE = ConfigDict(extra="ignore", allow_inf_nan=False)


@dataclass(frozen=True)
class PhaseMeasure:
    """One phase of a run. Bytes are of the kind that `RunResult.memory_kind` names.

    `start_bytes` is the size when the phase began, `peak_bytes` the highest within it;
    `reserved_bytes` (CUDA only) what the caching allocator held at most. `None`: not measurable.
    """

    __pydantic_config__ = _IGNORE

    seconds: float
    start_bytes: int | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    process_bytes: int | None = None


@dataclass(frozen=True)
class Measures:
    """The numbers of a run; `None` is shown as a dash.

    Times in seconds, sizes in bytes, loss in nats a token, score in [0, 1]. `before_model_bytes` is
    the process without a model: net peaks are above it. `train_seconds` is the training steps
    alone; `first_pass_seconds` the untimed pass before them, in which kernels are loaded;
    `step_seconds` the median step after the first. `steps_done` is for a run that ended early.
    `skipped_steps` overflowed in fp16 and changed nothing. `slowdown` is how many times as long
    the training took as it should have; above `training.disturbance.SLOWER` it is `disturbed`.

    Gain and changes are after minus before, `_low` and `_high` the ends of their 95 % intervals
    (bootstrap over the examples or passages, paired with the base run's). `general_loss` is that of
    `ftlab.tasks.registry.general_passages`.
    """

    __pydantic_config__ = _IGNORE

    trainable_params: int | None = None
    total_params: int | None = None
    before_model_bytes: int | None = None
    peak_memory_bytes: int | None = None
    net_peak_memory_bytes: int | None = None
    predicted_net_peak_bytes: int | None = None
    first_pass_seconds: float | None = None
    train_seconds: float | None = None
    first_step_seconds: float | None = None
    step_seconds: float | None = None
    total_seconds: float | None = None
    tokens_per_second: float | None = None
    train_tokens: int | None = None
    padding_share: float | None = None
    adapter_bytes: int | None = None
    adapter_dtype: str | None = None
    train_loss_first: float | None = None
    train_loss_last: float | None = None
    eval_loss_before: float | None = None
    eval_loss_after: float | None = None
    loss_change: float | None = None
    loss_change_low: float | None = None
    loss_change_high: float | None = None
    score_before: float | None = None
    score_after: float | None = None
    score_gain: float | None = None
    score_gain_low: float | None = None
    score_gain_high: float | None = None
    general_loss_before: float | None = None
    general_loss_after: float | None = None
    general_loss_change: float | None = None
    general_loss_change_low: float | None = None
    general_loss_change_high: float | None = None
    steps_done: int | None = None
    skipped_steps: int | None = None
    cpu_share: float | None = None
    other_load: float | None = None
    slowdown: float | None = None
    disturbed: bool | None = None


@dataclass(frozen=True)
class JobResult:
    """How a job ended; `reason` is one sentence for anything but "done"."""

    status: FinalStatus
    reason: str = ""


@dataclass(frozen=True)
class RunResult(JobResult):
    """How a run ended, its numbers, and where they were measured.

    `notes` are sentences to show beside the
    numbers. `memory_kind` says what the bytes are ("CUDA allocated", "CPU resident").
    `memory_at_end` holds bytes before and after the process was ended by a cancel. `anatomy` is
    what the training peak was made of, bytes by part (`MEMORY_PARTS`), and `predicted_anatomy` what
    it would have been predicted to be; both empty where they are not known.
    `resumed` are the steps at which the run went on from a checkpoint.
    `general_losses` is the loss of each passage of unrelated text, so that runs can be paired.
    """

    __pydantic_config__ = _IGNORE

    measures: Measures = field(default_factory=Measures)
    phases: dict[str, PhaseMeasure] = field(default_factory=dict)
    memory_kind: str = ""
    memory_at_end: dict[str, int | None] = field(default_factory=dict)
    anatomy: dict[str, int] = field(default_factory=dict)
    predicted_anatomy: dict[str, int] = field(default_factory=dict)
    general_losses: tuple[float, ...] = ()
    resumed: tuple[int, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    finished_at: float = 0.0


_RESULT = TypeAdapter(RunResult)


def dump_result(result: RunResult) -> bytes:
    return _RESULT.dump_json(result, indent=2)


def load_result(data: bytes) -> RunResult:
    """Reads a result; raises `FtlabError` naming the first wrong field."""
    return parse_json(_RESULT, data, "result.json")


class LineWriter:
    """A file of JSON lines, open at its end; each line goes to the system whole and at once.

    Nothing is held back in a buffer, so closing a file on a full disk fails over nothing. A last
    line that was torn, by an earlier writer or by this one, is ended before the next begins: it
    spoils no other.
    """

    def __init__(self, path: Path) -> None:
        """Raises `OSError` if the file cannot be written."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._handle).st_size
        self._torn = size > 0 and os.pread(self._handle, 1, size - 1) != b"\n"

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def append(self, row: dict[str, Any]) -> None:
        """Raises `OSError` if the disk is full; the line may then be torn."""
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        left = memoryview(b"\n" + line if self._torn else line)
        self._torn = True
        while left:
            left = left[os.write(self._handle, left) :]
        self._torn = False


_NUMBERS = (
    "step", "loss", "score", "learning_rate", "tokens", "seconds", "elapsed", "done", "total",
    "memory_bytes",
)  # fmt: skip
_MUST_HAVE = {
    "step": ("step", "loss"),
    "evaluation": ("step",),
    "evaluate": ("done", "total"),
    "download": ("done", "total", "elapsed"),
    "phase": ("phase",),
}
_MOST = 2**53
"""Whole numbers up to it are the same as integer and as float."""


def is_sound(event: Mapping[str, Any]) -> bool:
    """Whether the event has what its kind must have, and numbers where numbers belong.

    A loss may be no number (the run went astray); a step, and what is counted, is a whole one.
    """
    if any(event.get(name) is None for name in _MUST_HAVE.get(str(event.get("event")), ())):
        return False
    numbers = [event[name] for name in _NUMBERS if event.get(name) is not None]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers):
        return False
    if any(isinstance(value, int) and abs(value) > _MOST for value in numbers):
        return False
    whole = all(isinstance(event.get(name, 0), int) for name in ("step", "done", "total"))
    return whole and event.get("total") != 0
