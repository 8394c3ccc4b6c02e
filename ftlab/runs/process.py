"""Processes by their number: whether one is still the same, its memory, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from functools import lru_cache
from typing import Any

import psutil

from ftlab.system import read_proc

GRACE_SECONDS = 4.0  # between the polite signal and the one that cannot be refused
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


def end_process_group(pid: int, process: subprocess.Popen[Any] | None) -> None:
    """Ends a worker with all that it started: politely, and after `GRACE_SECONDS` for certain."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(pid, signal_number)
        except (ProcessLookupError, PermissionError):
            try:
                os.kill(pid, signal_number)  # a worker started by hand leads no group
            except ProcessLookupError:
                return
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            # Of a process whose first thread has ended others may still hold memory and locks: a
            # child is gone once it can be waited for.
            if start_time(pid) is None if process is None else process.poll() is not None:
                return
            time.sleep(0.05)


def _seconds_since_boot(pid: int) -> float | None:
    stat = read_proc(f"{pid}/stat")
    if stat is None:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold spaces
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22, proc_pid_stat(5)
