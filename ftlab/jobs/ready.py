"""A worker that is ready before it is needed: a process with all imports done forks it.

Importing torch, transformers and peft takes seconds, the same for every run. One process does it
(`ftlab.jobs.ready_parent`), computes nothing itself, and forks the worker of each run that it is
asked for, and the dispatcher that asks for them. It ends when nobody has asked it for
`IDLE_SECONDS`. Nothing depends on it: a run whose parent is missing, or of another identity, starts
as a process of its own.

The identity covers what a process cannot change after its start: the code, the packages, the
environment (threads, allocator), limits, cores, priority, control group and namespaces. It is the
name of a socket beside the device locks, so that a parent of another identity is never found.

Only runs on the CPU are forked. bitsandbytes asks CUDA for the cards when it is imported, and after
that no forked process could use a GPU.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import json
import mmap
import os
import site
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ftlab.basics.devices import CPU
from ftlab.basics.files import locks_folder
from ftlab.basics.locks import DeviceLock, FileLock
from ftlab.basics.log import is_secret_name
from ftlab.basics.processes import is_alive, start_detached, start_time, worker_environment
from ftlab.basics.system import PROC, read_proc
from ftlab.methods.registry import ENTRY_POINTS
from ftlab.models.libraries import installed_versions
from ftlab.records.run import RunDirectory

IDLE_VARIABLE = "FTLAB_READY_SECONDS"
"""Names the seconds after which an idle parent ends; with 0 there is none."""

IDLE_SECONDS = 300.0
SECONDS_TO_IMPORT = 40.0
"""A parent that takes longer is no longer waited for: runs start without it."""

_SECONDS_BETWEEN_FAILURES = 600.0
_SECONDS_TO_LOCK = 15.0  # of a Python process on a busy machine, until it has its lock
_SECONDS_TO_FORK = 10.0
_MOST_BYTES = 1 << 20

_OF_A_TERMINAL = (
    "COLUMNS", "LINES", "OLDPWD", "PWD", "SHLVL", "SSH_", "TERM", "TMUX", "VSCODE_", "WINDOWID",
    "XDG_SESSION_",
)  # fmt: skip
_OF_THE_PAGE = ("FORWARDED_ALLOW_IPS", "FTLAB_", "GRADIO_", "HF_HUB_DISABLE_TELEMETRY")
"""Beginnings of the names of variables that are read later than at the start, or by no library. A
forked worker has all variables of the process that asked for it."""

_PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers",
    "safetensors", "huggingface_hub", "numpy", "pyarrow",
)  # fmt: skip


RUN, QUEUE = "run", "queue"
"""What a forked process does: one run, or the dispatcher's work on a runs folder."""


class StillImporting(Exception):
    """A parent imports its libraries; the run starts soon, so try again."""


def idle_seconds() -> float:
    """How long a parent stays without a run; 0 if none is wanted or possible.

    It needs Linux 5.14: elsewhere a forked process cannot use the system's libraries safely, or its
    memory at the start cannot be made equal to that of a fresh process. There is none where code
    may change that `code` does not see: methods of other packages, and editable installations.
    """
    try:
        wanted = max(0.0, float(os.environ.get(IDLE_VARIABLE, IDLE_SECONDS)))
    except ValueError:
        wanted = IDLE_SECONDS
    if not wanted or not (PROC / "self" / "pagemap").exists() or not _can_map_again():
        return 0.0
    return 0.0 if _has_changing_code() else wanted


def _has_changing_code() -> bool:
    if importlib.metadata.entry_points(group=ENTRY_POINTS):
        return True
    for name in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            origin = importlib.metadata.distribution(name).read_text("direct_url.json")
            if origin and json.loads(origin).get("dir_info", {}).get("editable"):
                return True
    return False


