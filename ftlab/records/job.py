"""A job: work that a process of its own does in a folder, so that it outlives page and app.

Training runs, merges and prompt grids are jobs. A job's status is never stored: it follows from the
files and the process table.
"""

from __future__ import annotations

import os
import shutil
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import open_plain
from ftlab.basics.locks import FileLock, holding
from ftlab.basics.processes import boot_id, end_process_group, is_alive, start_time
from ftlab.records.result import OPEN, FinalStatus, JobResult, Status

JobStatus = Status | Literal["none"]
"""Of a job; "none": nobody asked for it."""

CANCELLED = "Cancelled by the person."

LARGEST_LOG = 32_000_000
KEPT_OF_LOG = 1_000_000
"""Bytes: a log that grows above the first is cut down to the second, its last ones."""

_FIRST_WORD_SECONDS = 30.0
"""How long a process may take from its start to its first word, on a busy machine."""


class InFolder:
    """A file or folder of a job, by its name in the job's folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, job: Job, kind: type[Job]) -> Path:
        return job.folder / self._name


class Job(ABC):
    """A folder with the files of a job. Reading never raises for a file that is not there yet."""

    log_file = InFolder("log.txt")
    """The worker's stdout and stderr."""

    @property
    @abstractmethod
    def folder(self) -> Path: ...

    @abstractmethod
    def result(self) -> JobResult | None: ...

    @abstractmethod
    def worker(self) -> tuple[int, float] | None:
        """The worker's process id and start time, once it has begun."""

    @abstractmethod
    def waiting_status(self, began: bool) -> JobStatus | None:
        """The status of a job without result or process; `None` where no process will come."""

    def log_tail(self, characters: int = 20_000) -> str:
        with suppress(OSError), open_plain(self.log_file) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - characters))
            return file.read(characters).decode("utf-8", errors="replace")
        return ""

    def left_overs(self) -> tuple[Path, ...]:
        """Folders that a worker leaves behind when it is killed."""
        return ()

    def clear(self) -> None:
        """Removes what was left half."""
        for path in self.left_overs():
            shutil.rmtree(path, ignore_errors=True)

    def status(self) -> JobStatus:
        """Derived from the files and the process table, never stored."""
        result = self.result()
        if result is not None:
            return result.status
        worker = self.worker()
        if worker is not None and is_alive(*worker):
            return "running"
        waiting = self.waiting_status(began=worker is not None)
        if waiting is not None:
            return waiting
        late = self.result()  # written between the two looks
        return "interrupted" if late is None else late.status


class StartedJob(Job):
    """A job that whoever asks for it starts at once, without the dispatcher."""

    request_file: ClassVar[InFolder]
    """What was asked, written before the process is started."""

    @abstractmethod
    def write_worker(self, pid: int, started: float) -> None:
        """Writes what `worker` reads."""

    @abstractmethod
    def end(self, status: FinalStatus, reason: str = "") -> None:
        """Writes a result without numbers."""

    @property
    def lock(self) -> FileLock:
        """Held while the job is asked for, begins, or is cancelled: each looks at the status."""
        return FileLock(self.folder / "lock")

    def waiting_status(self, began: bool) -> JobStatus | None:
        if began:
            return None
        age = age_seconds(self.request_file)
        if age is None:
            return "none"
        return "queued" if age < _FIRST_WORD_SECONDS else None

    @property
    def reason(self) -> str:
        """Why the job did not get to its end; "" where it did, or is not over."""
        result = self.result()
        if result is not None:
            return result.reason
        if self.status() == "interrupted":
            return f"The worker ended without a word; {self.log_file.name} has its last lines."
        return ""

    def begin(self) -> bool:
        """Says that this process does the job; `False` if it is over, another process does it, or
        nobody asked for it."""
        with holding(self.lock):
            if self.result() or self.worker() or not self.request_file.exists():
                return False
            self.write_worker(os.getpid(), start_time(os.getpid()) or 0.0)
            return True

    def cancel(self) -> None:
        """Ends the worker within seconds; nothing happens if the job has ended.

        Raises `FtlabError` if the folder cannot be written.
        """
        try:
            with holding(self.lock):
                if self.status() in OPEN:
                    self.stop()
                    self.give_up("cancelled", CANCELLED)
        except OSError as error:
            raise FtlabError(
                f"The request to cancel cannot be left in '{self.folder}' ({error.strerror})."
            ) from None

    def give_up(self, status: FinalStatus, reason: str) -> None:
        """Ends the job for that reason, unless it has ended, and removes what was left half."""
        self.clear()
        if self.result() is None:
            self.end(status, reason)

    def stop(self) -> None:
        """Ends the worker, if there is one, with all that it started."""
        worker = self.worker()
        if worker is not None and is_alive(*worker):
            end_process_group(worker[0], None)


def worker_of(line: Any) -> tuple[int, float] | None:
    """Process id and start time of the line with which a worker began; `None` for a damaged one.

    `None` also for one that began before the machine was started anew: another process may have its
    number and, as both are counted from the boot, even its start time.
    """
    try:
        if line.get("boot") not in (None, boot_id()):
            return None
        return int(line["pid"]), float(line["process_started"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def age_seconds(file: Path) -> float | None:
    """How long ago the file was written, above 0 also where the clock was set back; `None`: no
    such file."""
    try:
        return abs(time.time() - file.stat().st_mtime)
    except OSError:
        return None


def bound_log(log: Path, largest: int = LARGEST_LOG, kept: int = KEPT_OF_LOG) -> None:
    """Cuts a log that is too large while its worker writes on: it appends, wherever the end is.

    What the worker says within the cut may be lost; never raises for a log that cannot be cut.
    """
    try:
        if log.stat().st_size <= largest:
            return
        with log.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size - kept)
            tail = file.read(kept).partition(b"\n")[2]
            file.truncate(0)
        with log.open("ab") as file:
            file.write(b"[ftlab: the log grew too large; what came before was cut away]\n" + tail)
    except OSError:
        return
