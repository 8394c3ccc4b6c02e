"""Starting this package's own processes, asking them, and ending a stuck one. No torch.

Most workers read only what lies on this machine. One that asks the Hugging Face Hub, for a gated
model perhaps, gets the Hub's token; no worker gets any other secret.

A worker that stays reads its requests from stdin and writes its answers to stdout, a `Line` of JSON
each. Every request has a number, and the worker puts that number on each line of the answer, so
several can be answered at once, and what is left of an answer that nobody reads any more cannot get
into the next one. A worker that ends with its only answer is asked by `answer_once`.
"""

from __future__ import annotations

import faulthandler
import itertools
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock, Thread, Timer
from typing import Any

import psutil

from ftlab.basics.log import is_secret_name
from ftlab.basics.system import read_proc

_OF_THE_HUB = ("HF_", "HUGGING_FACE_", "HUGGINGFACE", "TRACKIO_")
"""Begin the names of variables that huggingface_hub and trackio read."""

WITHOUT_HUB = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_TOKEN_PATH": os.devnull,  # else the library reads the token of `hf auth login`
}


def python_environment(needs_hub: bool = False) -> dict[str, str]:
    """This process's environment, in which `python -m ftlab…` finds this very package.

    Variables that are named like a secret are left out; those of the Hub stay where `needs_hub`.
    """
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {
        name: value
        for name, value in os.environ.items()
        if not is_secret_name(name) or (needs_hub and name.startswith(_OF_THE_HUB))
    }
    return (
        kept
        | ({} if needs_hub else WITHOUT_HUB)
        | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    )


ALLOCATOR_SETTINGS = {
    # glibc gives freed memory back early and asks for it again in the next step, a page fault for
    # every 4 kB of it. A run that keeps up to 256 MB trained full fine-tuning 7 % faster, and its
    # peak is no higher: what is kept is used again.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""What glibc reads when a process starts, so whoever starts a worker must set it."""


def worker_environment(needs_hub: bool) -> dict[str, str]:
    """The environment of a worker that trains or merges; the person's own allocator settings come
    first."""
    return ALLOCATOR_SETTINGS | python_environment(needs_hub)


def start_detached(
    module: str, argument: Path, log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Starts `python -m module argument`, which outlives whoever started it.

    It runs in the log's folder and says everything there. Raises `OSError` if it cannot be started.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(argument)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=log.parent,
            env=environment,
            start_new_session=True,
        )


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


STUCK_STATUS = 75
"""The exit status of a process that was ended so."""

STUCK_ENDS = (STUCK_STATUS, -signal.SIGALRM)
"""How `subprocess` reports such an end: by the thread, or by the kernel where no thread could run.
"""

_LOG = 2
_GRACE_SECONDS = 10.0
_SECONDS_BETWEEN_LOOKS = 1.0


class Signs:
    """Takes signs of progress, and does nothing where none comes."""

    def expect(self, seconds: float) -> None:
        """The next sign is to come within so many seconds, and so are those after it."""

    def sign(self) -> None:
        """Something was done. Nothing happens while nothing is expected."""

    def hurry(self, seconds: float) -> None:
        """Nobody wants the work any more: a sign is to come soon, if one is expected."""

    def rest(self) -> None:
        """Nothing is expected: the process is idle, or waits for others."""


class Watchdog(Signs):
    """Expects signs of progress, each within some seconds of the one before.

    Where none comes a thread writes the tracebacks to the log, calls `at_end` with a sentence, and
    ends the process with `STUCK_STATUS`. Where the thread does not get to run, because the work is
    inside C code that holds the interpreter's lock, the kernel ends the process by SIGALRM ten
    seconds later. Both clocks stand still while the machine is asleep.
    """

    def __init__(self, at_end: Callable[[str], None] = lambda sentence: None) -> None:
        self._at_end = at_end
        self._seconds = 0.0
        self._deadline = math.inf
        self._wake = threading.Event()
        self._changing = threading.RLock()
        faulthandler.register(signal.SIGALRM, file=_LOG, all_threads=True, chain=True)
        threading.Thread(target=self._watch, daemon=True).start()

    def expect(self, seconds: float) -> None:
        with self._changing:
            self._seconds = seconds
            self._deadline = time.monotonic() + seconds
            signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_SECONDS)
            self._wake.set()

    def sign(self) -> None:
        self.hurry(self._seconds)

    def hurry(self, seconds: float) -> None:
        with self._changing:
            if self._deadline < math.inf:
                self.expect(min(seconds, self._seconds))

    def rest(self) -> None:
        with self._changing:
            self._deadline = math.inf
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self) -> None:
        while True:
            left = self._deadline - time.monotonic()
            if left <= 0:
                self._end()
            elif left < math.inf:
                time.sleep(min(left, _SECONDS_BETWEEN_LOOKS))
            else:
                self._wake.clear()
                if self._deadline == math.inf:
                    self._wake.wait()

    def _end(self) -> None:
        sentence = f"It showed no progress for {_length(self._seconds)} and was ended."
        print(f"ftlab: {sentence}", file=sys.stderr, flush=True)
        try:
            faulthandler.dump_traceback(file=_LOG, all_threads=True)
            self._at_end(sentence)
        finally:
            os._exit(STUCK_STATUS)


