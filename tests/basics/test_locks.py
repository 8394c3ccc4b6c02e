"""Turns on a device: one at a time, and whoever waits in line goes before a grid."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ftlab.basics import locks
from ftlab.basics.locks import DeviceLock, FileLock, holding

CPU = "cpu"


class Stop(Exception):
    """Raised while waiting, as a stopped request does."""


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.005)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.002)


class Waiter:
    """Somebody who takes a turn in a thread of his own and keeps it until `release`."""

    def __init__(self, log: list[str], name: str, in_line: bool = True) -> None:
        self._turn = DeviceLock(CPU, in_line)
        self._goes = threading.Event()
        self.waits = threading.Event()
        self.has_it = threading.Event()

        def work() -> None:
            self._turn.acquire(self.waits.set)
            log.append(name)
            self.has_it.set()
            self._goes.wait(5)
            self._turn.release()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def release(self) -> None:
        self._goes.set()
        self._thread.join(5)
        assert not self._thread.is_alive()


def test_one_turn_excludes_the_other_on_the_same_device_alone() -> None:
    first, second = DeviceLock(CPU), DeviceLock(CPU)
    assert first.try_acquire()
    assert not second.try_acquire()
    assert DeviceLock("cuda:0").try_acquire()
    first.release()
    assert second.try_acquire()


def test_nobody_in_line_nobody_to_give_way_to() -> None:
    turn = DeviceLock(CPU)
    assert turn.try_acquire()
    assert turn.give_way() is False
    assert not DeviceLock(CPU).try_acquire(), "the turn was lost"


def test_a_look_whether_the_device_is_free_is_not_taken_for_somebody_in_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base would be unloaded and loaded again for nothing."""
    turn, line = DeviceLock(CPU), FileLock(tmp_path / "locks" / "device-cpu.next.lock")
    assert turn.try_acquire()
    assert not turn.is_wanted()
    assert line.try_acquire()
    assert turn.is_wanted()
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: line.release())
    assert not turn.is_wanted(), "it was gone a moment later"


def test_training_in_line_makes_a_playground_give_way_and_it_gets_the_turn_back() -> None:
    log: list[str] = []
    playground = DeviceLock(CPU)
    assert playground.try_acquire()
    training = Waiter(log, "training")
    assert training.waits.wait(5)
    assert not training.has_it.is_set()

    def while_waiting() -> None:
        if training.has_it.is_set():
            threading.Thread(target=training.release).start()

    assert playground.give_way(while_waiting) is True
    log.append("playground")
    assert log == ["training", "playground"]
    assert not DeviceLock(CPU).try_acquire()
    training.release()


def test_whoever_waits_in_line_goes_before_one_who_comes_later() -> None:
    log: list[str] = []
    holder = DeviceLock(CPU)
    assert holder.try_acquire()
    first = Waiter(log, "first")
    assert first.waits.wait(5)
    holder.release()
    assert not DeviceLock(CPU).try_acquire(), "somebody waits"
    until(first.has_it.is_set)
    first.release()
    assert DeviceLock(CPU).try_acquire()


def test_a_grid_waits_while_anyone_has_the_turn_or_waits_for_it() -> None:
    log: list[str] = []
    holder = DeviceLock(CPU)
    assert holder.try_acquire()
    grid = Waiter(log, "grid", in_line=False)
    assert grid.waits.wait(5)
    assert holder.give_way() is False, "a grid that waits does not stand in line"
    training = Waiter(log, "training")
    assert training.waits.wait(5)
    holder.release()
    until(training.has_it.is_set)
    time.sleep(0.05)
    assert log == ["training"]
    training.release()
    until(grid.has_it.is_set)
    assert log == ["training", "grid"]
    grid.release()


def test_a_grid_gives_way_to_a_prompt_in_line() -> None:
    log: list[str] = []
    grid = DeviceLock(CPU, in_line=False)
    grid.acquire()
    prompt = Waiter(log, "prompt")
    assert prompt.waits.wait(5)

    def while_waiting() -> None:
        if prompt.has_it.is_set():
            threading.Thread(target=prompt.release).start()

    assert grid.give_way(while_waiting) is True
    assert log == ["prompt"]
    assert not DeviceLock(CPU).try_acquire(), "the grid has its turn back"
    prompt.release()


def _stop() -> None:
    raise Stop


@pytest.mark.parametrize("in_line", [True, False])
def test_who_stops_waiting_leaves_neither_turn_nor_place_behind(in_line: bool) -> None:
    holder, stopped = DeviceLock(CPU), DeviceLock(CPU, in_line)
    assert holder.try_acquire()
    with pytest.raises(Stop):
        stopped.acquire(_stop)
    assert holder.give_way() is False, "the place in line was left behind"
    holder.release()
    assert DeviceLock(CPU).try_acquire()


@pytest.mark.parametrize("in_line", [True, False])
def test_who_stops_while_giving_way_does_not_hold_the_turn(in_line: bool) -> None:
    log: list[str] = []
    turn = DeviceLock(CPU, in_line)
    assert turn.try_acquire()
    training = Waiter(log, "training")
    assert training.waits.wait(5)
    with pytest.raises(Stop):
        turn.give_way(_stop)
    until(training.has_it.is_set)
    turn.release()  # what `holding` does; it must not take the other's turn away
    assert not DeviceLock(CPU).try_acquire()
    training.release()
    assert DeviceLock(CPU).try_acquire()


def test_holding_gives_the_turn_back_whatever_happens() -> None:
    with pytest.raises(Stop), holding(DeviceLock(CPU)):
        raise Stop
    with holding(DeviceLock(CPU)):
        assert not DeviceLock(CPU).try_acquire()


def test_what_is_done_while_waiting_is_done_again_and_again() -> None:
    holder, calls = DeviceLock(CPU), []
    assert holder.try_acquire()

    def count() -> None:
        calls.append(1)
        if len(calls) == 3:
            holder.release()

    DeviceLock(CPU).acquire(count)
    assert len(calls) == 3


def test_a_turn_ends_with_its_process_however_that_ends() -> None:
    code = (
        "import sys, time; from ftlab.basics.locks import DeviceLock; "
        "turn = DeviceLock('cpu'); turn.acquire(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert not DeviceLock(CPU).try_acquire()
    process.kill()
    process.wait()
    process.stdout.close()
    assert DeviceLock(CPU).try_acquire()


def test_a_lock_can_be_taken_again_after_it_was_let_go(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "deep" / "a.lock")
    for _ in range(2):
        assert lock.try_acquire()
        assert not FileLock(tmp_path / "deep" / "a.lock").try_acquire()
        lock.release()
        lock.release()
