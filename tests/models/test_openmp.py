"""Threads that wait for each other sleep at once while other processes use the cores."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from ftlab.basics.system import core_waits
from ftlab.models import openmp
from ftlab.models.openmp import LEAST_WAIT, LEAST_WORK, LOOK_SECONDS, Cores, yield_cores

KERNEL_COUNTS = core_waits() is not None


class Machine:
    """A clock, how long two threads of this process have waited for a core, and others' work."""

    def __init__(self) -> None:
        self.now, self.work = 100.0, 7.0
        self.waits: list[float] | None = [3.0, 5.0]
        self.cores = Cores(lambda: self.waits, lambda: self.work, lambda: self.now)

    def after(self, *shares: float, work: float = 1.0) -> list[bool]:
        """Whether others use the cores after each look, before which both threads have waited for
        such a share of the time together, and others have worked on so many cores."""
        found = []
        for share in shares:
            self.now += LOOK_SECONDS
            self.work += work * LOOK_SECONDS
            assert self.waits is not None
            self.waits = [waited + share * LOOK_SECONDS / 2 for waited in self.waits]
            found.append(self.cores.are_used_by_others())
        return found


BUSY, IDLE = 1.1 * LEAST_WAIT, 0.9 * LEAST_WAIT


def test_others_use_the_cores_while_threads_wait_for_them_in_most_looks() -> None:
    machine = Machine()
    assert machine.after(*[IDLE] * 9) == [False] * 9
    assert machine.after(0.9, IDLE, IDLE, 0.9, IDLE, IDLE, IDLE) == [False] * 7, "too short"
    assert machine.after(BUSY, BUSY, BUSY, BUSY, BUSY) == [False, False, True, True, True]
    assert machine.after(IDLE, BUSY, IDLE, IDLE) == [True, True, False, False]


def test_threads_that_wait_while_nobody_else_works_wait_for_each_other() -> None:
    machine = Machine()
    assert machine.after(*[BUSY] * 9, work=0.9 * LEAST_WORK) == [False] * 9
    assert machine.after(*[BUSY] * 3, work=1.1 * LEAST_WORK)[-1]


def test_a_thread_that_has_ended_and_a_kernel_that_no_longer_counts_are_no_waiting() -> None:
    machine = Machine()
    machine.waits = [5.0]
    assert machine.after(0.0) == [False]
    machine.waits = None
    assert not machine.cores.are_used_by_others()


class Ended(Exception):
    """The watch goes on until its process ends, a test until its last look."""


@pytest.mark.parametrize("is_limited", [False, True])
def test_a_crowd_stands_while_others_use_the_cores_unless_memory_is_limited(
    is_limited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    said = iter([False, True, True, False, True, False])
    stood = []

    class Scripted(Cores):
        def are_used_by_others(self) -> bool:
            stood.append(openmp.threads_sleep())
            try:
                return next(said)
            except StopIteration:
                raise Ended from None

    monkeypatch.setattr(openmp, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(openmp, "data_is_limited", lambda: is_limited)
    monkeypatch.setattr(openmp, "_threads_of_products", lambda: max(2, torch.get_num_threads()))
    monkeypatch.setattr(openmp, "cpu_count", lambda: max(2, torch.get_num_threads()))
    with pytest.raises(Ended):
        openmp._watch(Scripted())
    expected = [False, False, True, True, False, True, False]
    assert stood == ([False] * 7 if is_limited else expected)


def test_where_the_kernel_does_not_count_waits_threads_always_sleep_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"GOMP_SPINCOUNT": str(openmp.SPINS)})
    monkeypatch.setattr(openmp, "core_waits", lambda: None)
    before = threading.active_count()
    yield_cores()
    assert threading.active_count() == before
    assert openmp.spins() == openmp.SPINS_ALWAYS < openmp.SPINS


@pytest.mark.parametrize(
    ("own", "watches"),
    [({}, True), ({"GOMP_SPINCOUNT": "7"}, False), ({"OMP_WAIT_POLICY": "ACTIVE"}, False)],
)
def test_the_users_own_choice_is_left_alone(
    own: dict[str, str], watches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[Cores] = []
    monkeypatch.setattr(openmp, "core_waits", lambda: [0.0])
    monkeypatch.setattr(openmp, "_watch", watched.append)
    monkeypatch.setattr(os, "environ", {"GOMP_SPINCOUNT": str(openmp.SPINS)} | own)
    yield_cores()
    assert bool(watched) == watches


@pytest.mark.parametrize(
    ("computing", "cores", "threads"),
    [(2, 2, 3), (4, 4, 7), (4, 8, 10), (8, 16, 22), (8, 4, 8)],
)
def test_a_crowd_is_the_fewest_threads_that_are_more_than_the_cores(
    computing: int, cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the products have more threads than cores, they sleep as it is."""
    monkeypatch.setattr(openmp.Crowd, "_stay", lambda self: self._over.wait())
    before = threading.active_count()
    crowd = openmp.Crowd(computing, cores)
    started = threading.active_count() - before
    crowd.leave()
    assert computing + started * (computing - 1) == threads
    assert threads > cores
    assert threading.active_count() == before


# Computes for some µs and then nothing for 5 ms, in which the other thread waits for more to do.
SECONDS_OF_WAITING = """
import os, time
os.sched_setaffinity(0, range(os.cpu_count()))
os.environ["GOMP_SPINCOUNT"] = "50000000"
import torch
from ftlab.models.openmp import Crowd

torch.set_num_threads(2)
numbers = torch.zeros(1 << 18)

def seconds():
    numbers.add_(1)
    before = time.process_time()
    for _ in range(20):
        numbers.add_(1)
        time.sleep(0.005)
    return time.process_time() - before

alone = seconds()
crowd = Crowd(2, os.cpu_count())
beside = seconds()
crowd.leave()
print(alone, beside, seconds())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not KERNEL_COUNTS or (os.cpu_count() or 1) < 2, reason="needs Linux and two cores"
)
def test_threads_of_torch_wait_actively_but_not_beside_a_crowd() -> None:
    """Fails if torch's OpenMP is no longer libgomp, or if that no longer counts threads so."""
    environment = {key: value for key, value in os.environ.items() if "OMP_" not in key}
    found = subprocess.run(
        [sys.executable, "-c", SECONDS_OF_WAITING], env=environment, capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    alone, beside, again = map(float, found.stdout.split())
    assert beside < 0.3 * alone
    assert beside < 0.3 * again
