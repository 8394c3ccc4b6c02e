"""One run of the app's own worker on the bundled model and SQL, in a process of its own."""

from __future__ import annotations

from pathlib import Path

from ftlab.methods.variant import Variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.runs.directory import RunDirectory
from ftlab.runs.dispatcher import start_worker
from ftlab.runs.result import RunResult
from ftlab.runs.spec import SweepRequest
from ftlab.runs.sweep import plan_sweep
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task


def run_worker(
    method: str,
    settings: TrainingSettings,
    folder: Path,
    task: str = "sql",
    model: str = BUNDLED_ID,
) -> RunResult:
    """The result of a run that must succeed, started as the dispatcher starts it."""
    spec = plan_sweep(
        SweepRequest(
            model=model,
            task=parse_task(task),
            variants=(Variant(method),),
            settings=settings,
            device="cpu",
        )
    )[-1]
    directory = RunDirectory(folder / spec.run_id)
    directory.write_spec(spec)
    start_worker(directory, "cpu").wait()
    result = directory.result()
    assert result is not None
    assert result.status == "done", result.reason
    return result
