"""The process that forks the workers of runs (`ftlab.jobs.ready` says why, and starts it).

Run as: python -m ftlab.jobs.ready_parent NAME

It has no model, no tensor and no thread of torch's. It listens on a socket, one connection for each
run and for each dispatcher: reads the folder, writes the pid of the forked process, and its exit
status at its end. A forked process has its own session and outlives its parent.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ftlab.basics.devices import CPU, usable_cores
from ftlab.basics.locks import FileLock
from ftlab.basics.processes import module_command
from ftlab.basics.system import PROC
from ftlab.jobs import dispatcher, ready, run_worker
from ftlab.jobs.ready import Ranges
from ftlab.models.libraries import prepare_for_libraries

_SECONDS_TO_READ = 2.0
_PAGE = os.sysconf("SC_PAGE_SIZE")
_PRESENT = 1 << 63  # in /proc/PID/pagemap (proc(5))


@dataclass(frozen=True)
class Asked:
    """What a forked process shall do: one run, or the queue of a runs folder; where it writes its
    log, and its environment."""

    work: str
    folder: str
    log: str
    environment: dict[str, str]


def main(arguments: list[str]) -> int:
    [name] = arguments
    lock, file = FileLock(ready.lock_file(name)), ready.lock_file(name)
    if not lock.try_acquire():
        return 0
    if (own := ready.identity()) != name:  # the code changed between the request and this start
        print(f"Not started: asked for {name}, but this process is {own}.", file=sys.stderr)
        return 1
    cores = usable_cores()
    with listening(name) as listener:  # until `listen`, connections are refused
        code = ready.code()
        prepare_for_libraries(CPU, forks=True)
        run_worker.import_libraries()
        if ready.code() != code:
            return 1  # it may have imported files of two versions
        mapped = resident_files()
        listener.listen()
        os.truncate(file, 0)
        asked = serve(listener, ready.idle_seconds())
        if asked is None:
            file.unlink(missing_ok=True)
            return 0
    lock.release()
    return work(asked, mapped, cores)


@contextmanager
def listening(name: str) -> Iterator[socket.socket]:
    """The parent's socket; its file is removed when this process ends, but not by a worker."""
    parent = os.getpid()
    with ready.socket_address(name) as address, socket.socket(socket.AF_UNIX) as listener:
        with suppress(FileNotFoundError):
            os.unlink(address)  # of a parent that was killed
        listener.bind(address)
        try:
            os.chmod(address, 0o600)
            yield listener
        finally:
            if os.getpid() == parent:
                with suppress(FileNotFoundError):
                    os.unlink(address)


def serve(listener: socket.socket, idle_seconds: float) -> Asked | None:
    """Forks a process for every connection. Returns what is asked in each of them, and `None` in
    the parent, when it has had no run for `idle_seconds`."""
    waker, wakes = socket.socketpair()
    for end in (waker, wakes, listener):
        end.setblocking(False)
    signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    workers: dict[int, socket.socket] = {}  # of runs
    with selectors.DefaultSelector() as events:
        for end in (waker, listener):
            events.register(end, selectors.EVENT_READ)
        while found := events.select(None if workers else idle_seconds):
            if any(key.fileobj is waker for key, _ in found):
                waker.recv(1 << 10)
            report_ended(workers)
            with suppress(BlockingIOError):
                connection, _ = listener.accept()
                pid, asked = fork_for(connection)
                if asked is not None and pid == 0:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for end in (waker, wakes, connection, *workers.values()):
                        end.close()
                    return asked
                if asked is not None and asked.work == ready.RUN:
                    workers[pid] = connection
                elif pid:
                    connection.close()  # nobody reads the status of a dispatcher
    return None


def fork_for(connection: socket.socket) -> tuple[int, Asked | None]:
    """Reads what is asked and forks. Returns the worker's pid, 0 in the worker, and what was asked,
    `None` if nothing was forked: then the connection is closed, and the run starts by itself."""
    try:
        asked = read_asked(connection)
        pid = os.fork()
    except (OSError, ValueError, TypeError) as error:
        print(f"Nothing was forked: {error}", file=sys.stderr, flush=True)
        connection.close()
        return 0, None
    if pid:
        with suppress(OSError):
            connection.sendall(b"%d\n" % pid)
    return pid, asked


def read_asked(connection: socket.socket) -> Asked:
    """Raises `OSError`, `ValueError` or `TypeError` if the request comes from another user or is
    invalid."""
    ready.check_user(connection)
    connection.settimeout(_SECONDS_TO_READ)
    line, _ = ready.read_line(connection)
    return Asked(**json.loads(line))


def report_ended(workers: dict[int, socket.socket]) -> None:
    """Writes the exit status of every worker that has ended to its connection."""
    with suppress(ChildProcessError):  # raised if no child is left
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            connection = workers.pop(pid, None)
            if connection is not None:
                with suppress(OSError), connection:  # nobody may be there any more
                    connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))


def work(asked: Asked, mapped: Ranges, cores: Collection[int]) -> int:
    """Does what is asked in this forked process, as a fresh process would.

    `cores` are those of the parent before its imports: with `OMP_PROC_BIND` torch's import binds
    the process to one of them, which is right for a run, and not for a dispatcher.
    """
    os.setsid()
    os.environ.clear()
    os.environ.update(asked.environment)
    os.chdir(Path(asked.log).parent)
    log = os.open(asked.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for handle in (1, 2):
        os.dup2(log, handle)
    os.close(log)
    if asked.work == ready.QUEUE:
        os.sched_setaffinity(0, cores)
        return dispatcher.main([asked.folder])
    if not ready.map_again(mapped):
        command = module_command("ftlab.jobs.run_worker", asked.folder)
        os.execve(command[0], command, asked.environment)
    return run_worker.main([asked.folder])


def resident_files() -> Ranges:
    """The pages of mapped files that are in this process's resident size.

    A forked process inherits all other pages, but starts without these.
    """
    import numpy as np

    found: Ranges = []
    with open(PROC / "self" / "maps") as maps, open(PROC / "self" / "pagemap", "rb") as pages:
        for line in maps:
            addresses, rights, _, _, _, *path = line.split(maxsplit=5)
            if not path or not path[0].startswith("/") or "r" not in rights:
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
