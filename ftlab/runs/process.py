"""Telling one process from another that was later given the same number."""

from __future__ import annotations

import psutil

_CLOCK_TOLERANCE = 0.05  # seconds; start times are read with the resolution of the kernel's tick


def start_time(pid: int) -> float | None:
    """When the process started, in seconds since the epoch; `None` if there is none."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def is_alive(pid: int, started: float) -> bool:
    """True only for the very process that started then, not for a later one of the same number."""
    now = start_time(pid)
    return now is not None and abs(now - started) <= _CLOCK_TOLERANCE


def resident_bytes(pid: int) -> int | None:
    """The process's resident size; 0 if it is gone, `None` if it cannot be read."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
    except psutil.AccessDenied:
        return None
