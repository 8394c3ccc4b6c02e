"""Runs that never ran: real run directories with invented numbers, by ftlab's own functions.

Nothing here imports torch; a whole sweep is made in milliseconds.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ftlab.basics.people import asking
from ftlab.basics.processes import start_time
from ftlab.methods.registry import BASE_METHOD, METHODS, get_method
from ftlab.methods.spec import BasePrecision, Value
from ftlab.methods.variant import Variant
from ftlab.records.result import Measures, PhaseMeasure, RunResult, Status
from ftlab.records.resume import Checkpoint, hashes_of, record_checkpoint
from ftlab.records.run import RunDirectory, run_directories, write_json_lines
from ftlab.records.spec import RunSpec
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import TaskReference

SWEEP = "20261125-120000-ab12"
CREATED = 1_795_608_000.0  # 25 November 2026, 12:00 UTC
TOTAL = 134_515_008
BEFORE_MODEL = 500_000_000
FOUR = ("full", "lora", "qlora", "prompt_tuning")
DEAD_PID = 2**22 + 1  # above the kernel's largest process id
LOG = "loaded in 2.1 s\nstep 1 loss 3.081\nstep 30 loss 1.309\nsaved\n"

# trainable, total, peak above the process without a model, seconds, bytes to ship, loss, score
_PLAUSIBLE: dict[str, tuple[int, int, int, float, int, float, float]] = {
    "full": (TOTAL, TOTAL, 2_340_000_000, 96.2, 269_060_552, 1.22, 0.73),
    "lora": (2_442_240, TOTAL + 2_442_240, 1_287_000_000, 60.4, 9_794_952, 1.31, 0.71),
    "qlora": (2_442_240, TOTAL + 2_442_240, 1_380_000_000, 82.7, 9_794_952, 1.34, 0.70),
    "prompt_tuning": (11_520, TOTAL + 11_520, 1_120_000_000, 53.1, 46_200, 1.88, 0.52),
}

QUESTIONS: list[tuple[str, str, str, str, str, str]] = [
    (
        "singers(id, name, age)\nHow many singers are over 30?",
        "SELECT count(*) FROM singers WHERE age > 30",
        "The number of singers over 30 can be found in the age column.",
        "SELECT count(*) FROM singers WHERE age > 30",
        "no SQL",
        "runs, equal",
    ),
    (
        "flights(no, origin, miles)\nList the origins, longest flight first.",
        "SELECT origin FROM flights ORDER BY miles DESC",
        "SELECT origin FROM flight",
        "SELECT origin FROM flights ORDER BY miles",
        "error: no such table: flight",
        "runs, differs",
    ),
]


def _numbers(method: str) -> tuple[int, int, int, float, int, float, float]:
    """Of a method that few tests have: numbers that differ from those of all others."""
    if method in _PLAUSIBLE:
        return _PLAUSIBLE[method]
    place = (7 * list(METHODS).index(method)) % len(METHODS)  # 7 and 29 have no common divisor
    trainable, far = 9_000 * (place + 1) ** 2, place / len(METHODS)
    memory, seconds = 1_100_000_000 + 31_000_000 * place, 52.0 + 1.7 * place
    return trainable, TOTAL + trainable, memory, seconds, 4 * trainable, 1.25 + far, 0.72 - far / 3


def plausible_measures(method: str) -> Measures:
    """What a run of that method might measure on two cores."""
    if method == BASE_METHOD:
        return Measures(
            trainable_params=0,
            total_params=TOTAL,
            before_model_bytes=BEFORE_MODEL,
            eval_loss_before=3.08,
            score_before=0.31,
            total_seconds=20.0,
        )
    trainable, total, net, seconds, size, loss, score = _numbers(method)
    return Measures(
        trainable_params=trainable,
        total_params=total,
        before_model_bytes=BEFORE_MODEL,
        peak_memory_bytes=BEFORE_MODEL + net,
        net_peak_memory_bytes=net,
        train_seconds=seconds,
        first_step_seconds=seconds / 24,
        step_seconds=seconds / 31,
        total_seconds=seconds + 21,
        tokens_per_second=21_000 / seconds,
        train_tokens=21_000,
        padding_share=0.14,
        adapter_bytes=size,
        adapter_dtype="bfloat16" if method == "full" else "float32",
        train_loss_first=3.08,
        train_loss_last=loss,
        eval_loss_before=3.08,
        eval_loss_after=loss,
        score_before=0.31,
        score_after=score,
        cpu_share=0.97,
        other_load=0.02,
        disturbed=False,
    )


def plausible_losses(last: float, steps: int) -> list[float]:
    """A curve from 3.1 down to about `last`, with a little regular noise; needs no seed."""
    return [
        last + (3.1 - last) * math.exp(-step / 6.5) + 0.04 * math.sin(2.7 * step + last)
        for step in range(steps)
    ]


def plausible_samples() -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "prompt": [{"role": "user", "content": question}],
            "reference": reference,
            "answer_before": before,
            "score_before": 0.0,
            "loss_before": 3.1,
            "verdict_before": verdict_before,
            "answer_after": after,
            "score_after": float(verdict_after == "runs, equal"),
            "loss_after": 1.3,
            "verdict_after": verdict_after,
        }
        for index, (question, reference, before, after, verdict_before, verdict_after) in enumerate(
            QUESTIONS
        )
    ]


def make_run(
    folder: Path,
    method: str = "lora",
    status: Status = "done",
    *,
    sweep_id: str = SWEEP,
    seed: int = 0,
    measures: Mapping[str, Any] | None = None,
    hyperparameters: Mapping[str, Value] | None = None,
    learning_rate: float | None = None,
    steps: int = 30,
    losses: Sequence[float] | None = None,
    samples: Sequence[Mapping[str, Any]] | None = None,
    settings: TrainingSettings | None = None,
    task: TaskReference | None = None,
    model: str = "bundled",
    device: str = "cpu",
    base_precision: BasePrecision | None = None,
    environment: Mapping[str, Any] | None = None,
    reason: str | None = None,
    notes: Sequence[str] = (),
    log: str = LOG,
    run_id: str | None = None,
) -> RunDirectory:
    """Writes one run directory and gives it back.

    `method` "base" makes a base run; `base_precision` matters only there. `measures` are laid over
    plausible ones (`None` takes one away), and so is `environment`. A run that is open or
    interrupted has no result; a running one has the first half of its losses and names this very
    process as its worker.
    """
    others = [run for run in run_directories(folder) if run.run_id.startswith(sweep_id)]
    directory = RunDirectory(folder / (run_id or f"{sweep_id}-{len(others):02d}-{method}"))
    variant = base = None
    if method != BASE_METHOD:
        variant = Variant(method, dict(hyperparameters or {}), learning_rate)
        base_precision = get_method(method).base_precision
        bases = (run.spec() for run in others if run.run_id.endswith(BASE_METHOD))
        base = next((run.run_id for run in bases if run.base_precision == base_precision), None)
    spec = RunSpec(
        run_id=directory.run_id,
        sweep_id=sweep_id,
        model=model,
        task=task or TaskReference(kind="bundled", id="sql"),
        variant=variant,
        settings=settings or TrainingSettings(steps=steps),
        dtype_policy="bf16",
        device=device,
        seed=seed,
        base_precision=base_precision,
        base_run_id=base,
        created_at=CREATED,
        owner=asking().name,
    )
    directory.write_spec(spec)
    if status == "queued":
        return directory
    known = replace(plausible_measures(method), **dict(measures or {}))
    if losses is None:
        losses = plausible_losses(known.train_loss_last or 1.3, spec.settings.steps)
        losses = losses if status == "done" else losses[: max(1, len(losses) // 2)]
    _write_metrics(directory, status, [] if method == BASE_METHOD else losses)
    directory.log_file.write_text(log, encoding="utf-8")
    if status in ("running", "interrupted"):
        return directory
    result = _result(status, known, measures, reason, notes, device)
    order = {} if method == BASE_METHOD else {"order_hash": f"90d3{seed}"}
    recorded = result.environment | order | dict(environment or {})
    directory.write_result(replace(result, environment=recorded))
    rows = [dict(row) for row in samples] if samples is not None else plausible_samples()
    if method == BASE_METHOD:
        rows = [{k: v for k, v in row.items() if not k.endswith("_after")} for row in rows]
    if status == "done":
        write_json_lines(directory.samples_file, rows)
    return directory


def make_checkpoint(directory: RunDirectory, step: int = 10) -> Path:
    """Gives the run a checkpoint that it noted; its one file is no training's."""
    folder = directory.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "optimizer.pt").write_bytes(b"state")
    checkpoint = Checkpoint(
        step=step,
        files=hashes_of(folder),
        run_seconds=20.0,
        peak_bytes=900,
        before_model_bytes=300,
        real_tokens=100,
        padded_tokens=120,
        added_loss=0.0,
    )
    record_checkpoint(directory.checkpoints, checkpoint)
    return folder