def identity() -> str:
    """The name of the parent that fits, from this process and its environment."""
    kept = worker_environment(needs_hub=False)
    left_out = ("_=", *_OF_A_TERMINAL, *_OF_THE_PAGE)
    facts = {
        "code": code(),
        "python": [sys.executable, sys.version],
        "packages": installed_versions(_PACKAGES),
        "folders": [_size_and_time(Path(path)) for path in _package_folders()],
        "environment": sorted(f"{n}={v}" for n, v in kept.items()
                              if not f"{n}=".startswith(left_out)),
        "cores": sorted(os.sched_getaffinity(0)),
        "priority": os.getpriority(os.PRIO_PROCESS, 0),
        "limits": read_proc("self/limits"),
        "rights": [line for line in (read_proc("self/status") or "").splitlines()
                   if line.startswith(("Umask", "Groups", "Mems_allowed", "Uid", "Gid"))],
        "group": read_proc("self/cgroup"),
        "namespaces": [os.readlink(PROC / "self" / "ns" / kind) for kind in ("pid", "mnt", "net")],
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _package_folders() -> list[str]:
    """Where this Python's packages are. Not `sys.path`: a process may change that while it runs
    (importing setuptools adds a folder), and its parent would then have another identity."""
    return [*site.getsitepackages(), site.getusersitepackages()]


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
    """The lock that a parent holds from its start to its end. The file is empty once the parent
    takes runs; before that it has a word, which stays if the parent fails."""
    return locks_folder() / f"ready-{name}.lock"


@contextmanager
def socket_address(name: str) -> Iterator[str]:
    """The address of a parent's socket, short enough for any folder (unix(7): 108 bytes)."""
    folder = os.open(locks_folder(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"{PROC}/self/fd/{folder}/ready-{name}.socket"
    finally:
        os.close(folder)


def start_parent() -> bool:
    """Starts a parent if there is none; returns whether it did. May raise `OSError`.

    None is started while the CPU is in use, as its imports would disturb a timed run, and none soon
    after one that has failed.
    """
    if idle_seconds() <= 0:
        return False
    name = identity()
    file = lock_file(name)
    if _age(file) < (_SECONDS_BETWEEN_FAILURES if _size_and_time(file)[0] else 0):
        return False
    lock, device = FileLock(file), DeviceLock(CPU)
    if not lock.try_acquire() or not device.try_acquire():
        lock.release()
        return False
    device.release()
    try:
        file.write_text("imports\n", encoding="utf-8")
    finally:
        lock.release()
    log = locks_folder() / "ready.log"
    start_detached("ftlab.jobs.ready_parent", log, worker_environment(needs_hub=False), name)
    return True


class Waker:
    """Starts a parent in advance: with the app, and while somebody fills in the form of a sweep."""

    SECONDS_BETWEEN = 30.0

    def __init__(self, is_off: bool = False) -> None:
        self._is_off = is_off
        self._latest = float("-inf")

    def wake(self, device: str) -> None:
        """Starts a parent for runs on the device if there is none and the CPU is not in use."""
        now = time.monotonic()
        if self._is_off or device != CPU or now - self._latest < self.SECONDS_BETWEEN:
            return
        self._latest = now
        with suppress(OSError):
            start_parent()


def fork_worker(directory: RunDirectory, device: str) -> ForkedWorker | None:
    """Has the parent fork the worker of a run; `None` if the run has to start by itself.

    Starts a parent if there is none. Raises `StillImporting` while it imports.
    """
    if device != CPU or idle_seconds() <= 0:
        return None
    try:
        name = identity()
        is_coming = _is_coming(lock_file(name))  # read first: it may be done importing just now
        connection = _connect(name)
        if connection is not None:
            environment = worker_environment(needs_hub=False)
            return _ask(connection, RUN, directory.path, directory.log_file, environment)
        is_coming = is_coming or start_parent()
    except OSError:  # no room, or a folder that cannot be written: the run needs neither
        return None
    if is_coming:
        raise StillImporting
    return None


def fork_dispatcher(runs_folder: Path, log: Path, environment: dict[str, str]) -> bool:
    """Has the parent fork the dispatcher of a runs folder, which saves its imports; `False` if the
    dispatcher has to start by itself.

    None is forked that gets a secret, such as the Hub's token: a parent must not see it.
    """
    if any(map(is_secret_name, environment)) or idle_seconds() <= 0:
        return False
    try:
        connection = _connect(identity())
        forked = connection and _ask(connection, QUEUE, runs_folder, log, environment)
    except OSError:
        return False
    if forked:
        forked.forget()
    return bool(forked)


def _is_coming(file: Path) -> bool:
    """Whether a parent was started recently and still imports."""
    if not _size_and_time(file)[0] or _age(file) > SECONDS_TO_IMPORT:
        return False
    return FileLock(file).is_held_elsewhere() or _age(file) < _SECONDS_TO_LOCK


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
        check_user(connection)
    except OSError:  # none there, or left behind by a parent that was killed
        connection.close()
        return None
    return connection


def check_user(connection: socket.socket) -> None:
    """Raises `PermissionError` if the other side is another user's process."""
    ids = struct.Struct("3i")  # the other process's, its user's and its group's (unix(7))
    _, user, _ = ids.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ids.size))
    if user != os.getuid():
        raise PermissionError("the other side is another user's")


def _ask(
    connection: socket.socket, work: str, folder: Path, log: Path, environment: dict[str, str]
) -> ForkedWorker | None:
    asked = {"work": work, "folder": str(folder), "log": str(log), "environment": environment}
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

    LOST = 256
    """In place of the exit status of a worker whose parent ended before it: nobody knows it."""

    def __init__(self, pid: int, connection: socket.socket, said: bytes = b"") -> None:
        connection.setblocking(False)
        self.pid = pid
        self._started = start_time(pid)
        self._connection: socket.socket | None = connection
        self._said = said
        self._gone_since: float | None = None
        self._status: int | None = None

    def poll(self) -> int | None:
        """The exit status, negative for a signal; `None` while the worker runs."""
        if self._status is None:
            self._status = self._find_status()
        return self._status

    def forget(self) -> None:
        """Ends the connection; its exit status is then unknown."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def wait(self) -> int:
        """Waits for the worker's end; returns its exit status."""
        while (status := self.poll()) is None:
            time.sleep(0.05)
        return status

    def _find_status(self) -> int | None:
        self._read()
        if b"\n" in self._said:
            return int(self._said)
        if self._started is not None and is_alive(self.pid, self._started):
            return None
        now = time.monotonic()
        self._gone_since = self._gone_since or now
        # A parent that hangs, or was stopped, does not say so.
        waited = now - self._gone_since > _SECONDS_TO_FORK
        return self.LOST if self._connection is None or waited else None

    def _read(self) -> None:
        if self._connection is None:
            return
        with suppress(BlockingIOError):
            try:
                part = self._connection.recv(64)
            except ConnectionError:
                part = b""
            self._said += part
            if b"\n" in self._said or not part:
                self.forget()


Ranges = list[tuple[int, int]]
"""Addresses and lengths in bytes."""

_POPULATE_READ = 22  # MADV_POPULATE_READ of madvise(2), Linux 5.14


def map_again(ranges: Iterable[tuple[int, int]]) -> bool:
    """Maps these pages of files, as in the process that this one was forked from; `False` if the
    kernel cannot."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return all(madvise(start, length, _POPULATE_READ) == 0 for start, length in ranges)


def _can_map_again() -> bool:
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        start = ctypes.c_char.from_buffer(page)
        can = map_again([(ctypes.addressof(start), mmap.PAGESIZE)])
        del start  # else the page cannot be unmapped
    return can
