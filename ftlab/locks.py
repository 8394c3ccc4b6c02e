"""File locks: one worker a device, one dispatcher a runs folder, one worker a run.

A lock is an flock on an open file: the kernel lets go of it when its process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ftlab.paths import locks_folder


class FileLock:
    """An exclusive lock on a file, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._handle: int | None = None

    def try_acquire(self) -> bool:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def acquire(self, while_waiting: Callable[[], None] = lambda: None) -> None:
        """Waits for the lock; `while_waiting` is called twice a second and may raise."""
        while not self.try_acquire():
            while_waiting()
            time.sleep(0.5)

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def device_lock(device_id: str) -> FileLock:
    """The machine-wide lock of a device: training, page and playground take turns on it."""
    return FileLock(locks_folder() / f"device-{device_id.replace(':', '-')}.lock")


@contextmanager
def holding(lock: FileLock, while_waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    lock.acquire(while_waiting)
    try:
        yield
    finally:
        lock.release()
