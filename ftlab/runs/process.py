"""Telling one process from another that was later given the same number."""

from __future__ import annotations

import os
from functools import lru_cache

import psutil

from ftlab.system import read_proc

_TOLERANCE = 0.011  # seconds; the kernel counts in ticks of a hundredth


def start_time(pid: int) -> float | None:
    """When the process started; `None` if there is none, or only its zombie.

    On Linux seconds since boot, which no change of the clock moves; elsewhere since the epoch.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        since_boot = _seconds_since_boot(pid)
        return process.create_time() if since_boot is None else since_boot
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    except (ValueError, OverflowError):  # of a damaged record: no process can have that number
        return None


def is_alive(pid: int, started: float) -> bool:
    """True only for the very process that started then, not for a later one of the same number."""
    now = start_time(pid)
    return now is not None and abs(now - started) <= _TOLERANCE


@lru_cache(maxsize=1)
def boot_id() -> str:
    """What tells this run of the machine from the one before; "" where the system does not say."""
    return (read_proc("sys/kernel/random/boot_id") or "").strip()


def resident_bytes(pid: int) -> int | None:
    """The process's resident size; 0 if it is gone, `None` if it cannot be read."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
    except psutil.AccessDenied:
        return None


def _seconds_since_boot(pid: int) -> float | None:
    stat = read_proc(f"{pid}/stat")
    if stat is None:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22, proc_pid_stat(5)
