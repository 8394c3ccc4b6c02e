"""What Linux is asked for that other systems have in another way, or not at all.

File locks are POSIX's, which Linux, macOS and the Linux of WSL have. What the kernel tells under
/proc is Linux's alone: elsewhere the answer is `None`, and whoever asked shows a dash.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

from ftlab.basics.errors import FtlabError

PROC = Path("/proc")

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows itself
    fcntl = None


def check_system() -> None:
    """Raises `FtlabError` on a system that ftlab cannot work on."""
    if fcntl is None:
        raise FtlabError(
            "ftlab needs POSIX file locks, which this system has not; run it on Linux or macOS, on "
            "Windows within WSL 2."
        )


def try_lock(handle: int) -> bool:
    """Takes the exclusive lock on an open file; `False` where another process holds it.

    The kernel lets go of it when the process ends, however it ends.
    """
    check_system()
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def read_proc(name: str, proc: Path | None = None) -> str | None:
    """What the kernel says under that name, as in "self/status"; `None` where it says nothing."""
    try:
        return ((PROC if proc is None else proc) / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def status_bytes(key: str, pid: int | str = "self", proc: Path | None = None) -> int | None:
    """A size of a process as /proc/PID/status gives it ("VmRSS", "VmHWM", "VmData"), in bytes."""
    for line in (read_proc(f"{pid}/status", proc) or "").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def reset_peak_size(proc: Path | None = None) -> bool:
    """Sets this process's VmHWM back to its size now (proc(5), clear_refs); whether it could."""
    try:
        ((PROC if proc is None else proc) / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def load_average() -> float | None:
    """Processes that ran or waited over the last minute; `None` where the system does not count."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None
