"""The process that forks the workers of runs (`ftlab.jobs.ready` says why, and starts it).

Run as: python -m ftlab.jobs.ready_parent NAME DEVICE

It has no model, no tensor and no thread of torch's, and does not touch a GPU. It listens on a
socket for runs, one connection a run: reads the run's folder, writes the worker's pid, and its exit
status at its end. A worker is a session of its own and outlives its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftlab.basics.locks import FileLock
from ftlab.basics.processes import module_command
from ftlab.basics.system import PROC
from ftlab.jobs import ready, run_worker
from ftlab.models.libraries import prepare_for_forks

_SECONDS_TO_READ = 2.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRESENT = 1 << 63  # in /proc/PID/pagemap (proc(5))
_POPULATE_READ = 22  # MADV_POPULATE_READ of madvise(2), Linux 5.14

Ranges = list[tuple[int, int]]
"""Addresses and lengths in bytes."""


@dataclass(frozen=True)
class Asked:
    """A run to be executed: its folder, its log, and the environment of its worker."""

    run: str
    log: str
    environment: dict[str, str]


def main(arguments: list[str]) -> int:
    name, device = arguments
    if ready.identity(device) != name:
        return 1  # the code changed between the request and this start
    lock = FileLock(ready.lock_file(name))
    if not lock.try_acquire():
        return 0
    code = ready.code()
    prepare_for_forks(device)
    run_worker.import_libraries()
    if ready.code() != code:
        return 1  # it may have imported files of two versions
    mapped = resident_files()
    with ready.socket_address(name) as address:
        with suppress(FileNotFoundError):
            os.unlink(address)  # of a parent that was killed
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        os.chmod(address, 0o600)
    listener.listen()
    asked = serve(listener, ready.idle_seconds())
    if asked is None:
        with ready.socket_address(name) as address, suppress(FileNotFoundError):
            os.unlink(address)
        return 0
    lock.release()
    return work(asked, mapped)


def serve(listener: socket.socket, idle_seconds: float) -> Asked | None:
    """Forks a worker for every connection. Returns what is asked in each worker, and `None` in the
    parent, when it has had no worker for `idle_seconds`."""
    waker, wakes = socket.socketpair()
    for end in (waker, wakes, listener):
        end.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    workers: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as events:
        for end in (waker, listener):
            events.register(end, selectors.EVENT_READ)
        while found := events.select(None if workers else idle_seconds):
            if any(key.fileobj is waker for key, _ in found):
                waker.recv(1 << 10)
            report_ended(workers)
            with suppress(OSError, ValueError, TypeError):
                connection, _ = listener.accept()
                asked = read_asked(connection)
                pid = os.fork()
                if pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for end in (waker, wakes, listener, connection, *workers.values()):
                        end.close()
                    return asked
                workers[pid] = connection
                connection.sendall(b"%d\n" % pid)
    return None


def read_asked(connection: socket.socket) -> Asked:
    """Raises `OSError` or `ValueError` if it is not of this user, or nothing that makes sense."""
    ids = struct.Struct("3i")  # the other process's, its user's and its group's (unix(7))
    _, user, _ = ids.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, ids.size))
    if user != os.getuid():
        raise PermissionError("another user asks for a run")
    connection.settimeout(_SECONDS_TO_READ)
    line, _ = ready.read_line(connection)
    return Asked(**json.loads(line))


def report_ended(workers: dict[int, socket.socket]) -> None:
    """Writes the exit status of every worker that has ended to its connection."""
    for pid in list(workers):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            connection = workers.pop(pid)
            with suppress(OSError), connection:  # nobody may be there any more
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def work(asked: Asked, mapped: Ranges) -> int:
    """Executes the run in this forked process, as a fresh process would."""
    os.setsid()
    os.environ.clear()
    os.environ.update(asked.environment)
    os.chdir(Path(asked.log).parent)
    log = os.open(asked.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for handle in (1, 2):
        os.dup2(log, handle)
    os.close(log)
    if not map_again(mapped) or touched_gpu():
        command = module_command("ftlab.jobs.run_worker", asked.run)
        os.execve(command[0], command, asked.environment)
    return run_worker.main([asked.run])


def touched_gpu() -> bool:
    """Whether the parent used the CUDA runtime: then no child of its can (torch refuses)."""
    torch: Any = sys.modules["torch"]
    return bool(torch.cuda._is_in_bad_fork())


def resident_files() -> Ranges:
    """The pages of mapped files that are in this process's resident size.

    A forked process inherits all other pages, but starts without these.
    """
    import numpy as np

    found: Ranges = []
    with open(PROC / "self" / "maps") as maps, open(PROC / "self" / "pagemap", "rb") as pages:
        for line in maps:
            addresses, rights, *_, path = line.split(maxsplit=5) + [""] * (line.count("/") == 0)
            if not path.startswith("/") or "r" not in rights:
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            pages.seek(start // _PAGE * 8)
            entries = np.frombuffer(pages.read((end - start) // _PAGE * 8), dtype=np.uint64)
            present = np.concatenate(([False], (entries & np.uint64(_PRESENT)) != 0, [False]))
            edges = np.flatnonzero(present[1:] != present[:-1]).reshape(-1, 2)
            found += [
                (start + int(first) * _PAGE, int(last - first) * _PAGE) for first, last in edges
            ]
    return found


def map_again(ranges: Ranges) -> bool:
    """Maps these pages, so that the resident size starts as that of a fresh process; `False` if
    the kernel is too old."""
    madvise = ctypes.CDLL(None, use_errno=True).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return all(madvise(start, length, _POPULATE_READ) == 0 for start, length in ranges)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
