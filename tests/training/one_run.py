"""One run from spec to result, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ftlab.basics.errors import Diverged
from ftlab.jobs.launch import plan_sweep
from ftlab.methods.variant import parse_variant
from ftlab.records.result import LineWriter, RunResult
from ftlab.records.resume import begin_again, read_earlier
from ftlab.records.run import RunDirectory, run_directories
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from ftlab.training.run import RunRecord, execute


def request(
    model: Path, task_file: Path, *variants: str, policy: Any = "fp32", **settings: Any
) -> SweepRequest:
    defaults: dict[str, Any] = {"steps": 3, "batch_size": 4, "eval_examples": 3, "max_length": 128}
    return SweepRequest(
        model=str(model),
        task=parse_task(str(task_file)),
        variants=tuple(parse_variant(text) for text in variants),
        settings=TrainingSettings(**(defaults | settings)),
        dtype_policy=policy,
        device="cpu",
    )


def spec_of(model: Path, task_file: Path, variant: str = "lora", **settings: Any) -> RunSpec:
    return plan_sweep(request(model, task_file, variant, **settings))[-1]


def queued(spec: RunSpec, folder: Path) -> RunDirectory:
    directory = RunDirectory(folder / spec.run_id)
    directory.write_spec(spec)
    return directory


def do(
    spec: RunSpec,
    folder: Path,
    record: RunRecord | None = None,
    report: Callable[[dict[str, Any]], None] = lambda event: None,
) -> RunResult:
    """Executes the run; a given `record` is filled, also by a run that fails."""
    directory, record = queued(spec, folder), record or RunRecord()
    execute(spec, directory, record, report)
    result = record.result("done")
    directory.write_result(result)
    return result


def work_off(folder: Path) -> None:
    """Does in this process what the dispatcher would have workers do, pauses and resumes too."""
    for directory in run_directories(folder):
        if directory.is_waiting:
            _work(directory)


def _work(directory: RunDirectory) -> None:
    earlier = read_earlier(directory)
    start = {"event": "start", "pid": 1, "process_started": 0.0}
    if earlier is not None:
        begin_again(directory, earlier, start)
    with LineWriter(directory.metrics_file) as metrics, redirect_stdout(sys.stderr):
        if earlier is None:
            metrics.append(start)
        record = RunRecord(earlier=earlier)
        try:
            execute(directory.spec(), directory, record, lambda event: metrics.append(
                {"elapsed": 1.0} | event
            ))  # fmt: skip
            result = record.completed()
        except Diverged as error:
            result = record.result("diverged", str(error))
    directory.write_result(result)
