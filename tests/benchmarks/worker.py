"""One run of the app's own worker on the bundled model and SQL, in a process of its own."""

from __future__ import annotations

import time
from pathlib import Path

from ftlab.basics.processes import Started
from ftlab.jobs.launch import plan_sweep
from ftlab.jobs.launchers.local import start_worker
from ftlab.jobs.ready import StillImporting
from ftlab.methods.variant import Variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.records.result import RunResult
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
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
    _started(directory).wait()
    result = directory.result()
    assert result is not None
    assert result.status == "done", result.reason
    return result


def _started(directory: RunDirectory) -> Started:
    """Asks again while the process that forks workers imports, as the dispatcher does."""
    while True:
        try:
            return start_worker(directory, "cpu")
        except StillImporting:
            time.sleep(0.1)