def make_sweep(
    folder: Path,
    methods: Sequence[str] = FOUR,
    *,
    sweep_id: str = SWEEP,
    seeds: Sequence[int] = (0,),
    status: Status = "done",
    **run: Any,
) -> list[RunDirectory]:
    """One finished sweep with a base run for each base precision; the base runs come first."""
    shared = {key: run[key] for key in ("task", "model", "device", "settings") if key in run}
    precisions = dict.fromkeys(get_method(method).base_precision for method in methods)
    runs = [
        make_run(folder, BASE_METHOD, sweep_id=sweep_id, base_precision=precision, **shared)
        for precision in precisions
    ]
    for seed in seeds:
        for method in methods:
            runs.append(make_run(folder, method, status, sweep_id=sweep_id, seed=seed, **run))
    return runs


def make_unreadable(folder: Path, run_id: str = "20261124-080000-dead-00-lora") -> Path:
    """A run directory whose spec is no JSON."""
    path = folder / run_id
    path.mkdir(parents=True)
    (path / "spec.json").write_text("{ torn", encoding="utf-8")
    return path


def _write_metrics(directory: RunDirectory, status: Status, losses: Sequence[float]) -> None:
    alive = status == "running"
    pid = os.getpid() if alive else DEAD_PID
    began = start_time(os.getpid()) if alive else CREATED
    now = time.time() if alive else CREATED
    events: list[dict[str, Any]] = [
        {"event": "start", "pid": pid, "process_started": began, "device": "cpu", "elapsed": 0.0},
        {"event": "phase", "phase": "load", "elapsed": 0.1},
    ]
    if losses:
        events.append({"event": "phase", "phase": "train", "elapsed": 2.1})
    events += [
        {
            "event": "step",
            "step": step,
            "loss": loss,
            "learning_rate": 1e-3,
            "tokens": 700,
            "seconds": 2.0,
            "elapsed": 2.1 + 2.0 * step,
        }
        for step, loss in enumerate(losses, start=1)
    ]
    if status == "done":
        events.append(
            {"event": "phase", "phase": "evaluate", "elapsed": events[-1]["elapsed"] + 0.1}
        )
    for event in events:
        event["at"] = round(now + event["elapsed"], 3)
    text = "".join(json.dumps(event) + "\n" for event in events)
    directory.metrics_file.write_text(text, encoding="utf-8")


