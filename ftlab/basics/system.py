"""Features of the operating system that differ between platforms: file locks and /proc.

File locks are POSIX's, which Linux, macOS and WSL have. /proc exists on Linux only: elsewhere these
functions return `None`, and the caller shows a dash.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from ftlab.basics.errors import FtlabError

PROC = Path("/proc")

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows without WSL
    fcntl = None


def check_system() -> None:
    """Raises `FtlabError` on a system that ftlab cannot work on."""
    if fcntl is None:
        raise FtlabError(
            "ftlab needs POSIX file locks, which this system does not have; run it on Linux or "
            "macOS, on Windows within WSL 2."
        )


def try_lock(handle: int) -> bool:
    """Takes the exclusive lock on an open file; `False` if another process holds it.

    The kernel releases it when the process exits, even if it crashes.
    """
    check_system()
    assert fcntl is not None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def read_proc(name: str, proc: Path | None = None) -> str | None:
    """The content of a file of /proc, as in "self/status"; `None` if it cannot be read."""
    try:
        return ((PROC if proc is None else proc) / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def core_waits() -> list[float] | None:
    """Seconds so far that each thread of this process was ready and had no core to run on.

    `None` if the kernel does not count them (Linux: /proc/PID/task/TID/schedstat).
    """
    try:
        threads = os.listdir(PROC / "self/task")
    except OSError:
        return None
    found = [(read_proc(f"self/task/{thread}/schedstat") or "").split() for thread in threads]
    waits = [int(words[1]) / 1e9 for words in found if len(words) == 3]
    return waits or None


def status_bytes(key: str, pid: int | str = "self", proc: Path | None = None) -> int | None:
    """A memory size of a process from /proc/PID/status ("VmRSS", "VmHWM", "VmData"), in bytes."""
    for line in (read_proc(f"{pid}/status", proc) or "").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None


def reset_peak_size(proc: Path | None = None) -> bool:
    """Resets this process's VmHWM to its current size (proc(5), clear_refs); True on success."""
    try:
        ((PROC if proc is None else proc) / "self" / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def use_spare_cores(proc: Path | None = None) -> None:
    """Lets all other processes go first on the cores: for a worker that began a session.

    On Linux each session may have the same share of the cores (sched(7), autogroup); `nice` then
    counts only within the session, so the session itself is given the lowest share.
    """
    os.nice(19)
    with suppress(OSError):  # no such file: shares are not by session
        ((PROC if proc is None else proc) / "self" / "autogroup").write_text("19")


def limit_data(size: int | None, *, for_good: bool = False) -> None:
    """Sets the soft limit of this process's private data, in bytes; `None` removes it.

    With `for_good` the hard limit too; else the soft one can be raised again.
    """
    import resource  # missing on Windows, where no process runs

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if size is None or (hard != resource.RLIM_INFINITY and size > hard):
        size = hard
    resource.setrlimit(resource.RLIMIT_DATA, (size, size if for_good else hard))


def data_is_limited() -> bool:
    """Whether this process's private data is limited, as by `limit_data`."""
    import resource

    return resource.getrlimit(resource.RLIMIT_DATA)[0] != resource.RLIM_INFINITY


def load_average() -> float | None:
    """The load average of the last minute; `None` where the system does not provide it."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None
