"""The real worker process on a tiny model."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from ftlab.devices import Device, resolve_device
from ftlab.locks import device_lock
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.protocol import FromWorker, GenerateRequest, ToWorker
from ftlab.playground.worker import Engines, Requests, serve
from ftlab.runs.directory import RunDirectory


def has_torch(client: PlaygroundClient) -> bool:
    """Whether the worker process has loaded torch's libraries."""
    assert client._worker is not None
    return "libtorch" in Path(f"/proc/{client._worker.process.pid}/maps").read_text()


def test_a_gpu_that_torch_cannot_use_gives_way_to_the_cpu_under_its_own_lock(
    runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Device("cuda:0", "GPU", 8 * 10**9)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    held: list[str] = []

    class FakeEngine:
        def __init__(self, folder: Path, device: torch.device) -> None:
            assert device.type == "cpu"

        def answer(self, *args: object) -> None:
            held.extend(d for d in ("cpu", "cuda:0") if not device_lock(d).try_acquire())

    monkeypatch.setattr("ftlab.playground.engine.Engine", FakeEngine)
    requests = Mock(spec=Requests)
    requests.next.side_effect = [ToWorker(1, GenerateRequest(("base",), "hi")), None]
    said: list[FromWorker] = []
    serve(requests, Engines(runs_folder, gpu), said.append, 0)
    assert held == ["cpu"]
    assert said == [FromWorker(1)]


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
            assert not has_torch(client), "importing torch disturbs the training run"
            threading.Timer(0.2, training.release).start()
    assert has_torch(client)
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
