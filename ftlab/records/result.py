"""The result of a run: the event lines that its worker appends, and the final result record."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ConfigDict, TypeAdapter

from ftlab.basics.files import parse_json

Phase = Literal["load", "train", "evaluate", "save"]
PHASES: tuple[Phase, ...] = ("load", "train", "save", "evaluate")

ANSWERING = "answering"
"""The phase after all others, if the run measures what answering costs; in other processes."""

RANK_PEAKS = "rank_net_peak_bytes"
"""Key in a run's environment for the net peak of each process of a run over several GPUs."""

AnswerWay = Literal["adapter", "merged", "nf4"]
ANSWER_WAYS: dict[AnswerWay, str] = {
    "adapter": "adapter on its base", "merged": "merged into the base", "nf4": "on a 4-bit base",
}  # fmt: skip
"""The ways to answer with what a run trained, whose costs are measured."""

MEMORY_PARTS = (
    "weights", "gradients", "optimizer", "gathered", "communication", "activations", "temporary",
)  # fmt: skip
"""The parts of the training peak, in drawing order."""

OF_SHARDS = ("gathered", "communication")
"""Parts of a run that is divided over several GPUs: whole layers, and buffers of the exchange."""

FinalStatus = Literal["done", "cancelled", "out_of_memory", "diverged", "not_applicable", "failed"]
Status = Literal["queued", "running", FinalStatus, "interrupted"]
OPEN: frozenset[Status] = frozenset({"queued", "running"})
STATUS_LABELS: dict[str, str] = {status: status.replace("_", " ") for status in get_args(Status)}


def status_label(status: str) -> str:
    """The label of a status; an unknown status is returned unchanged."""
    return STATUS_LABELS.get(status, status)


_IGNORE = ConfigDict(extra="ignore", allow_inf_nan=False)


@dataclass(frozen=True)
class PhaseMeasure:
    """One phase of a run. `RunResult.memory_kind` tells what the bytes measure.

    `start_bytes` is the memory at the start of the phase, `peak_bytes` its peak; `reserved_bytes`
    (CUDA only) is the peak of the caching allocator. `None`: not measurable.
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

    Times in seconds, sizes in bytes, loss in nats per token, score in [0, 1]. `before_model_bytes`
    is the process without a model; net peaks exclude it. `train_seconds` is the training steps
    only; `first_pass_seconds` is the untimed pass before them, which loads the kernels;
    `step_seconds` is the median of the steps after the first. `steps_done` is for a run that ended
    early. `skipped_steps` overflowed in fp16 and changed nothing. `slowdown` is the training time
    divided by the expected time; above `training.disturbance.SLOWER` the run is `disturbed`.

    Gains and changes are after minus before; `_low` and `_high` are the ends of their 95 % interval
    (bootstrap over the examples or passages, paired with the base run). `general_loss` is the loss
    on `ftlab.tasks.registry.general_passages`. `answer_…` are the costs of generating by the
    `ANSWER_WAYS`: tokens per second of one answer at a time, and the net peak of that process.
    `total_seconds` is without the time in which they are measured; `predicted_total_seconds` is
    what was expected of it before the run began.
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
    predicted_total_seconds: float | None = None
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
    answer_adapter_tokens_per_second: float | None = None
    answer_merged_tokens_per_second: float | None = None
    answer_nf4_tokens_per_second: float | None = None
    answer_adapter_net_peak_bytes: int | None = None
    answer_merged_net_peak_bytes: int | None = None
    answer_nf4_net_peak_bytes: int | None = None


@dataclass(frozen=True)
class JobResult:
    """How a job ended; `reason` is one sentence for every status except "done"."""

    status: FinalStatus
    reason: str = ""


@dataclass(frozen=True)
class RunResult(JobResult):
    """How a run ended, its numbers, and where they were measured.

    `notes` are sentences to show next to the numbers. `memory_kind` tells what the bytes measure
    ("CUDA allocated", "CPU resident"). `memory_at_end` holds the bytes before and after a cancel
    ended the process. `anatomy` is the memory breakdown of the training peak, bytes by part
    (`MEMORY_PARTS`), and `predicted_anatomy` the predicted breakdown; both are empty if unknown.
    `predicted_seconds` is what was computed of phases from the rates of the device.
    `resumed` lists the steps at which the run resumed from a checkpoint. `general_losses` is the
    loss of each passage of unrelated text, so that runs can be paired; `general_tokens` is the
    number of its tokens with loss.
    """

    __pydantic_config__ = _IGNORE

    measures: Measures = field(default_factory=Measures)
    phases: dict[str, PhaseMeasure] = field(default_factory=dict)
    memory_kind: str = ""
    memory_at_end: dict[str, int | None] = field(default_factory=dict)
    anatomy: dict[str, int] = field(default_factory=dict)
    predicted_anatomy: dict[str, int] = field(default_factory=dict)
    predicted_seconds: dict[str, float] = field(default_factory=dict)
    general_losses: tuple[float, ...] = ()
    general_tokens: tuple[int, ...] = ()
    resumed: tuple[int, ...] = ()
    environment: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    finished_at: float = 0.0


_RESULT = TypeAdapter(RunResult)


def dump_result(result: RunResult, indent: int | None = 2) -> bytes:
    return _RESULT.dump_json(result, indent=indent)


def load_result(data: bytes) -> RunResult:
    """Reads a result; raises `FtlabError` naming the first wrong field."""
    return parse_json(_RESULT, data, "result.json")


def measured_with(results: Sequence[RunResult]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The devices that measured the results, and the versions of each package, joined by "and"."""
    devices = {str(result.environment.get("device")) for result in results}
    versions: dict[str, set[str]] = {}
    for result in results:
        packages = result.environment.get("packages")
        for package, version in packages.items() if isinstance(packages, Mapping) else ():
            versions.setdefault(str(package), set()).add(str(version))
    joined = {package: " and ".join(sorted(found)) for package, found in versions.items()}
    return tuple(sorted(devices)), joined


class LineWriter:
    """A JSON Lines file opened for appending; each line is written immediately, without a buffer.

    There is no buffer to flush, so closing cannot fail on a full disk. If the last line is
    incomplete (from an earlier writer or this one), a newline is written before the next line, so
    that only the incomplete line is lost.
    """

    def __init__(self, path: Path) -> None:
        """Raises `OSError` if the file cannot be written."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._handle).st_size
        self._torn = size > 0 and os.pread(self._handle, 1, size - 1) != b"\n"

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._handle)

    def append(self, row: dict[str, Any]) -> None:
        """Raises `OSError` if the disk is full; the line may then be incomplete."""
        self.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def write(self, line: bytes) -> None:
        """Writes one line or several, which end with a newline; raises as `append`."""
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
    "answering": ("done", "total"),
    "download": ("done", "total", "elapsed"),
    "phase": ("phase",),
}
_MOST = 2**53
"""Integers up to this value are exact as floats."""


def is_sound(event: Mapping[str, Any]) -> bool:
    """Whether the event has the required fields of its kind, with numbers of the right types.

    A loss may be NaN or infinite (the run diverged); steps and counts are integers.
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
