"""A device that locks like a GPU and computes on the CPU; what its memory holds when yielded."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from ftlab.basics import locks
from ftlab.basics.devices import Device
from ftlab.basics.locks import DeviceLock, FileLock
from ftlab.basics.processes import Line, Signs
from ftlab.playground import decoding
from ftlab.playground import engine as engine_module
from ftlab.playground.decoding import Lane
from ftlab.playground.engine import Engine
from ftlab.playground.requests import WAITING, GenerateRequest, PaneUpdate, Stopped
from ftlab.playground.worker import Progress, serve

GPU = Device("cuda:0", "Card 0", 8 * 10**9)
WAITS = "A training run or a prompt grid is using the Card 0; the answers go on after it."


class Card:
    """The worker's `Engines` on that device, and a training run that waits for it.

    `left` has a list for each time that the device was yielded: what was still in memory then.
    `trained` counts how often the training run had the device.
    """

    def __init__(self, runs_folder: Path, device: Device = GPU) -> None:
        self.device = device
        self.is_loaded = True
        self.made = Engine(runs_folder, torch.device("cpu"))
        self.left: list[list[str]] = []
        self.trained = 0
        self.training_takes: float | None = 0.03
        self.while_training: Callable[[], object] = lambda: None
        self._other = DeviceLock(device.id)
        self._watched: list[tuple[str, weakref.ref[Any]]] = []
        self._known = {id(tensor): tensor for tensor in _tensors()}

    def engine(self) -> Engine:
        return self.made

    @property
    def is_wanted(self) -> bool:
        return self._other._line._handle is not None

    def want(self) -> None:
        """A training run waits in line."""
        assert self._other._line.try_acquire(), "somebody is in line already"

    def watch(self, name: str, thing: object) -> None:
        self._watched.append((name, weakref.ref(thing)))

    def watch_models(self) -> None:
        """Everything that the engine holds now."""
        made = self.made
        self.watch("base", made.base)
        for (name, _), (attached, _) in made.adapters._held.items():
            self.watch(name, attached)
            self.watch(f"model of {name}", attached.model or attached.low_rank)
        if made._rows is not None:
            self.watch("rows", made._rows.model)
        for attached, _ in made.full_models._held.values():
            self.watch("full model", attached.model)

    def train(self) -> None:
        """The training run takes the device that was yielded, and keeps it for a moment."""
        assert self._other._device.try_acquire(), "the device was not yielded"
        self._other._line.release()
        self.trained += 1
        self.while_training()
        if self.training_takes is not None:
            threading.Timer(self.training_takes, self.end_training).start()

    def end_training(self) -> None:
        self._other._device.release()

    def note_what_is_left(self) -> None:
        alive = [name for name, thing in self._watched if thing() is not None]
        new = [tensor for tensor in _tensors() if id(tensor) not in self._known]
        self.left.append(alive + [f"tensor {tuple(tensor.shape)}" for tensor in new])


@contextmanager
def card_in(runs_folder: Path, device: Device = GPU) -> Iterator[Card]:
    """A card with short waits whose answers send every token."""
    card = Card(runs_folder, device)
    release, prefill = FileLock.release, Lane.prefill
    name = f"device-{device.id.replace(':', '-')}.lock"

    def noting_release(lock: FileLock) -> None:
        is_ours = lock._path.name == name and lock is not card._other._device
        if not is_ours or lock._handle is None or not card.is_wanted:
            release(lock)
            return
        card.note_what_is_left()
        release(lock)
        card.train()

    def watched_prefill(lane: Lane) -> torch.Tensor:
        logits = prefill(lane)
        card.watch("lane", lane)
        card.watch("cache", lane.rows.cache)
        return logits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.01)
        patch.setattr(decoding, "SECONDS_BETWEEN_TEXTS", 0.0)
        patch.setattr(engine_module, "KEPT_FOR_LOADING", 0.0)
        patch.setattr(FileLock, "release", noting_release)
        patch.setattr(Lane, "prefill", watched_prefill)
        yield card


class FakeTime:
    """A clock that only `passes` moves; replaces the module `time`."""

    def __init__(self) -> None:
        self.now = 1.0

    def perf_counter(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds


class OneRequest:
    """Gives one request to the worker; it is cancelled as soon as `is_stopped` is set."""

    def __init__(self, request: GenerateRequest) -> None:
        self._waiting = [Line(1, request)]
        self.is_stopped = False

    def next(self, timeout: float) -> Line | None:
        return self._waiting.pop() if self._waiting else None

    def check(self, number: int) -> None:
        if self.is_stopped:
            raise Stopped


def served(
    card: Card,
    request: GenerateRequest,
    wanted_at: Iterable[int] = (),
    stop_at: Callable[[PaneUpdate], bool] = lambda update: False,
    pane: int = 0,
) -> list[PaneUpdate]:
    """All updates of the request, sent by the worker's own loop.

    A training run waits in line as soon as that pane has so many tokens (0: none, and the base is
    loaded). The request is cancelled at the first update for which `stop_at` is true.
    """
    updates: list[PaneUpdate] = []
    asked: Any = OneRequest(request)
    points = list(wanted_at)

    def write(line: Line) -> None:
        update = line.content
        if update is None:
            return
        updates.append(update)
        works = update.kind != "status" or update.text == WAITING
        if points and update.pane == pane and works and update.tokens >= points[0]:
            points.pop(0)
            card.watch_models()
            card.want()
        asked.is_stopped = asked.is_stopped or stop_at(update)

    engines: Any = card
    serve(asked, engines, write, 1, Progress(Signs()))
    assert not points, "the answer ended before the training run came"
    return updates


def finals_of(updates: Iterable[PaneUpdate]) -> list[PaneUpdate]:
    """The last update of each pane; each ends once."""
    ends = sorted((u for u in updates if u.is_final), key=lambda update: update.pane)
    assert [update.pane for update in ends] == list(range(len(ends)))
    return ends


def _tensors() -> list[torch.Tensor]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
