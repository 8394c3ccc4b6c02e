"""One run from spec to result, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftlab.methods.variant import parse_variant
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from ftlab.training.run import RunRecord, execute


def request(model: Path, task_file: Path, *variants: str, **settings: Any) -> SweepRequest:
    defaults: dict[str, Any] = {"steps": 3, "batch_size": 4, "eval_examples": 3, "max_length": 128}
    return SweepRequest(
        model=str(model),
        task=parse_task(str(task_file)),
        variants=tuple(parse_variant(text) for text in variants),
        settings=TrainingSettings(**(defaults | settings)),
        dtype_policy="fp32",
        device="cpu",
    )


def do(spec: RunSpec, folder: Path) -> RunResult:
    directory = RunDirectory(folder / spec.run_id)
    directory.write_spec(spec)
    record = RunRecord()
    execute(spec, directory, record, lambda event: None)
    result = record.result("done")
    directory.write_result(result)
    return result
