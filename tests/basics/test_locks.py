"""Turns on a device: one at a time, and whoever waits in line goes before a grid."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ftlab.basics import locks
from ftlab.basics.locks import DeviceLock, FileLock, TimedSteps, holding

CPU = "cpu"


class Stop(Exception):
    """Raised while waiting, as a stopped request does."""


@pytest.fixture(autouse=True)
def own_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(locks, "SECONDS_BETWEEN_TRIES", 0.005)


@pytest.fixture
def log() -> list[str]:
    """The names of those who got the device, in order."""
    return []


@pytest.fixture
def holder() -> DeviceLock:
    """A lock that has the device."""
    return held()


def held(in_line: bool = True) -> DeviceLock:
    lock = DeviceLock(CPU, in_line)
    assert lock.try_acquire()
    return lock


class Waiter:
    """Waits for the device in a thread, and keeps it until `release`."""

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
        assert self.waits.wait(5)

    def release_once_it_has_the_device(self) -> None:
        """To be called while another waits for the device."""
        if self.has_it.is_set():
            threading.Thread(target=self.release).start()

    def release(self) -> None:
        self._goes.set()
        self._thread.join(5)
        assert not self._thread.is_alive()


def test_one_turn_excludes_the_other_on_the_same_device_alone(holder: DeviceLock) -> None:
    second = DeviceLock(CPU)
    assert not second.try_acquire()
    assert DeviceLock("cuda:0").try_acquire()
    holder.release()
    assert second.try_acquire()


def test_nobody_waits_so_the_device_is_kept(holder: DeviceLock) -> None:
    assert holder.give_way() is False
    assert not DeviceLock(CPU).try_acquire(), "the turn was lost"


def test_a_check_whether_the_device_is_free_is_not_mistaken_for_waiting_in_line(
    holder: DeviceLock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base would be unloaded and loaded again for nothing."""
    line = FileLock(tmp_path / "locks" / "device-cpu.next.lock")
    assert not holder.is_wanted()
    assert line.try_acquire()
    assert holder.is_wanted()
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: line.release())
    assert not holder.is_wanted(), "it was gone a moment later"


@pytest.mark.parametrize(
    "in_line", [pytest.param(True, id="playground"), pytest.param(False, id="grid")]
)
def test_the_device_is_given_to_who_waits_in_line_and_taken_back(
    log: list[str], in_line: bool
) -> None:
    turn = held(in_line)
    training = Waiter(log, "training")
    assert not training.has_it.is_set()
    assert turn.give_way(training.release_once_it_has_the_device) is True
    assert log == ["training"]
    assert not DeviceLock(CPU).try_acquire(), "it is held again"
    training.release()


def test_whoever_waits_in_line_goes_before_one_who_comes_later(
    log: list[str], holder: DeviceLock
) -> None:
    first = Waiter(log, "first")
    holder.release()
    assert not DeviceLock(CPU).try_acquire(), "somebody waits"
    assert first.has_it.wait(5)
    first.release()
    assert DeviceLock(CPU).try_acquire()


def test_a_grid_waits_while_anyone_has_the_turn_or_waits_for_it(
    log: list[str], holder: DeviceLock
) -> None:
    grid = Waiter(log, "grid", in_line=False)
    assert holder.give_way() is False, "a grid that waits does not stand in line"
    training = Waiter(log, "training")
    holder.release()
    assert training.has_it.wait(5)
    time.sleep(0.05)
    assert log == ["training"]
    training.release()
    assert grid.has_it.wait(5)
    assert log == ["training", "grid"]
    grid.release()


def _stop() -> None:
    raise Stop


@pytest.mark.parametrize("in_line", [True, False])
def test_who_stops_waiting_leaves_neither_turn_nor_place_behind(
    in_line: bool, holder: DeviceLock
) -> None:
    with pytest.raises(Stop):
        DeviceLock(CPU, in_line).acquire(_stop)
    assert holder.give_way() is False, "the place in line was left behind"
    holder.release()
    assert DeviceLock(CPU).try_acquire()


@pytest.mark.parametrize("in_line", [True, False])
def test_who_stops_while_giving_way_does_not_hold_the_turn(log: list[str], in_line: bool) -> None:
    turn = held(in_line)
    training = Waiter(log, "training")
    with pytest.raises(Stop):
        turn.give_way(_stop)
    assert training.has_it.wait(5)
    turn.release()  # what `holding` does; it must not take the other's turn away
    assert not DeviceLock(CPU).try_acquire()
    training.release()
    assert DeviceLock(CPU).try_acquire()


def test_holding_gives_the_turn_back_whatever_happens() -> None:
    with pytest.raises(Stop), holding(DeviceLock(CPU)):
        raise Stop
    with holding(DeviceLock(CPU)):
        assert not DeviceLock(CPU).try_acquire()


def test_what_is_done_while_waiting_is_done_again_and_again(holder: DeviceLock) -> None:
    calls = []

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


def test_while_steps_are_timed_others_know_it_and_since_when() -> None:
    steps = TimedSteps(CPU)
    assert steps.seconds() is None
    with steps.timed():
        seconds = TimedSteps(CPU).seconds()
        assert seconds is not None
        assert 0 <= seconds < 10
        assert TimedSteps("cuda:0").seconds() is None
    assert steps.seconds() is None
    with pytest.raises(Stop), steps.timed():
        raise Stop
    assert steps.seconds() is None
