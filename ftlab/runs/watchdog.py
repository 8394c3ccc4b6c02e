"""Ends a process whose work shows no progress, so that whoever waits behind it gets in."""

from __future__ import annotations

import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable

STUCK_STATUS = 75
"""The exit status of a process that was ended so."""

STUCK_ENDS = (STUCK_STATUS, -signal.SIGALRM)
"""How `subprocess` reports such an end: by the thread, or by the kernel where no thread could run.
"""

_LOG = 2
_GRACE_SECONDS = 10.0
_SECONDS_BETWEEN_LOOKS = 1.0


class Signs:
    """Takes signs of progress, and does nothing where none comes."""

    def expect(self, seconds: float) -> None:
        """The next sign is to come within so many seconds, and so are those after it."""

    def sign(self) -> None:
        """Something was done. Nothing happens while nothing is expected."""

    def hurry(self, seconds: float) -> None:
        """Nobody wants the work any more: a sign is to come soon, if one is expected."""

    def rest(self) -> None:
        """Nothing is expected: the process is idle, or waits for others."""


class Watchdog(Signs):
    """Expects signs of progress, each within some seconds of the one before.

    Where none comes a thread writes the tracebacks to the log, calls `at_end` with a sentence, and
    ends the process with `STUCK_STATUS`. Where the thread does not get to run, because the work is
    inside C code that holds the interpreter's lock, the kernel ends the process by SIGALRM ten
    seconds later. Both clocks stand still while the machine is asleep.
    """

    def __init__(self, at_end: Callable[[str], None] = lambda sentence: None) -> None:
        self._at_end = at_end
        self._seconds = 0.0
        self._deadline = math.inf
        self._wake = threading.Event()
        self._changing = threading.RLock()
        faulthandler.register(signal.SIGALRM, file=_LOG, all_threads=True, chain=True)
        threading.Thread(target=self._watch, daemon=True).start()

    def expect(self, seconds: float) -> None:
        with self._changing:
            self._seconds = seconds
            self._deadline = time.monotonic() + seconds
            signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_SECONDS)
            self._wake.set()

    def sign(self) -> None:
        self.hurry(self._seconds)

    def hurry(self, seconds: float) -> None:
        with self._changing:
            if self._deadline < math.inf:
                self.expect(min(seconds, self._seconds))

    def rest(self) -> None:
        with self._changing:
            self._deadline = math.inf
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self) -> None:
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._end()
            elif left < math.inf:
                time.sleep(min(left, _SECONDS_BETWEEN_LOOKS))
            else:
                self._wake.clear()
                if self._deadline == math.inf:
                    self._wake.wait()

    def _end(self) -> None:
        sentence = f"It showed no progress for {_length(self._seconds)} and was ended."
        print(f"ftlab: {sentence}", file=sys.stderr, flush=True)
        try:
            faulthandler.dump_traceback(file=_LOG, all_threads=True)
            self._at_end(sentence)
        finally:
            os._exit(STUCK_STATUS)


def _length(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
