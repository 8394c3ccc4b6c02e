"""One result file of huggingface/peft's `method_comparison`, as a row beside one's own runs.

The format, and what its numbers mean, are read from that project's own scripts
(`method_comparison/MetaMathQA/run.py` and `utils.py`; Apache-2.0). Types are strict and keys that
are not needed are ignored: the file comes from anywhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from ftlab import units
from ftlab.runs.parsing import parse_json
from ftlab.runs.published_method import hyperparameters, method_of, plain, result_label, slug
from ftlab.runs.result import Status
from ftlab.runs.table import ROW_KEYS

MEMORY_KIND = "imported: CUDA reserved, train and evaluation"

_DUMMY_FILE_SIZE = 99_999_999
"""What their script writes where the adapter could not be saved."""

_STRICT = ConfigDict(extra="ignore", strict=True)

Text = Annotated[str, Field(max_length=300)]
Name = Annotated[str, Field(min_length=1, max_length=300)]
Count = Annotated[int, Field(ge=0, lt=2**62)]
Real = Annotated[float, Field(allow_inf_nan=False, gt=-1e18, lt=1e18)]
Span = Annotated[float, Field(allow_inf_nan=False, ge=0, lt=1e18)]
Share = Annotated[float, Field(allow_inf_nan=False, ge=-1, le=1)]


@dataclass(frozen=True)
class _TrainConfig:
    __pydantic_config__ = _STRICT

    model_id: Name
    dtype: Name
    batch_size: Count
    max_steps: Count
    optimizer_type: Text = "AdamW"
    optimizer_kwargs: dict[str, Any] = field(default_factory=dict)
    seed: Count | None = None
    max_seq_length: Count | None = None
    eval_steps: Count | None = None
    use_gc: bool | None = None
    autocast_adapter_dtype: bool | None = None


@dataclass(frozen=True)
class _RunInfo:
    __pydantic_config__ = _STRICT

    experiment_name: Name
    train_config: _TrainConfig
    peft_config: dict[str, Any] | None
    created_at: Text | None = None
    total_time: Span | None = None
    error_msg: str = ""


@dataclass(frozen=True)
class _Point:
    """One row of their log: every `eval_steps` steps, and once after the test."""

    __pydantic_config__ = _STRICT

    step: Count
    train_loss: Annotated[Real | None, Field(alias="train loss")] = None
    train_time: Annotated[Span | None, Field(alias="train time")] = None
    accuracy: Annotated[Share | None, Field(alias="test accuracy")] = None
    similarity: Annotated[Share | None, Field(alias="test dino_similarity")] = None
    forgetting: float | None = None  # NaN where it could not be measured
    drift: float | None = None


@dataclass(frozen=True)
class _TrainInfo:
    __pydantic_config__ = _STRICT

    status: Literal["success", "failed", "canceled"]
    train_time: Span | None = None
    accelerator_memory_max: Annotated[int, Field(gt=-(2**62), lt=2**62)] | None = None
    file_size: Count | None = None
    num_trainable_params: Count | None = None
    num_total_params: Count | None = None
    metrics: tuple[_Point, ...] = ()


@dataclass(frozen=True)
class _SystemInfo:
    __pydantic_config__ = _STRICT

    accelerator: Text | None = None


@dataclass(frozen=True)
class _MetaInfo:
    __pydantic_config__ = _STRICT

    system_info: _SystemInfo = field(default_factory=_SystemInfo)
    package_info: dict[str, Any] = field(default_factory=dict)
    model_info: dict[str, Any] | None = None
    dataset_info: dict[str, Any] | None = None


@dataclass(frozen=True)
class _Document:
    __pydantic_config__ = _STRICT

    run_info: _RunInfo
    train_info: _TrainInfo
    meta_info: _MetaInfo


_DOCUMENT = TypeAdapter(_Document)
_STATUS: dict[str, Status] = {"success": "done", "failed": "failed", "canceled": "cancelled"}


@dataclass(frozen=True)
class PublishedRun:
    """One result of others. `sweep_id` is shared by results of one benchmark, model and device.

    `values` has the keys of `ROW_KEYS`, `None` where nothing was published. `losses` are pairs of
    step and mean loss; `facts` pairs of name and text, for people.
    """

    run_id: str
    sweep_id: str
    values: dict[str, Any]
    losses: tuple[tuple[int, float], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    def row(self) -> dict[str, Any]:
        return self.values


def parse_result(data: bytes, name: str) -> PublishedRun:
    """Reads one result file; raises `FtlabError` that names the file and its first wrong field."""
    document = parse_json(_DOCUMENT, data, name)
    run, train, meta = document.run_info, document.train_info, document.meta_info
    settings = run.train_config
    benchmark = _benchmark(train.metrics)
    machine = plain(meta.system_info.accelerator or "")
    method = method_of(run.peft_config, settings.dtype, settings.optimizer_type)
    sweep_id = "-".join(
        filter(
            None,
            (
                "imported",
                slug(benchmark.task, 16),
                slug(settings.model_id.rpartition("/")[2], 24),
                slug(machine, 20),
            ),
        )
    )
    trainable, total = train.num_trainable_params, train.num_total_params
    score = next((benchmark.score(p) for p in train.metrics[::-1] if benchmark.scored(p)), None)
    values: dict[str, Any] = {
        "run_id": f"imported-{slug(run.experiment_name, 50)}-{_fingerprint(document, score)}",
        "sweep_id": sweep_id,
        "origin": "imported",
        "model": plain(settings.model_id),
        "task": benchmark.task,
        "method": method,
        "variant": result_label(run.experiment_name, settings.model_id, method),
        "hyperparameters": hyperparameters(run.peft_config or {}),
        "seed": settings.seed or 0,
        "status": _STATUS[train.status],
        "trainable_params": trainable,
        "total_params": total,
        "trainable_share": trainable / total if trainable is not None and total else None,
        "net_peak_memory_bytes": train.accelerator_memory_max,
        "peak_memory_kind": MEMORY_KIND,
        "train_seconds": train.train_time,
        "total_seconds": run.total_time,
        "adapter_bytes": _adapter_bytes(document),
        "score_after": score,
        "metric": benchmark.metric,
        "learning_rate": _number(settings.optimizer_kwargs.get("lr")),
        "dtype_policy": plain(settings.dtype),
        "base_precision": "",
        "device": "",
        "machine": machine,
        "steps": settings.max_steps,
        "batch_size": settings.batch_size,
        "archived": False,
        "tags": "",
        "note": "",
        "created_at": _seconds(run.created_at),
        "run_dir": "",
        "reason": "" if train.status == "success" else plain(run.error_msg, 300),
    }
    return PublishedRun(
        run_id=values["run_id"],
        sweep_id=sweep_id,
        values={key: values.get(key) for key in ROW_KEYS},
        losses=_losses(train.metrics),
        facts=tuple(_facts(document, benchmark)),
    )


@dataclass(frozen=True)
class _Benchmark:
    """`column` and `side` name the fields of `_Point` with its score and its side effect."""

    task: str
    metric: str
    column: str
    side: str
    score_means: str
    side_means: str

    def scored(self, point: _Point) -> bool:
        return self.score(point) is not None

    def score(self, point: _Point) -> float | None:
        value: float | None = getattr(point, self.column)
        return value


_METAMATH = _Benchmark(
    "MetaMathQA", "test accuracy", "accuracy", "forgetting",
    "share of right answers on the test set", "rise of the loss on Wikipedia text, in nats a token",
)  # fmt: skip
_IMAGE = _Benchmark(
    "image-gen", "DINO similarity", "similarity", "drift",
    "likeness of generated test images to the real ones, by DINOv2",
    "change of images for unrelated prompts, 0 to 1",
)  # fmt: skip


def _benchmark(points: Sequence[_Point]) -> _Benchmark:
    return _IMAGE if any(_IMAGE.scored(point) for point in points) else _METAMATH


def _adapter_bytes(document: _Document) -> int | None:
    size = document.train_info.file_size
    if document.run_info.peft_config is None or size in (0, _DUMMY_FILE_SIZE):
        return None
    return size


def _losses(points: Sequence[_Point]) -> tuple[tuple[int, float], ...]:
    curve = {point.step: point.train_loss for point in points if point.train_loss is not None}
    return tuple(sorted(curve.items()))


def _facts(document: _Document, benchmark: _Benchmark) -> list[tuple[str, str]]:
    """What a person needs to judge the numbers; what was not published is left out."""
    run, train, meta = document.run_info, document.train_info, document.meta_info
    settings = run.train_config
    side = [
        value
        for point in train.metrics
        if (value := _number(getattr(point, benchmark.side))) is not None
    ]
    steps = [point.train_time for point in train.metrics if point.train_time is not None]
    time = "as published: training with its test at the end; validation in between left out"
    if steps:
        time += f"; the steps alone {units.format_seconds(sum(steps))}"
    size = train.file_size
    file = "the adapter as peft saves it"
    if run.peft_config is None:
        file = f"none was saved; {units.format_bytes(size)} is the publisher's estimate"
    elif size == _DUMMY_FILE_SIZE:
        file = "could not be saved by the publisher"
    optimizer = [settings.optimizer_type]
    optimizer += [
        f"{name.replace('_', ' ')} {number:g}"
        for name, value in settings.optimizer_kwargs.items()
        if (number := _number(value)) is not None
    ]
    facts = {
        "Source": f"huggingface/peft, method_comparison, {benchmark.task} (Apache-2.0)",
        "Experiment": run.experiment_name,
        "Measured": (run.created_at or "")[:10],
        "Versions": ", ".join(
            f"{name} {version}"
            for name in ("peft", "transformers", "torch")
            if isinstance(version := meta.package_info.get(f"{name}-version"), str)
        ),
        "Peak memory": "what CUDA reserved at most in training and evaluation together, "
        "less what it held at the start",
        "Training time": time,
        "Score": f"{benchmark.metric}: {benchmark.score_means}",
        benchmark.side.capitalize(): f"{side[-1]:.3f}: {benchmark.side_means}" if side else "",
        "File": file,
        "Loss curve": f"mean over the {settings.eval_steps} steps before each point"
        if settings.eval_steps and _losses(train.metrics)
        else "",
        "Optimizer": ", ".join(optimizer),
        "Seed": "" if settings.seed is not None else "not published; taken as 0",
        "Longest text": f"{settings.max_seq_length} tokens" if settings.max_seq_length else "",
        "Adapter weights": "fp32" if settings.autocast_adapter_dtype and run.peft_config else "",
        "Gradient checkpointing": "on" if settings.use_gc else "",
        "Model revision": _sha(meta.model_info),
        "Data revision": ", ".join(_data_hashes(meta.dataset_info or {})),
    }
    return [(name, plain(text, 300)) for name, text in facts.items() if text]


def _data_hashes(info: Mapping[str, Any]) -> list[str]:
    if isinstance(info.get("sha"), str):
        return [_sha(info)]
    return [f"{name} {sha}" for name, one in info.items() if (sha := _sha(one))]


def _sha(info: Any) -> str:
    sha = info.get("sha") if isinstance(info, dict) else None
    return sha[:12] if isinstance(sha, str) else ""


def _fingerprint(document: _Document, score: float | None) -> str:
    """The same for the same measurement, in whichever form it was published."""
    run, train = document.run_info, document.train_info
    measured = [
        run.experiment_name, run.train_config.model_id, document.meta_info.system_info.accelerator,
        train.status, train.num_trainable_params, train.accelerator_memory_max, train.train_time,
        score,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(measured).encode()).hexdigest()[:8]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e18 else None  # also false for NaN


def _seconds(created_at: str | None) -> float | None:
    """Seconds since the epoch of an ISO 8601 date."""
    try:
        return datetime.fromisoformat(created_at or "").timestamp()
    except (ValueError, OverflowError, OSError):
        return None
