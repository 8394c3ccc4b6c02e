"""The endpoint's worker: it holds the device while chats are open, and gives it away in between."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics import locks
from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import DeviceLock
from ftlab.basics.processes import Line, Signs
from ftlab.playground import chat_engine as chat_engine_module
from ftlab.playground.chat import ChatUpdate, Offer
from ftlab.playground.chat_worker import ChatWorker
from ftlab.playground.engine import Engine
from ftlab.playground.requests import GenerateRequest
from tests.playground.asking import texts
from tests.playground.conftest import AddRun
from tests.playground.test_chat_engine import chat

CPU = Device("cpu", "CPU, 2 cores", 8 * 10**9)
GPU = Device("cuda:0", "Card 0", 8 * 10**9)


@pytest.fixture(autouse=True)
def quick_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.01)
    monkeypatch.setattr(chat_engine_module, "SECONDS_BETWEEN_TEXTS", 0.0)


@dataclass
class LoadedEngines:
    """Engines whose engine is that one, on a device that is called so."""

    loaded: Engine
    device: Device
    is_loaded: bool = True

    def engine(self) -> Engine:
        return self.loaded


@dataclass
class Waiting:
    """Requests that wait: one is `next`, the others arrive with it."""

    lines: list[Line]
    stopped: set[int] = field(default_factory=set)

    def next(self, timeout: float) -> Line | None:
        return self.lines.pop(0) if self.lines else None

    def arrived(self) -> Iterator[Line]:
        lines, self.lines = self.lines, []
        return iter(lines)

    def is_stopped(self, number: int) -> bool:
        return number in self.stopped


Answers = dict[int, list[ChatUpdate | None]]
Heard = Callable[[Line], None]


def answers(
    engine: Engine, model: Path, *chats: Any, device: Device = CPU,
    heard: Heard = lambda line: None,
) -> Answers:  # fmt: skip
    """All updates of each chat by number; `None` is the end of its answer."""
    found: Answers = {}

    def write(line: Line) -> None:
        found.setdefault(line.number, []).append(line.content)
        heard(line)

    requests: Any = Waiting([Line(number, one) for number, one in enumerate(chats)])
    names = dict.fromkeys(line.content.name for line in requests.lines)
    engines: Any = LoadedEngines(engine, device)
    offer = Offer(str(model), "fp32", tuple(names))
    ChatWorker(requests, engines, offer, write, Signs()).serve(idle=1)
    turn = DeviceLock(device.id)
    assert turn.try_acquire(), "the lock outlived the answers"
    turn.release()
    return found


def last(updates: list[ChatUpdate | None]) -> ChatUpdate:
    """The last update of an answer, which is followed by its end."""
    assert updates[-1] is None
    assert updates.count(None) == 1
    assert updates[-2] is not None
    return updates[-2]


@pytest.mark.parametrize("device", [CPU, GPU], ids=["cpu", "gpu"])
def test_training_gets_the_device_between_two_tokens_and_the_answers_go_on(
    device: Device, engine: Engine, tiny_model: Path, add_run: AddRun, ask: GenerateRequest,
) -> None:  # fmt: skip
    names = ["base", add_run("lora").run_id]
    alone = [texts(engine, ask, name)[0] for name in names]
    open_at_training: list[bool] = []
    held_by_engine: list[bool] = []
    trains: list[threading.Thread] = []
    turn = DeviceLock(device.id)
    base = weakref.ref(engine.base.model.layers[0].mlp.up_proj.weight)

    def train() -> None:
        turn.acquire()
        open_at_training.append(not any(None in updates for updates in found.values()))
        gc.collect()
        held_by_engine.append(base() is not None)
        turn.release()

    found: Answers = {}

    def heard(line: Line) -> None:
        found.setdefault(line.number, []).append(line.content)
        if not trains:
            trains.append(threading.Thread(target=train, daemon=True))
            trains[0].start()
            while turn._line._handle is None and turn._device._handle is None:
                threading.Event().wait(0.001)

    asked = [chat(name, stream=True) for name in names]
    ended = answers(engine, tiny_model, *asked, device=device, heard=heard)
    trains[0].join(5)
    assert [last(ended[number]).text for number in range(2)] == alone
    assert open_at_training == [True]
    assert held_by_engine == [device is CPU], "a GPU's memory was not given back"


def test_a_base_that_cannot_be_loaded_is_an_error_of_every_chat_and_is_tried_again(
    engine: Engine, tiny_model: Path, ask: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = texts(engine, ask)
    engine.unload()

    def fail(*args: Any) -> None:
        raise FtlabError("There is no room.")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "load", fail)
        found = answers(engine, tiny_model, chat("base"), chat("base"))
    for number in range(2):
        assert last(found[number]) == ChatUpdate("error", "There is no room.")
    assert last(answers(engine, tiny_model, chat("base"))[0]).text == alone[0]


def test_a_chat_that_is_cancelled_while_the_device_is_in_use_is_not_answered(
    engine: Engine, tiny_model: Path, ask: GenerateRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = DeviceLock("cpu")
    held = holder.try_acquire()
    assert held
    waiting = Waiting([Line(0, chat("base")), Line(1, chat("base"))])
    waits: list[str] = []

    class Watched(Signs):
        def rest(self) -> None:  # called while it waits
            waits.append("waits")
            waiting.stopped.add(0)
            holder.release()

    found: Answers = {}
    engines: Any = LoadedEngines(engine, CPU)
    requests: Any = waiting
    ChatWorker(
        requests, engines, Offer(str(tiny_model), "fp32", ("base",)),
        lambda line: found.setdefault(line.number, []).append(line.content), Watched(),
    ).serve(idle=1)  # fmt: skip
    assert waits
    assert set(found) == {1}
    assert last(found[1]).text == texts(engine, ask)[0]


def test_a_gpus_memory_is_free_while_a_later_chat_waits_for_training(
    engine: Engine, tiny_model: Path, add_run: AddRun, ask: GenerateRequest
) -> None:
    name = add_run("lora").run_id
    alone = texts(engine, ask, name)
    base = weakref.ref(engine.base.model.layers[0].mlp.up_proj.weight)
    training = DeviceLock(GPU.id)
    seen: list[bool] = []

    class AfterTraining(Waiting):
        def next(self, timeout: float) -> Line | None:
            if len(self.lines) == 1:
                assert training.try_acquire()
            return self.lines.pop(0) if self.lines else None

        def arrived(self) -> Iterator[Line]:
            return iter(())

    class Watched(Signs):
        def rest(self) -> None:  # called before each look at the device
            if training._device._handle is None:
                return
            gc.collect()
            seen.append(base() is not None)
            if len(seen) == 2:
                training.release()

    found: Answers = {}
    requests: Any = AfterTraining([Line(0, chat(name)), Line(1, chat(name))])
    engines: Any = LoadedEngines(engine, GPU)
    ChatWorker(
        requests, engines, Offer(str(tiny_model), "fp32", (name,)),
        lambda line: found.setdefault(line.number, []).append(line.content), Watched(),
    ).serve(idle=1)  # fmt: skip
    assert [last(found[number]).text for number in range(2)] == alone * 2
    assert seen == [True, False], "the memory was not given back"
