"""What the fault tests share: real runs of a tiny model, and patience."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.jobs.launch import enqueue_sweep
from ftlab.methods.variant import Variant
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task

Enqueue = Callable[..., list[RunDirectory]]

_WORKER = """
import sys
import ftlab.jobs.run_worker as worker
{patches}
sys.exit(worker.main([sys.argv[1]]))
"""


def patched_worker(patches: str) -> Callable[[RunDirectory, str], subprocess.Popen[bytes]]:
    """Starts the real worker, with lines of Python that break something in it first."""

    def start(directory: RunDirectory, device: str) -> subprocess.Popen[bytes]:
        with directory.log_file.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", _WORKER.format(patches=patches), str(directory.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    return start


@pytest.fixture
def enqueue(tiny_model: Path, task_file: Path, tmp_path: Path) -> Enqueue:
    """Queues a base run and a LoRA run of the tiny model in `runs`."""

    def queue(folder: Path = tmp_path / "runs", **settings: Any) -> list[RunDirectory]:
        limit = settings.pop("memory_limit", None)
        given = {"steps": 3, "batch_size": 2, "eval_examples": 2, "eval_answers": False}
        request = SweepRequest(
            model=str(tiny_model),
            task=parse_task(str(task_file)),
            variants=(Variant("lora"),),
            settings=TrainingSettings(**(given | settings)),
            device="cpu",
            memory_limit=limit,
        )
        return [RunDirectory(folder / spec.run_id) for spec in enqueue_sweep(request, folder)]

    return queue
