"""How the queue of a runs folder stands: what waits, what runs, and whether anybody works on it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftlab.runs.control import dispatcher_lock, dispatcher_lock_file
from ftlab.runs.store import Run
from ftlab.system import PROC

STARTING_SECONDS = 15.0
"""A run that waits for less has a dispatcher on its way: a Python process takes a moment."""

_LOCKS = PROC / "locks"

Work = Literal["idle", "working", "starting", "missing"]


@dataclass(frozen=True)
class QueueState:
    """`work`: "idle" if nothing waits; "missing" if runs wait and nobody sees to them.

    `dispatcher_pid` is `None` where the kernel does not say; `waited_seconds` is how long the
    oldest queued run has waited.
    """

    queued: int
    running: int
    work: Work
    dispatcher_pid: int | None = None
    waited_seconds: float = 0.0


def queue_state(runs_folder: Path, runs: Sequence[Run], now: float | None = None) -> QueueState:
    """Raises `OSError` if the folder cannot be locked."""
    waiting = [run for run in runs if run.status == "queued"]
    running = sum(run.status == "running" for run in runs)
    if not waiting:
        return QueueState(0, running, "idle")
    now = time.time() if now is None else now
    waited = max(0.0, now - min(run.spec.created_at for run in waiting))
    lock = dispatcher_lock_file(runs_folder)
    pid = _holder(lock, _LOCKS)
    if pid is not None or _is_held(runs_folder, lock):
        return QueueState(len(waiting), running, "working", pid, waited)
    work: Work = "starting" if waited < STARTING_SECONDS else "missing"
    return QueueState(len(waiting), running, work, None, waited)


def _holder(lock: Path, locks: Path) -> int | None:
    """The process that holds the lock, as Linux lists it; asking that disturbs nobody."""
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
    """Asks by trying. Only where the kernel's list knows nothing: for that moment a dispatcher
    that starts would find the lock taken."""
    if not lock.exists():
        return False
    own = dispatcher_lock(runs_folder)
    if not own.try_acquire():
        return True
    own.release()
    return False
