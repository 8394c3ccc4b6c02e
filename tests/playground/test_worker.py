"""The worker: device lock, requests, and the real process on a tiny model."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from ftlab.basics import locks
from ftlab.basics.devices import Device, resolve_device
from ftlab.basics.locks import DeviceLock
from ftlab.basics.processes import Line, Signs
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.engine import Engine
from ftlab.playground.requests import GenerateRequest, PaneUpdate, Stopped
from ftlab.playground.worker import Engines, Progress, Requests, serve
from tests.playground.conftest import AddRun
from tests.waiting import wait_until

ASK = GenerateRequest(("base", "base"), "hi")
CPU = Device("cpu", "CPU, 2 cores", 8 * 10**9)
GPU = Device("cuda:0", "Card 0", 8 * 10**9)
DONE = [PaneUpdate(0, "done", "a"), PaneUpdate(1, "done", "b")]

Send = Callable[[PaneUpdate], None]
Check = Callable[[], float | None]
Answer = Callable[[Send, Check], None]


@pytest.fixture(autouse=True)
def quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.01)


class FakeEngines:
    """Engines whose engine answers as it is told."""

    def __init__(self, answer: Answer, device: Device = CPU, is_loaded: bool = True) -> None:
        self.device = device
        self.is_loaded = is_loaded
        self._answer = answer
        self.device_answers = True

    def engine(self) -> FakeEngines:
        return self

    def answer(self, request: GenerateRequest, send: Send, check: Check) -> None:
        self._answer(send, check)


class FakeRequests:
    """Gives these requests, then none; `stopped` are cancelled."""

    def __init__(self, *lines: Line) -> None:
        self._lines = list(lines)
        self.stopped: set[int] = set()
        self.looks = 0

    def next(self, timeout: float) -> Line | None:
        self.looks += 1
        return self._lines.pop(0) if self._lines else None

    def check(self, number: int) -> None:
        if number in self.stopped:
            raise Stopped


def lines_of(requests: FakeRequests, engines: Any, idle: float = 1) -> list[Line]:
    """All lines that the worker writes."""
    lines: list[Line] = []
    asked: Any = requests
    serve(asked, engines, lines.append, idle, Progress(Signs()))
    return lines


def asking(*numbers: int) -> FakeRequests:
    return FakeRequests(*[Line(number, ASK) for number in numbers])


def served(
    answer: Answer, *, device: Device = CPU, requests: FakeRequests | None = None
) -> list[PaneUpdate]:
    """All updates of one request; the last line ends its answer."""
    said = lines_of(requests or asking(1), FakeEngines(answer, device))
    assert said.pop() == Line(1)
    assert DeviceLock(device.id).try_acquire(), "the lock outlived the answer"
    return [line.content for line in said if line.content is not None]


@pytest.fixture
def training(runs_folder: Path) -> Iterator[Callable[[], threading.Thread]]:
    """Starts a training run that waits in line for the CPU and then uses it for a moment."""
    threads: list[threading.Thread] = []

    def start() -> threading.Thread:
        turn = DeviceLock("cpu")

        def train() -> None:
            turn.acquire()
            time.sleep(0.1)
            turn.release()

        thread = threading.Thread(target=train, daemon=True)
        threads.append(thread)
        thread.start()
        while turn._line._handle is None and turn._device._handle is None:
            time.sleep(0.001)
        return thread

    yield start
    for thread in threads:
        thread.join(5)


def test_an_answer_holds_the_device_lock(runs_folder: Path) -> None:
    free: list[bool] = []

    def answer(send: Send, check: Check) -> None:
        free.append(DeviceLock("cpu").try_acquire())
        for update in DONE:
            send(update)

    assert served(answer) == DONE
    assert free == [False]


def test_waiting_training_gets_the_device_between_two_tokens(
    training: Callable[[], threading.Thread],
) -> None:
    waited: list[float | None] = []

    def answer(send: Send, check: Check) -> None:
        waited.append(check())
        send(DONE[0])
        trains = training()
        waited.append(check())
        assert not trains.is_alive(), "the answer went on before the training was done"
        waited.append(check())
        send(DONE[1])

    first, said, last = served(answer)
    assert [first, last] == DONE
    assert (said.pane, said.kind) == (1, "status"), "the pane that had ended is left alone"
    assert said.text.startswith("A training run or a prompt grid is using the CPU; the answers go")
    assert waited[0] == waited[2] == 0.0
    assert waited[1] is not None
    assert 0.1 <= waited[1] < 5


def test_the_wait_for_the_device_is_reported_once(
    training: Callable[[], threading.Thread],
) -> None:
    training()

    def answer(send: Send, check: Check) -> None:
        for update in DONE:
            send(update)

    updates = served(answer)
    assert [(u.pane, u.kind) for u in updates[:2]] == [(0, "status"), (1, "status")]
    assert updates[2:] == DONE


def test_a_request_can_be_cancelled_while_it_waits_for_the_device(runs_folder: Path) -> None:
    holder = DeviceLock("cpu")
    assert holder.try_acquire()
    requests: Any = asking(1)
    said: list[Line] = []

    def write(line: Line) -> None:
        said.append(line)
        requests.stopped.add(1)  # cancelled as soon as it waits

    engines: Any = FakeEngines(Mock(side_effect=AssertionError))
    serve(requests, engines, write, 1, Progress(Signs()))
    holder.release()
    assert said[-1] == Line(1)
    assert all(line.content is None or line.content.kind == "status" for line in said)
    assert DeviceLock("cpu").try_acquire(), "the place in line outlived the request"


def test_a_cancellation_between_two_tokens_releases_the_device(runs_folder: Path) -> None:
    requests = asking(1)

    def answer(send: Send, check: Check) -> None:
        send(PaneUpdate(0, "text", "a"))
        requests.stopped.add(1)
        check()

    assert served(answer, requests=requests) == [PaneUpdate(0, "text", "a")]


def test_an_unexpected_error_is_reported_in_the_open_panes(runs_folder: Path) -> None:
    def answer(send: Send, check: Check) -> None:
        send(DONE[0])
        raise OSError(28, "No space left\non device")

    first, second = served(answer)
    assert first == DONE[0]
    assert (second.pane, second.kind) == (1, "error")
    assert second.text.startswith("The playground could not answer: OSError: [Errno 28] No space")
    assert "\n" not in second.text


def looks_until_it_ends(device: Device, is_loaded: bool) -> int:
    requests = FakeRequests()
    lines_of(requests, FakeEngines(Mock(), device, is_loaded), idle=20)
    return requests.looks


def test_an_idle_worker_ends_when_another_process_wants_its_gpu(runs_folder: Path) -> None:
    training = DeviceLock("cuda:0")
    assert looks_until_it_ends(GPU, True) == 10
    assert training.try_acquire()
    assert looks_until_it_ends(GPU, True) == 1
    assert looks_until_it_ends(GPU, False) == 10, "it holds nothing there"
    assert looks_until_it_ends(CPU, True) == 10, "RAM is not the device's memory"


def test_a_request_restarts_the_idle_time(runs_folder: Path) -> None:
    requests = asking(1, 2, 3)
    engines = FakeEngines(lambda send, check: None)
    assert lines_of(requests, engines, 4) == [Line(1), Line(2), Line(3)]
    assert requests.looks == 5


def test_the_worker_ends_when_its_gpu_no_longer_works(runs_folder: Path) -> None:
    def fault(send: Send, check: Check) -> None:
        send(PaneUpdate(0, "error", "CUDA error: an illegal memory access was encountered"))
        engines.device_answers = False

    requests, engines = asking(1, 2), FakeEngines(fault, GPU)
    assert [line.number for line in lines_of(requests, engines, 4)] == [1, 1]
    assert requests.looks == 1


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_lost_gpu_is_detected(
    is_lost: bool, runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def synchronize() -> None:
        if is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    engine = Engine(runs_folder, torch.device("cpu"))
    assert engine.device_answers
    engine.device = torch.device("cuda")
    assert engine.device_answers is not is_lost


def test_if_torch_cannot_use_the_gpu_the_cpu_is_locked_instead(
    runs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    held: list[str] = []

    class FakeEngine:
        def __init__(self, folder: Path, device: torch.device) -> None:
            assert device.type == "cpu"

        device_answers = True

        def answer(self, *args: object) -> None:
            held.extend(d for d in ("cpu", "cuda:0") if not DeviceLock(d).try_acquire())

    monkeypatch.setattr("ftlab.playground.engine.Engine", FakeEngine)
    assert lines_of(asking(1), Engines(runs_folder, GPU)) == [Line(1)]
    assert held == ["cpu"]


def test_a_request_cancelled_before_its_start_is_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = [Line(1, ASK), Line(2, ASK), Line(1), Line(2), Line(3, ASK)]
    read, never = threading.Event(), threading.Event()

    def stdin() -> Iterator[str]:
        yield "no message\n"
        yield from (line.dump().decode() for line in lines)
        read.set()
        never.wait()  # at its end the process would end

    monkeypatch.setattr(sys, "stdin", stdin())
    requests = Requests(lambda number: None)
    assert read.wait(5)
    assert requests.next(1) == Line(3, ASK)
    assert requests.next(0.01) is None
    requests.check(3)
    with pytest.raises(Stopped):
        requests.check(2)


def has_torch(client: PlaygroundClient) -> bool:
    """Whether the worker process has loaded torch's libraries."""
    return "libtorch" in Path(f"/proc/{client.process_id}/maps").read_text()


@pytest.mark.slow
def test_the_worker_waits_for_training_then_answers_and_ends_when_idle(
    runs_folder: Path, add_run: AddRun
) -> None:
    run = add_run("lora")
    client = PlaygroundClient(runs_folder, idle_seconds=1)
    training = DeviceLock(resolve_device("auto").id)
    assert training.try_acquire()
    updates, waited = [], []
    for update in client.generate(GenerateRequest(("base", run.run_id), "hi", max_new_tokens=8)):
        updates.append(update)
        if update.text.startswith("A training run or a prompt grid is using the") and not waited:
            waited.append(update.text)
            assert not has_torch(client), "importing torch disturbs the training run"
            threading.Timer(0.2, training.release).start()
    assert has_torch(client)
    assert waited[0].endswith("; the answers go on after it.")
    assert [update.kind for update in updates if update.is_final] == ["done", "done"]
    assert DeviceLock(resolve_device("auto").id).try_acquire(), "the lock outlived the answer"
    wait_until(lambda: not client.is_loaded, 10)


def test_the_worker_ends_when_its_stdin_closes(runs_folder: Path) -> None:
    command = [sys.executable, "-m", "ftlab.playground.worker", str(runs_folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert done.returncode == 0
    assert done.stdout == b""