_REASONS: dict[str, str] = {
    "failed": "RuntimeError: the loss is not a number at step 15",
    "out_of_memory": "Out of memory in the train phase: 7.6 GB were not enough.",
    "cancelled": "Cancelled at step 15.",
}


def _result(
    status: Any,
    known: Measures,
    given: Mapping[str, Any] | None,
    reason: str | None,
    notes: Sequence[str],
    device: str,
) -> RunResult:
    if status != "done":  # a run that ended early measured nothing that its end would give
        kept = {
            "trainable_params": known.trainable_params,
            "total_params": known.total_params,
            "before_model_bytes": known.before_model_bytes,
            "total_seconds": 33.0,
        }
        known = Measures(**(kept | dict(given or {})))
    peak = known.peak_memory_bytes
    phases = {"load": PhaseMeasure(2.1, BEFORE_MODEL, BEFORE_MODEL + 280_000_000)}
    if peak is not None:
        phases["train"] = PhaseMeasure(known.train_seconds or 0.0, BEFORE_MODEL + 280_000_000, peak)
    if status == "done":
        phases["evaluate"] = PhaseMeasure(
            14.2, BEFORE_MODEL + 300_000_000, BEFORE_MODEL + 600_000_000
        )
        phases["save"] = PhaseMeasure(0.4, BEFORE_MODEL + 300_000_000, BEFORE_MODEL + 340_000_000)
    return RunResult(
        status=status,
        reason=_REASONS.get(status, "") if reason is None else reason,
        measures=known,
        phases=phases,  # type: ignore[arg-type]
        memory_kind="CUDA allocated" if device.startswith("cuda") else "CPU resident",
        environment={
            "device": "AMD EPYC 7B13",
            "platform": "Linux-6.8",
            "python": "3.11.9",
            "packages": {"torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2"},
            "threads": 2,
            "cores": 2,
            "memory_bytes": 16_600_000_000,
            "load_at_start": 0.21,
            "model_hash": "5f1c0a7be2d4",
            "data_hash": "4c1e99d0a3b7",
            "metric": "SQL score",
            "attention": "ftlab (CPU)",
        },
        notes=tuple(notes),
        finished_at=CREATED + 120,
    )
