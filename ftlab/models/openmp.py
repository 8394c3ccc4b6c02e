"""How long the threads of an operator wait for each other actively, before they sleep.

Between two operators there are 10 to 100 µs without work for them, and waking threads that sleep
takes about as long. On two cores of an Intel Xeon with AMX a LoRA step takes 0.88 s if they stay
awake, and 1.25 s if not. But a thread that waits actively for one whose core another process has
taken only takes time from both. libgomp's threads sleep after 100 looks if there are more of them
than cores ("GOMP_SPINCOUNT" in its manual). So while other processes use the cores, there are a few
more threads here, which compute nothing.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from ftlab.basics.devices import cpu_count, work_of_others
from ftlab.basics.system import core_waits, data_is_limited

SPINS = 50_000
"""How often a thread looks before it sleeps: for 0.5 ms on that Xeon, 1 ms on an AMD EPYC."""

SPINS_ALWAYS = 1_000
"""The same where the kernel does not count how long threads wait for a core."""

LOOK_SECONDS = 0.25
LOOKS = 4
LEAST_WAIT = 0.12
"""Seconds a second that this process's threads, all together, were ready without a core. They were
0.02 to 0.06 on an idle machine, but 0.7 in one look of fifty, and 0.2 beside a process that uses a
quarter of a core."""

LEAST_WORK = 0.12
"""Cores that other processes used. Alone it would count what neighbours of a container do."""


def spins() -> int:
    """Returns the GOMP_SPINCOUNT of a process that calls `yield_cores`."""
    return SPINS_ALWAYS if core_waits() is None else SPINS


def yield_cores() -> None:
    """Makes waiting threads sleep soon while other processes use the cores, until this one ends.

    Does nothing if the user chose how they wait, or the kernel does not count for how long.
    """
    is_ours = os.environ.get("GOMP_SPINCOUNT") == str(SPINS) == str(spins())
    if is_ours and "OMP_WAIT_POLICY" not in os.environ:
        threading.Thread(target=_watch, args=(Cores(),), daemon=True).start()


def threads_sleep() -> bool:
    """Whether threads sleep soon now, because other processes use the cores."""
    return any(thread.name == _CROWD for thread in threading.enumerate())


def _watch(cores: Cores) -> None:
    crowd = None
    while True:
        time.sleep(LOOK_SECONDS)
        are_used = cores.are_used_by_others()
        if are_used and crowd is None and "torch" in sys.modules and not data_is_limited():
            # A thread of libgomp without memory for its stack would end the process.
            computing = _threads_of_products()
            crowd = Crowd(computing, cpu_count()) if computing > 1 else None
        elif crowd is not None and not are_used:
            crowd.leave()
            crowd = None


def _threads_of_products() -> int:
    """As `torch.set_num_threads` set it last; a thread that has asked before gets what was then."""
    import torch

    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    return found[0]


class Cores:
    """Whether other processes use the cores; to be asked every `LOOK_SECONDS`."""

    def __init__(
        self,
        waits: Callable[[], list[float] | None] = core_waits,
        work: Callable[[], float] = work_of_others,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waits, self._work, self._clock = waits, work, clock
        self._last = self._look()
        self._found = deque([False] * LOOKS, maxlen=LOOKS)

    def _look(self) -> tuple[float, float, float]:
        return sum(self._waits() or ()), self._work(), self._clock()

    def are_used_by_others(self) -> bool:
        """True if threads waited and others worked in all but one of the last `LOOKS`: what is
        shorter, as a browser that draws a loss, does not count."""
        (waited, worked, at), self._last = self._last, self._look()
        seconds = self._last[2] - at
        is_used = (
            self._last[0] - waited > LEAST_WAIT * seconds  # less if a thread has ended
            and self._last[1] - worked > LEAST_WORK * seconds
        )
        self._found.append(is_used)
        return sum(self._found) >= LOOKS - 1


_CROWD = "crowd"


class Crowd:
    """More OpenMP threads than there are `cores`, beside the `computing` ones of the process's
    products; they sleep until they leave."""

    def __init__(self, computing: int, cores: int) -> None:
        self._over = threading.Event()
        self._computing = computing
        more = computing - 1  # a thread that computes starts that many, which stay as long as it
        count = (cores - computing) // more + 1 if computing <= cores else 0
        self._threads = [
            threading.Thread(target=self._stay, name=_CROWD, daemon=True) for _ in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _stay(self) -> None:
        import torch

        torch.zeros(self._computing << 15, dtype=torch.int8)  # a thread gets 2^15 elements or more
        self._over.wait()

    def leave(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