def _length(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"


_SECONDS_TO_EXIT = 5.0
"""How long a worker may take from closing its stdout to its end."""

_SECONDS_TO_READ = 180.0
"""How long a worker may leave a line in its stdin unread that is larger than the pipe."""

_LONGEST_REASON = 400  # characters


@dataclass(frozen=True)
class Line:
    """What worker and client say to each other.

    To the worker `content` is the request, or `None` once its answer is not wanted any more. From
    the worker it is a part of the answer, or `None` where nothing more comes. Values of JSON, or a
    dataclass of such values, which is read as a dictionary.
    """

    number: int
    content: Any = None

    def dump(self) -> bytes:
        """One line of ASCII, with its line end."""
        data = {"number": self.number, "content": self.content}
        return json.dumps(data, default=asdict).encode() + b"\n"


def parse_line(data: str | bytes) -> Line:
    """Raises `ValueError` for what is no such line."""
    fields = json.loads(data)
    if not isinstance(fields, dict) or not isinstance(fields.get("number"), int):
        raise ValueError(f"not a line of a worker: {data[:80]!r}")
    return Line(fields["number"], fields.get("content"))


class WorkerEnded(Exception):
    """A worker ended before its answer did; the message says how, as a clause.

    `is_unexpected` is false where `WorkerClient.close` ended it. `last` is the last line of its
    stderr, "" where that is in a log.
    """

    def __init__(self, code: int, is_unexpected: bool = True, last: str = "") -> None:
        if code in STUCK_ENDS:
            how = "it showed no progress for minutes"
        elif code == -signal.SIGKILL:
            how = "killed, perhaps because memory ran out"
        else:
            how = f"killed by signal {-code}" if code < 0 else last or f"exit status {code}"
        super().__init__(how)
        self.code = code
        self.is_unexpected = is_unexpected
        self.last = last


def module_command(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module of this package."""
    return [sys.executable, "-m", module, *arguments]


def answer_once(
    command: Sequence[str], asked: str = "", *, seconds: float, needs_hub: bool = False
) -> str:
    """What the process writes to stdout, given that text at stdin.

    Raises `OSError` if it cannot be started, `TimeoutError` (one of those) after so many seconds,
    and `WorkerEnded` if it ends with another status than 0. It never outlives this call.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=python_environment(needs_hub) | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        start_new_session=True,  # its children end with it
    ) as process:
        try:
            said, errors = process.communicate(asked, seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"no answer in {seconds:g} s") from None
        finally:
            _end(process)
    if process.returncode != 0:
        last = (errors.strip().splitlines() or ["no reason was given."])[-1][:_LONGEST_REASON]
        raise WorkerEnded(process.returncode, last=last)
    return said


class WorkerClient:
    """Asks one worker process, which stays for the next request; safe to use from several threads.

    It is started when it is first asked, and anew where it has ended: by itself after it had been
    idle, or by an error. Its stderr goes to `log`, or nowhere.
    """

    def __init__(
        self, command: Sequence[str], log: Path | None = None, needs_hub: bool = False
    ) -> None:
        self._command, self._log, self._needs_hub = command, log, needs_hub
        self._guard = Lock()
        self._worker: _Worker | None = None

    @property
    def process_id(self) -> int | None:
        """`None` while there is no process."""
        worker = self._worker
        return worker.process.pid if worker is not None and worker.is_alive else None

    def start(self) -> _Worker:
        """The process, started unless it is there. Raises `OSError` where that cannot be done."""
        with self._guard:
            if self._worker is None or not self._worker.is_alive:
                self._worker = _Worker(self._command, self._log, self._needs_hub)
            return self._worker

    def close(self) -> None:
        """Ends the process with its children; the next request starts another."""
        with self._guard:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.was_closed = True
            worker.end()

    def ask(self, content: Any, seconds: float) -> Generator[Any, None, None]:
        """The parts of the answer as they come, and `None` after so many seconds without one.

        A generator that is closed early tells the worker that nobody waits any more. Raises
        `OSError` if the process cannot be started, and `WorkerEnded`. A worker that had been idle
        and left just as it was asked, or was stuck in an answer that had been left, is no error of
        this request: it is sent once more.
        """
        is_heard = False
        try:
            with closing(self.start().ask(content, seconds)) as answer:
                for said in answer:
                    is_heard = is_heard or said is not None
                    yield said
        except WorkerEnded as end:
            if is_heard or end.code not in (0, *STUCK_ENDS):
                raise
            with closing(self.start().ask(content, seconds)) as answer:
                yield from answer


class _Worker:
    """One process, and who waits for what it says."""

    def __init__(self, command: Sequence[str], log: Path | None, needs_hub: bool) -> None:
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
        with open(log or os.devnull, "ab") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=python_environment(needs_hub),
                # Ctrl-C in a terminal is for the app; the worker ends when its stdin closes.
                start_new_session=True,
            )
        self.was_closed = False
        self._guard, self._writes = Lock(), Lock()
        self._has_ended = False
        self._numbers = itertools.count(1)
        self._waiting: dict[int, queue.SimpleQueue[Line | None]] = {}
        Thread(target=self._read, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def ask(self, content: Any, seconds: float) -> Generator[Any, None, None]:
        """As `WorkerClient.ask`, of this process alone."""
        lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        with self._guard:
            number = next(self._numbers)
            self._waiting[number] = lines
            if self._has_ended:
                lines.put(None)
        is_over = False
        try:
            self._tell(Line(number, content))
            while not is_over:
                try:
                    line = lines.get(timeout=seconds)
                except queue.Empty:
                    yield None
                    continue
                is_over = line is None or line.content is None
                if line is None:
                    raise WorkerEnded(self.process.wait(), not self.was_closed)
                if not is_over:
                    yield line.content
        finally:
            if not is_over:
                self._tell(Line(number))
            with self._guard:
                del self._waiting[number]

    def end(self) -> None:
        _end(self.process)
        with suppress(OSError):  # a request in it will be read by nobody
            self.process.stdin.close()  # type: ignore[union-attr]

    def _tell(self, line: Line) -> None:
        """A worker that is gone is noticed where its answer is read, so nothing is raised here."""
        assert self.process.stdin is not None
        clock = Timer(_SECONDS_TO_READ, self.process.kill)
        clock.daemon = True
        clock.start()
        try:
            with self._writes, suppress(OSError, ValueError):
                self.process.stdin.write(line.dump())
                self.process.stdin.flush()
        finally:
            clock.cancel()

    def _read(self) -> None:
        """Reads to the end whatever the readers do, so that the worker never waits for them."""
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for data in said:
                with suppress(ValueError, RecursionError):  # else no line of ours
                    line = parse_line(data)
                    with self._guard:
                        if line.number in self._waiting:
                            self._waiting[line.number].put(line)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_SECONDS_TO_EXIT)
        self.end()
        with self._guard:
            self._has_ended = True
            for lines in self._waiting.values():
                lines.put(None)


def _end(process: subprocess.Popen[Any]) -> None:
    """Returns when the process is gone; its children are killed."""
    if process.poll() is None:
        end_process_group(process.pid, process)
    with suppress(OSError):  # none is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
