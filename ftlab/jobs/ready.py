"""A worker that is ready before it is needed: a process with all imports done forks each run.

Importing torch, transformers and peft takes seconds, the same for every run. One process does it
(`ftlab.jobs.ready_parent`), computes nothing itself, and forks the worker of each run that it is
asked for. It ends when nobody has asked it for `IDLE_SECONDS`. Nothing depends on it: a run whose
parent is missing, or of another identity, starts as a process of its own.

The identity covers what a process cannot change after its start: the code, the packages, the
environment (threads, allocator), cores, priority and control group. It is the name of a socket
beside the device locks, so that a parent of another identity is never found.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ftlab.basics.devices import kind_of
from ftlab.basics.files import locks_folder
from ftlab.basics.locks import DeviceLock, FileLock
from ftlab.basics.processes import is_alive, start_detached, start_time, worker_environment
from ftlab.basics.system import PROC, read_proc
from ftlab.models.libraries import installed_versions
from ftlab.records.run import RunDirectory

IDLE_VARIABLE = "FTLAB_READY_SECONDS"
"""Names the seconds after which an idle parent ends; with 0 there is none."""

IDLE_SECONDS = 300.0
SECONDS_TO_IMPORT = 40.0
"""A parent that has not imported everything by then is given up: runs start by themselves."""

_SECONDS_TO_LOCK = 5.0  # of a Python process, until it has its lock
_SECONDS_TO_FORK = 10.0
_MOST_BYTES = 1 << 20
_OF_A_TERMINAL = frozenset({"_", "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "TERM"})
"""Variables that differ between terminals and that no library reads."""

_PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers",
    "safetensors", "numpy", "pyarrow",
)  # fmt: skip


def idle_seconds() -> float:
    """How long a parent stays without a run; 0 if there is to be none, or can be none.

    It needs Linux: elsewhere a forked process cannot use the system's libraries safely, and the
    start of its measure cannot be made that of a fresh process.
    """
    if not (PROC / "self" / "pagemap").exists():
        return 0.0
    try:
        return max(0.0, float(os.environ.get(IDLE_VARIABLE, IDLE_SECONDS)))
    except ValueError:
        return IDLE_SECONDS


def identity(device: str) -> str:
    """The name of the parent that fits runs on the device, from this process's environment."""
    kept = worker_environment(needs_hub=False)
    facts = {
        "code": code(),
        "python": [sys.executable, sys.version],
        "packages": installed_versions(_PACKAGES),
        "device": kind_of(device),
        "environment": {n: v for n, v in sorted(kept.items()) if n not in _OF_A_TERMINAL},
        "cores": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "group": read_proc("self/cgroup"),
    }
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def code() -> str:
    """Changes with every file of this package: by its size and its time."""
    root = Path(__file__).resolve().parents[1]
    files = sorted(root.rglob("*.py"))
    facts = [(str(file.relative_to(root)), *_size_and_time(file)) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _size_and_time(file: Path) -> tuple[int, int]:
    with suppress(OSError):  # deleted meanwhile
        facts = file.stat()
        return facts.st_size, facts.st_mtime_ns
    return 0, 0


def lock_file(name: str) -> Path:
    """The lock that a parent holds from its start to its end."""
    return locks_folder() / f"ready-{name}.lock"


@contextmanager
def socket_address(name: str) -> Iterator[str]:
    """The address of a parent's socket, short enough for any folder (unix(7): 108 bytes)."""
    folder = os.open(locks_folder(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"{PROC}/self/fd/{folder}/ready-{name}.socket"
    finally:
        os.close(folder)


def start_parent(device: str) -> bool:
    """Starts a parent for runs on the device if there is none; returns whether it did.

    A parent that has ended within `SECONDS_TO_IMPORT` of its start is not started again at once.
    """
    if idle_seconds() <= 0 or kind_of(device) not in ("cpu", "cuda"):
        return False
    name = identity(device)
    file = lock_file(name)
    lock = FileLock(file)
    if _age(file) < SECONDS_TO_IMPORT or not lock.try_acquire():
        return False
    try:
        os.utime(file)
    finally:
        lock.release()
    log = locks_folder() / "ready.log"
    start_detached(
        "ftlab.jobs.ready_parent", log, worker_environment(needs_hub=False), name, device
    )
    return True


class Waker:
    """Starts a parent in advance: with the app, and while somebody fills in the form of a sweep."""

    SECONDS_BETWEEN = 30.0

    def __init__(self, is_off: bool = False) -> None:
        self._is_off = is_off
        self._latest = float("-inf")

    def wake(self, device: str) -> None:
        """Starts a parent if there is none, unless the device is used: imports would disturb it."""
        now = time.monotonic()
        if self._is_off or idle_seconds() <= 0 or now - self._latest < self.SECONDS_BETWEEN:
            return
        self._latest = now
        with suppress(OSError):
            turn = DeviceLock(device)
            if turn.try_acquire():
                turn.release()
                start_parent(device)


def fork_worker(directory: RunDirectory, device: str) -> ForkedWorker | None:
    """Has the parent fork the worker of a run; `None` if the run has to start by itself.

    Starts a parent if there is none. Raises `BlockingIOError` while it imports: to be tried again.
    """
    if idle_seconds() <= 0 or kind_of(device) not in ("cpu", "cuda"):
        return None
    name = identity(device)
    connection = _connect(name)
    if connection is not None:
        return _ask(connection, directory)
    if start_parent(device) or _is_coming(lock_file(name)):
        raise BlockingIOError(errno.EAGAIN, "the process that starts runs still imports")
    return None


def _is_coming(file: Path) -> bool:
    """Whether a parent was started lately and still imports."""
    age = _age(file)
    if age > SECONDS_TO_IMPORT:
        return False
    lock = FileLock(file)
    if not lock.try_acquire():
        return True
    lock.release()
    return age < _SECONDS_TO_LOCK


def _age(file: Path) -> float:
    try:
        return abs(time.time() - file.stat().st_mtime)
    except OSError:
        return float("inf")


def _connect(name: str) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_SECONDS_TO_FORK)
    try:
        with socket_address(name) as address:
            connection.connect(address)
    except OSError:  # none there, or left behind by a parent that was killed
        connection.close()
        return None
    return connection


def _ask(connection: socket.socket, directory: RunDirectory) -> ForkedWorker | None:
    asked = {
        "run": str(directory.path),
        "log": str(directory.log_file),
        "environment": worker_environment(needs_hub=False),
    }
    try:
        connection.sendall(json.dumps(asked).encode() + b"\n")
        first, rest = read_line(connection)
        return ForkedWorker(int(first), connection, rest)
    except (OSError, ValueError):  # it ended, or hangs
        connection.close()
        return None


def read_line(connection: socket.socket) -> tuple[bytes, bytes]:
    """The first line, and what came after it. Raises `OSError` for none within the timeout."""
    said = b""
    while b"\n" not in said:
        part = connection.recv(1 << 16)
        if not part or len(said) > _MOST_BYTES:
            raise ConnectionError("the other side ended")
        said += part
    line, _, rest = said.partition(b"\n")
    return line, rest


class ForkedWorker:
    """A worker that the parent forked; `poll` is that of `subprocess.Popen`."""

    LOST = 1
    """The status of a worker whose parent ended before it: nobody knows its own."""

    def __init__(self, pid: int, connection: socket.socket, said: bytes = b"") -> None:
        connection.setblocking(False)
        self.pid = pid
        self._started = start_time(pid)
        self._connection: socket.socket | None = connection
        self._said = said
        self._status: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; `None` while the worker runs."""
        if self._status is None:
            self._status = self._find_status()
        return self._status

    def wait(self) -> int:
        """Waits for the worker's end; returns its exit status."""
        while (status := self.poll()) is None:
            time.sleep(0.05)
        return status

    def _find_status(self) -> int | None:
        if self._connection is not None:
            with suppress(BlockingIOError):
                try:
                    part = self._connection.recv(64)
                except ConnectionError:
                    part = b""
                self._said += part
                if b"\n" in self._said or not part:
                    self._connection.close()
                    self._connection = None
            if b"\n" in self._said:
                return int(self._said)
        if self._connection is None and not self._is_alive():
            return self.LOST
        return None

    def _is_alive(self) -> bool:
        return self._started is not None and is_alive(self.pid, self._started)
