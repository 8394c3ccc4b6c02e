"""File locks: one worker per device, one dispatcher per runs folder, one worker per run.

A lock is an flock on an open file: the kernel releases it when its process exits or crashes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ftlab.basics.devices import AUTO, Device, free_bytes, like_devices
from ftlab.basics.files import locks_folder
from ftlab.basics.system import try_lock

SECONDS_BETWEEN_TRIES = 0.5
SECONDS_OF_A_LOOK = 0.005
"""Longer than `try_acquire` holds the line's lock."""


class FileLock:
    """An exclusive lock on a file, held until `release` or the end of the process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._handle: int | None = None

    def try_acquire(self) -> bool:
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if not try_lock(handle):
            os.close(handle)
            return False
        self._handle = handle
        return True

    def acquire(self, while_waiting: Callable[[], None] = lambda: None) -> None:
        """Waits for the lock; `while_waiting` is called twice a second and may raise."""
        while not self.try_acquire():
            while_waiting()
            time.sleep(SECONDS_BETWEEN_TRIES)

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def is_held_elsewhere(self) -> bool:
        """Takes the lock for a moment to find out."""
        if not self.try_acquire():
            return True
        self.release()
        return False


class DeviceLock:
    """The exclusive lock of a device: training, prompts and prompt grids use it one at a time.

    A process that waits `in_line` holds a second lock meanwhile, so that a holder that calls
    `give_way` yields. Without it (prompt grids) the device is taken only if none waits in line.
    """

    def __init__(self, device_id: str, in_line: bool = True) -> None:
        name = device_id.replace(":", "-")
        self.device_id = device_id
        self._device = FileLock(locks_folder() / f"device-{name}.lock")
        self._line = FileLock(locks_folder() / f"device-{name}.next.lock")
        self._in_line = in_line

    def try_acquire(self) -> bool:
        """Takes the device if no process holds it or waits in line for it."""
        if not self._line.try_acquire():
            return False
        try:
            return self._device.try_acquire()
        finally:
            self._line.release()

    def acquire(self, while_waiting: Callable[[], None] = lambda: None) -> None:
        """Waits for the device; `while_waiting` is called twice a second and may raise."""
        if not self._in_line:
            while not self.try_acquire():
                while_waiting()
                time.sleep(SECONDS_BETWEEN_TRIES)
            return
        self._line.acquire(while_waiting)
        try:
            self._device.acquire(while_waiting)
        finally:
            self._line.release()

    def is_held_elsewhere(self) -> bool:
        """Whether another process uses the device now, or waits in line for it."""
        if not self.try_acquire():
            return True
        self.release()
        return False

    def is_wanted(self) -> bool:
        """Whether another process waits in line; to be called by the holder of the device.

        Checks twice, because `try_acquire` of another process holds the line for a moment.
        """
        if not self._line.is_held_elsewhere():
            return False
        time.sleep(SECONDS_OF_A_LOOK)
        return self._line.is_held_elsewhere()

    def give_way(self, while_waiting: Callable[[], None] = lambda: None) -> bool:
        """Yields the device to the next in line and takes it back; `False` if nobody waited.

        If `while_waiting` raises, the device is not held any more.
        """
        if not self.is_wanted():
            return False
        self._device.release()
        self.acquire(while_waiting)
        return True

    def release(self) -> None:
        self._device.release()


FREE_SHARE = 0.9
"""Of a GPU that nobody uses at least so much memory is free: contexts and desktops take less."""


def is_unused(device: Device) -> bool:
    """Whether no process uses the device: none of ftlab's, and none that holds much of a GPU's
    memory, as far as its driver says."""
    try:
        if DeviceLock(device.id).is_held_elsewhere():
            return False
    except OSError:  # a folder of locks that cannot be written: the worker says so
        return True
    free = free_bytes(device) if device.is_gpu else None
    return free is None or free >= FREE_SHARE * device.memory_bytes


def free_device() -> Device:
    """The device for work that takes any of those which "auto" means: an unused one if there is."""
    first, *others = like_devices(AUTO)
    if not others:
        return first
    return next((device for device in (first, *others) if is_unused(device)), first)


KEEPS_OFF_SECONDS = 60.0
"""In a longer run the few steps that are slower change little: what is reported is their median."""


class TimedSteps:
    """Tells other processes that the steps of a run are being timed on a device."""

    def __init__(self, device_id: str) -> None:
        self._file = locks_folder() / f"device-{device_id.replace(':', '-')}.timed.lock"

    @contextmanager
    def timed(self) -> Iterator[None]:
        lock = FileLock(self._file)
        with holding(lock):
            os.utime(self._file)
            yield

    def seconds(self) -> float | None:
        """Seconds since the steps began; `None` while none are timed."""
        if not FileLock(self._file).is_held_elsewhere():
            return None
        return max(0.0, time.time() - self._file.stat().st_mtime)

    def keep_others_off(self) -> bool:
        """Whether work that can wait should rest: steps are timed, for less than a minute so far.

        On two cores, products beside a prediction were seen to take 1.7 times as long.
        """
        try:
            seconds = self.seconds()
        except OSError:  # a folder of locks that cannot be written
            return False
        return seconds is not None and seconds < KEEPS_OFF_SECONDS


@contextmanager
def holding(
    lock: FileLock | DeviceLock, while_waiting: Callable[[], None] = lambda: None
) -> Iterator[None]:
    lock.acquire(while_waiting)
    try:
        yield
    finally:
        lock.release()
