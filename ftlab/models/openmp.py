"""How long the threads of an operator wait for each other actively, before they sleep.

Between two operators there are 10 to 100 µs without work for them, and waking threads that sleep
takes about as long. On two cores of an Intel Xeon with AMX a LoRA step takes 0.88 s if they stay
awake, and 1.25 s if not. But a thread that waits actively for one whose core another process has
taken only takes time from both. libgomp's threads sleep at once if there are more of them than cores
("GOMP_SPINCOUNT" in its manual). So while other processes use the cores, there are a few more
threads here, which compute nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from ftlab.basics.devices import cpu_count
from ftlab.basics.system import core_waits

SPINS = 50_000
"""How often a thread looks before it sleeps: for 0.5 ms on that Xeon, 1 ms on an AMD EPYC."""

SPINS_ALWAYS = 1_000
"""The same where the kernel does not count how long threads wait for a core."""

LOOK_SECONDS = 0.25
LOOKS = 4
USED_BY_OTHERS = 0.12
"""Others use the cores if this process's threads, all together, waited that many seconds a second
for a core in all but one of the last `LOOKS`. On an idle machine they waited 0.02 to 0.06, but 0.7
in one look of fifty, and 0.2 beside a process that uses a quarter of a core. What is shorter, as a
browser that draws a loss, does not count."""


def spins() -> int:
    """Returns the GOMP_SPINCOUNT of a process that calls `yield_cores`."""
    return SPINS_ALWAYS if core_waits() is None else SPINS


def yield_cores() -> None:
    """Makes waiting threads sleep at once while other processes use the cores, until the process
    ends. Does nothing if the kernel does not count how long threads wait for a core."""
    if core_waits() is not None:
        threading.Thread(target=_watch, name="cores", daemon=True).start()


def _watch() -> None:
    cores, crowd = Cores(), None
    while True:
        time.sleep(LOOK_SECONDS)
        are_used = cores.are_used_by_others()
        if are_used and crowd is None and "torch" in sys.modules:
            import torch

            crowd = Crowd(torch.get_num_threads(), cpu_count())
        elif crowd is not None and not are_used:
            crowd.leave()
            crowd = None


class Cores:
    """Whether other processes use the cores; to be asked every `LOOK_SECONDS`."""

    def __init__(
        self,
        waits: Callable[[], list[float] | None] = core_waits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waits, self._clock = waits, clock
        self._waited, self._at = self._look()
        self._shares = deque([0.0] * LOOKS, maxlen=LOOKS)

    def _look(self) -> tuple[float, float]:
        return sum(self._waits() or ()), self._clock()

    def are_used_by_others(self) -> bool:
        waited, now = self._look()  # less than before if a thread that had waited has ended
        self._shares.append((waited - self._waited) / max(now - self._at, 1e-3))
        self._waited, self._at = waited, now
        return sorted(self._shares)[1] > USED_BY_OTHERS


class Crowd:
    """More OpenMP threads than there are `cores`, beside the `computing` ones of the process's
    products; they sleep until they leave."""

    def __init__(self, computing: int, cores: int) -> None:
        self._over = threading.Event()
        self._computing = computing
        more = computing - 1  # a thread that computes starts that many, which stay as long as it
        count = (cores - computing) // more + 1 if 1 < computing <= cores else 0
        self._threads = [threading.Thread(target=self._stay, daemon=True) for _ in range(count)]
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
