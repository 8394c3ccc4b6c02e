"""A job: work done by a separate process in a folder, so that it survives page and app restarts.

Training runs, merges and prompt grids are jobs. A job's status is never stored: it is derived from
the files and the process table.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import MAX_RECORD_BYTES, open_plain, parse_json, read_plain
from ftlab.basics.leases import Holder, watch
from ftlab.basics.locks import FileLock, holding
from ftlab.basics.people import asking
from ftlab.basics.processes import boot_id, end_process_group, is_alive, start_time
from ftlab.records.result import OPEN, FinalStatus, JobResult, Status

JobStatus = Status | Literal["none"]
"""Status of a job; "none": it was never requested."""

CANCELLED = "Cancelled by the person."

LARGEST_LOG = 32_000_000
KEPT_OF_LOG = 1_000_000
"""In bytes: a log larger than the first is truncated to its last `KEPT_OF_LOG` bytes."""

_FIRST_WORD_SECONDS = 30.0
"""Timeout from the start of a process to its first event, on a busy machine."""


class InFolder:
    """Descriptor that returns the path of a file or folder in the job's folder."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, job: Job, kind: type[Job]) -> Path:
        return job.folder / self._name


class Job(ABC):
    """A folder with the files of a job. Reading never raises for a file that does not exist yet."""

    log_file = InFolder("log.txt")
    """The worker's stdout and stderr."""

    @property
    @abstractmethod
    def folder(self) -> Path: ...

    @abstractmethod
    def result(self) -> JobResult | None: ...

    @abstractmethod
    def worker(self) -> tuple[int, float] | None:
        """The worker's process id and start time; `None` before it has started."""

    @abstractmethod
    def waiting_status(self, began: bool) -> JobStatus | None:
        """The status of a job without result or process; `None` if no process will start."""

    def log_tail(self, characters: int = 20_000) -> str:
        with suppress(OSError), open_plain(self.log_file) as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - characters))
            return file.read(characters).decode("utf-8", errors="replace")
        return ""

    def left_overs(self) -> tuple[Path, ...]:
        """Folders that a killed worker leaves behind."""
        return ()

    def clear(self) -> None:
        """Removes incomplete folders."""
        for path in self.left_overs():
            shutil.rmtree(path, ignore_errors=True)

    @property
    def elsewhere(self) -> Holder | None:
        """Who works in the folder on another machine that shares it."""
        return watch().lives_elsewhere(self.folder)

    @property
    def is_at_work(self) -> bool:
        """Whether its worker lives, here or on another machine."""
        if self.elsewhere is not None:
            return True
        worker = self.worker()
        return worker is not None and is_alive(*worker)

    def status(self) -> JobStatus:
        """Derived from the files and the process table, never stored."""
        result = self.result()
        if result is not None:
            return result.status
        if self.is_at_work:
            return "running"
        waiting = self.waiting_status(began=self.worker() is not None)
        if waiting is not None:
            return waiting
        late = self.result()  # written between the two reads
        return "interrupted" if late is None else late.status


class StartedJob(Job):
    """A job that the caller starts immediately, without the dispatcher."""

    request_file: ClassVar[InFolder]
    """The request, written before the process is started."""

    @abstractmethod
    def write_worker(self, pid: int, started: float) -> None:
        """Writes the record that `worker` reads."""

    @abstractmethod
    def end(self, status: FinalStatus, reason: str = "") -> None:
        """Writes a result without numbers."""

    @property
    @abstractmethod
    def owner(self) -> str:
        """The login of the person who asked for it; "" for the operator, and if it is not known."""

    @property
    def lock(self) -> FileLock:
        """Held while the job is requested, started or cancelled: each of them checks the status."""
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
        """Why the job did not finish; "" if it did, or is still open."""
        result = self.result()
        if result is not None:
            return result.reason
        if self.status() == "interrupted":
            return f"The worker ended without a result; {self.log_file.name} has its last lines."
        return ""

    def begin(self) -> bool:
        """Makes this process the worker; `False` if the job ended, has one or was not requested."""
        with holding(self.lock):
            if self.result() or self.worker() or not self.request_file.exists():
                return False
            self.write_worker(os.getpid(), start_time(os.getpid()) or 0.0)
            return True

    def cancel(self) -> None:
        """Stops the worker within seconds; does nothing if the job has ended.

        Raises `FtlabError` if the job is somebody else's, or the folder cannot be written.
        """
        asking().check_change(self.owner, f"The job {self.folder.name}")
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
        """Ends the job with that reason, unless it has ended, and removes incomplete folders."""
        self.clear()
        if self.result() is None:
            self.end(status, reason)

    def stop(self) -> None:
        """Kills the worker, if there is one, and its child processes."""
        worker = self.worker()
        if worker is not None and is_alive(*worker):
            end_process_group(worker[0], None)


class StoppableJob(StartedJob):
    """A job that ends by itself, with what it has, once `cancel_file` exists."""

    cancel_file = InFolder("cancel")
    seconds_to_stop: ClassVar[float]
    """Timeout for its process to end; then it is killed."""

    def stop(self) -> None:
        self.cancel_file.touch()
        worker = self.worker()
        deadline = time.monotonic() + self.seconds_to_stop
        while worker is not None and is_alive(*worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        super().stop()


_JOB_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}")

Request = TypeVar("Request")


def new_job_id() -> str:
    """An id that sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def is_job_id(text: str) -> bool:
    return bool(_JOB_ID.fullmatch(text))


class _HasOwner(Protocol):
    @property
    def owner(self) -> str: ...


def owner_of(read: Callable[[], _HasOwner]) -> str:
    """The owner in the request that `read` gives; "" if it cannot be read."""
    try:
        return read().owner
    except FtlabError:
        return ""


_Job = TypeVar("_Job", bound=StartedJob)


def seen_jobs(jobs: Iterable[_Job]) -> list[_Job]:
    """Those that the person who asks sees."""
    person = asking()
    return [job for job in jobs if person.sees_all or person.sees(job.owner)]


def job_folders(folder: Path, request_file: str) -> list[Path]:
    """The folders of jobs by `new_job_id` whose request is there, newest first."""
    try:
        names = sorted(filter(is_job_id, os.listdir(folder)), reverse=True)
    except OSError:  # there never was one
        return []
    return [folder / name for name in names if (folder / name / request_file).exists()]


def read_request(adapter: TypeAdapter[Request], file: Path, kind: str) -> Request:
    """Reads a job's request; raises `FtlabError` if it is missing or cannot be read."""
    try:
        return parse_json(adapter, read_plain(file, MAX_RECORD_BYTES), file.name)
    except OSError as error:
        raise FtlabError(
            f"'{file.parent}' is no {kind}: its {file.name} cannot be read ({error.strerror})."
        ) from None


def worker_of(line: Any) -> tuple[int, float] | None:
    """Process id and start time from a worker's first line; `None` for an invalid line.

    Also `None` for a worker that started before the last reboot: another process may have the same
    id and, because start times count from the boot, even the same start time.
    """
    try:
        if line.get("boot") not in (None, boot_id()):
            return None
        return int(line["pid"]), float(line["process_started"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def age_seconds(file: Path) -> float | None:
    """Seconds since the file was written, never negative (clock set back); `None` if no file."""
    try:
        return abs(time.time() - file.stat().st_mtime)
    except OSError:
        return None


def bound_log(log: Path, largest: int = LARGEST_LOG, kept: int = KEPT_OF_LOG) -> None:
    """Truncates a log that is too large while its worker keeps writing (in append mode).

    Output written during the truncation may be lost. Never raises `OSError`.
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
