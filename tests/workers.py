"""Real processes that stand in for workers: scripts that write what a worker writes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ftlab.jobs.dispatcher import Dispatcher
from ftlab.methods.variant import Variant
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.tasks.reference import TaskReference

REQUEST = SweepRequest(
    model="bundled",
    task=TaskReference("bundled", "sql"),
    variants=(Variant("full"), Variant("lora")),
    device="cpu",
)

PRELUDE = """
import json, os, sys, time, pathlib, signal
from ftlab.basics.processes import start_time
run = pathlib.Path(sys.argv[1])
def put(file, text):  # whole, as a worker does: a test may look at any moment
    part = file.with_name(file.name + ".part")
    part.write_text(text)
    os.replace(part, file)
metrics = run / "metrics.jsonl"
start = {"event": "start", "pid": os.getpid(), "process_started": start_time(os.getpid())}
put(metrics, (metrics.read_text() if metrics.exists() else "") + json.dumps(start) + "\\n")
def finish(**more):
    put(run / "result.json", json.dumps({"status": "done"} | more))
"""
DONE = PRELUDE + "finish()"
SLOW = PRELUDE + "time.sleep(60)"
STUBBORN = PRELUDE + "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
DIES = PRELUDE + "os.kill(os.getpid(), 9)"
CRASHES = PRELUDE + "print('the last words', flush=True); sys.exit(3)"

Start = Callable[[RunDirectory, str], "subprocess.Popen[bytes]"]


def worker(script: Callable[[str], str]) -> Start:
    """Starts `script(run_id)` in place of a worker."""

    def start(directory: RunDirectory, device: str) -> subprocess.Popen[bytes]:
        with directory.log_file.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", script(directory.run_id), str(directory.path)],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    return start


def step_until(dispatcher: Dispatcher, condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        dispatcher.step()
        time.sleep(0.05)


def as_started(runs: Sequence[Any]) -> list[Any]:
    """The runs of a sweep, from the order of their ids into that in which they start."""
    base, *own = runs
    return [*own[:1], base, *own[1:]]


def statuses(folder: Path) -> list[str]:
    """Of the runs of one sweep, in the order in which they start."""
    return [run.status for run in as_started(RunStore(folder).runs())]
