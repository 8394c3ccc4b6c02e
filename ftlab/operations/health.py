"""Health checks of the app: its queue, its folders and its address."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ftlab import __version__
from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import FileLock
from ftlab.basics.system import PROC
from ftlab.jobs.control import dispatcher_elsewhere, dispatcher_lock, dispatcher_lock_file
from ftlab.records.store import Run, RunStore

STARTING_SECONDS = 15.0
"""While a run has waited for less, its dispatcher may still be starting."""

_LOCKS = PROC / "locks"

Work = Literal["idle", "working", "starting", "missing"]


@dataclass(frozen=True)
class QueueState:
    """`work` is "idle" if no run is queued, "missing" if runs are queued but no dispatcher runs.

    `dispatcher_pid` is `None` if the kernel does not report it; `waited_seconds` is the waiting
    time of the oldest queued run.
    """

    queued: int
    running: int
    work: Work
    dispatcher_pid: int | None = None
    waited_seconds: float = 0.0


def queue_state(runs_folder: Path, runs: Sequence[Run], now: float | None = None) -> QueueState:
    """The state of the queue. Raises `OSError` if the folder cannot be locked."""
    waiting = [run for run in runs if run.status == "queued"]
    running = sum(run.status == "running" for run in runs)
    if not waiting:
        return QueueState(0, running, "idle")
    now = time.time() if now is None else now
    waited = max(0.0, now - min(run.spec.created_at for run in waiting))
    lock = dispatcher_lock_file(runs_folder)
    pid = _holder(lock, _LOCKS)
    is_elsewhere = dispatcher_elsewhere(runs_folder) is not None
    if pid is not None or is_elsewhere or _is_held(runs_folder, lock):
        return QueueState(len(waiting), running, "working", pid, waited)
    work: Work = "starting" if waited < STARTING_SECONDS else "missing"
    return QueueState(len(waiting), running, work, None, waited)


def _holder(lock: Path, locks: Path) -> int | None:
    """The pid that holds the lock, from Linux's /proc/locks; does not touch the lock itself."""
    try:
        stamp = lock.stat()
        lines = locks.read_text().splitlines()
    except OSError:
        return None
    wanted = f"{os.major(stamp.st_dev):02x}:{os.minor(stamp.st_dev):02x}:{stamp.st_ino}"
    for line in lines:
        fields = line.split()  # "1: FLOCK ADVISORY WRITE pid major:minor:inode 0 EOF"
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5] == wanted:
            return int(fields[4])
    return None


def _is_held(runs_folder: Path, lock: Path) -> bool:
    """Tests the lock by taking it. Only used if `_holder` finds nothing, because a dispatcher that
    starts at this moment would find the lock taken."""
    if not lock.exists():
        return False
    own = dispatcher_lock(runs_folder)
    if not own.try_acquire():
        return True
    own.release()
    return False


def why_not_free(host: str, port: int) -> str:
    """Why the address cannot be bound, as the system's error message; "" if it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:  # UnicodeError: the host name is too long
        return getattr(error, "strerror", None) or str(error)
    return ""


def nearest(folder: Path) -> Path:
    """The folder, or its nearest existing parent."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def refusal(folder: Path) -> str | None:
    """Why the folder, or its nearest existing parent, is not writable; `None` if it is."""
    there = nearest(folder)
    if not there.is_dir():
        return f"{there} is a file"
    if there != folder:
        return None if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # also detects a full disk
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def lock_refusal(folder: Path) -> str | None:
    """Why files in the folder cannot be locked (on some network disks); `None` if they can."""
    if not folder.is_dir():
        return None
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as apart:
            lock, other = (FileLock(Path(apart) / "lock") for _ in range(2))
            held = lock.try_acquire()
            twice = held and other.try_acquire()
            other.release()
            lock.release()
    except OSError as error:
        return error.strerror or str(error)
    if not held:
        return "a lock on a new file is refused"
    return "two processes could hold the same lock" if twice else None


FRESH_SECONDS = 2.0
"""How long a result is cached for all probes."""


@dataclass(frozen=True)
class Health:
    """A health report. Public, so without paths or names. `queue` is `None` if unreadable."""

    writable: bool
    queue: QueueState | None

    @property
    def is_ok(self) -> bool:
        return self.writable and self.queue is not None and self.queue.work != "missing"

    @property
    def status(self) -> str:
        return "ok" if self.is_ok else "failing"

    def to_json(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "version": __version__,
            "runs_folder_writable": self.writable,
            "dispatcher": self.queue.work if self.queue else "unknown",
            "queued": self.queue.queued if self.queue else None,
            "running": self.queue.running if self.queue else None,
        }


class HealthProbe:
    """Checks one runs folder, and caches the result for `FRESH_SECONDS`."""

    def __init__(self, store: RunStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._turn = threading.Lock()
        self._last: tuple[float, Health] | None = None

    def health(self) -> Health:
        with self._turn:
            now = self._clock()
            if self._last is None or now - self._last[0] >= FRESH_SECONDS:
                self._last = (now, look(self._store.folder, self._store))
            return self._last[1]


def look(runs_folder: Path, store: RunStore) -> Health:
    """The current health, not cached."""
    writable = refusal(runs_folder) is None
    try:
        return Health(writable, queue_state(runs_folder, store.runs_of_all()))
    except (FtlabError, OSError):
        return Health(writable, None)
