"""The real worker process on a tiny model."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ftlab.devices import resolve_device
from ftlab.locks import device_lock
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.protocol import GenerateRequest
from ftlab.runs.directory import RunDirectory


def test_the_worker_waits_for_training_then_answers_and_leaves_when_idle(
    runs_folder: Path, add_run: Callable[..., RunDirectory]
) -> None:
    run = add_run("lora")
    client = PlaygroundClient(runs_folder, idle_seconds=1)
    training = device_lock(resolve_device("auto").id)
    assert training.try_acquire()
    updates, waited = [], []
    for update in client.generate(GenerateRequest(("base", run.run_id), "hi", max_new_tokens=8)):
        updates.append(update)
        if update.text.startswith("A training run is using the") and not waited:
            waited.append(update.text)
            threading.Timer(0.2, training.release).start()
    assert waited[0].endswith("the answers start when it is done.")
    assert [update.kind for update in updates if update.is_final] == ["done", "done"]
    assert device_lock(resolve_device("auto").id).try_acquire(), "the lock outlived the answer"
    until = time.monotonic() + 10
    while client.is_loaded and time.monotonic() < until:
        time.sleep(0.1)
    assert not client.is_loaded


def test_the_worker_ends_when_its_stdin_closes(runs_folder: Path) -> None:
    command = [sys.executable, "-m", "ftlab.playground.worker", str(runs_folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert done.returncode == 0
    assert done.stdout == b""
