"""Starts worker processes of this package, sends them requests, and ends stuck ones. No torch.

Most workers only read local files. A worker that needs the Hugging Face Hub, for a gated model for
example, gets the Hub's token. No worker gets any other secret.

A persistent worker reads requests from stdin and writes answers to stdout, one JSON `Line` each.
Every request has a number, and the worker repeats it in each line of the answer. So several
requests can run at once, and the rest of an abandoned answer cannot get into the next one. A
worker that exits after one answer is called with `answer_once`.
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
from typing import Any, Protocol

import psutil

from ftlab.basics.log import is_secret_name
from ftlab.basics.system import read_proc

_OF_THE_HUB = ("HF_", "HUGGING_FACE_", "HUGGINGFACE", "TRACKIO_")
"""Prefixes of the environment variables that huggingface_hub and trackio read."""

WITHOUT_HUB_CODE = {
    "USE_HUB_KERNELS": "NO",  # from 5.25 on transformers takes code for layers from the Hub
    # When bitsandbytes is imported, it asks the package `kernels` for compiled code, on a CPU with
    # AVX512-BF16 and on an Apple GPU. It looks here first, finds none and uses its own.
    "LOCAL_KERNELS": ":".join(
        f"kernels-community/{name}={os.devnull}"
        for name in ("quantization-bitsandbytes", "bitsandbytes-mps")
    ),
}
"""Variables under which no library runs code from the Hub. Otherwise a run would depend on whether
the Hub can be reached, and on what was downloaded before."""

WITHOUT_HUB = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_TOKEN_PATH": os.devnull,  # else the library reads the token of `hf auth login`
}


DEVICES_VARIABLE = "FTLAB_DEVICES"
"""The devices of the machines that execute the runs, as JSON, where those are other machines'. For
processes that queue and start runs; a worker looks at its own machine's."""


def python_environment(needs_hub: bool = False) -> dict[str, str]:
    """This process's environment without secrets, in which `python -m ftlab…` finds this package;
    with `needs_hub`, variables of the Hub are kept."""
    root = Path(__file__).resolve().parents[2]
    paths = dict.fromkeys(  # each process that starts another adds the first
        [str(root), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    )
    kept = {
        name: value
        for name, value in os.environ.items()
        if name != DEVICES_VARIABLE
        and (not is_secret_name(name) or (needs_hub and name.startswith(_OF_THE_HUB)))
    }
    return (
        kept
        | WITHOUT_HUB_CODE
        | ({} if needs_hub else WITHOUT_HUB)
        | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    )


ALLOCATOR_SETTINGS = {
    # By default glibc returns freed memory early and requests it again in the next step, with a
    # page fault for every 4 kB. Keeping up to 256 MB made full fine-tuning 7 % faster without a
    # higher peak, because the kept memory is reused.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""glibc reads these when a process starts, so they must be set before a worker is started."""


def worker_environment(needs_hub: bool) -> dict[str, str]:
    """The environment of a worker that trains or merges; the user's allocator settings win."""
    return ALLOCATOR_SETTINGS | python_environment(needs_hub)


def start_detached(
    module: str, log: Path, environment: Mapping[str, str], *arguments: str
) -> subprocess.Popen[bytes]:
    """Starts `python -m module arguments` in the log's folder, as a process that outlives its
    parent and writes to the log. Raises `OSError`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            module_command(module, *arguments),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=log.parent,
            env=environment,
            start_new_session=True,
        )


GRACE_SECONDS = 4.0  # between SIGTERM and SIGKILL
_TOLERANCE = 0.011  # seconds; the kernel counts in ticks of 0.01 s


def start_time(pid: int) -> float | None:
    """When the process started; `None` if it does not exist or is a zombie.

    On Linux in seconds since boot, which clock changes do not affect; elsewhere since the epoch.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        since_boot = _seconds_since_boot(pid)
        return process.create_time() if since_boot is None else since_boot
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    except (ValueError, OverflowError):  # an invalid pid from a damaged record
        return None


def is_alive(pid: int, started: float) -> bool:
    """Whether the process that started then still runs; False for a later one with the same pid."""
    now = start_time(pid)
    return now is not None and abs(now - started) <= _TOLERANCE


@lru_cache(maxsize=1)
def boot_id() -> str:
    """The kernel's id of the current boot; "" where the system does not provide one."""
    return (read_proc("sys/kernel/random/boot_id") or "").strip()


def resident_bytes(pid: int) -> int | None:
    """The process's resident size; 0 if it is gone, `None` if it cannot be read."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0
    except psutil.AccessDenied:
        return None


class Started(Protocol):
    """A process that was started: `subprocess.Popen`, or one that another process forked."""

    pid: int

    def poll(self) -> int | None:
        """The exit status, negative for a signal; `None` while it runs."""


def end_process_group(pid: int, process: Started | None) -> None:
    """Ends a worker and its children: SIGTERM, then SIGKILL after `GRACE_SECONDS`."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(pid, signal_number)
        except (ProcessLookupError, PermissionError):
            try:
                os.kill(pid, signal_number)  # a worker started by hand is not a group leader
            except ProcessLookupError:
                return
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline:
            # After the main thread has ended, other threads may still hold memory and locks. A
            # child process is gone only when `poll` returns its exit status.
            if start_time(pid) is None if process is None else process.poll() is not None:
                return
            time.sleep(0.05)


def _seconds_since_boot(pid: int) -> float | None:
    stat = read_proc(f"{pid}/stat")
    if stat is None:
        return None
    fields = stat.rpartition(")")[2].split()  # the process name before it may contain spaces
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")  # field 22, proc_pid_stat(5)


STUCK_STATUS = 75
"""The exit status of a process that its `Watchdog` ended."""

STUCK_ENDS = (STUCK_STATUS, -signal.SIGALRM)
"""Return codes of such a process in `subprocess`: ended by the watchdog's thread, or by SIGALRM."""

_LOG = 2
_GRACE_SECONDS = 10.0
_SECONDS_BETWEEN_LOOKS = 1.0


class Signs:
    """Receives signs of progress; this base class does nothing."""

    def expect(self, seconds: float) -> None:
        """Starts the timeout: from now on, each sign must come within that many seconds."""

    def sign(self) -> None:
        """Reports progress: restarts the timeout, if one is active."""

    def hurry(self, seconds: float) -> None:
        """The work was cancelled: shortens the timeout for the next sign, if one is active."""

    def rest(self) -> None:
        """Stops the timeout: the process is idle, or waits for others."""


class Watchdog(Signs):
    """Ends the process if it shows no progress within a timeout.

    On timeout a thread writes the tracebacks to the log, calls `at_end` with a sentence, and exits
    the process with `STUCK_STATUS`. If the thread cannot run, because C code holds the interpreter
    lock (GIL), the kernel ends the process with SIGALRM ten seconds later. Both clocks stop while
    the machine is suspended.
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
        waited = f"{self._seconds:.0f} seconds"
        if self._seconds >= 120:
            waited = f"{self._seconds / 60:.0f} minutes"
        sentence = f"It showed no progress for {waited} and was ended."
        print(f"ftlab: {sentence}", file=sys.stderr, flush=True)
        try:
            faulthandler.dump_traceback(file=_LOG, all_threads=True)
            self._at_end(sentence)
        finally:
            os._exit(STUCK_STATUS)


_SECONDS_TO_EXIT = 5.0
"""How long a worker may take to exit after it has closed its stdout."""

_SECONDS_TO_READ = 180.0
"""How long a write to a worker's stdin may block (on a line larger than the pipe's buffer)."""

_LONGEST_REASON = 400  # characters


@dataclass(frozen=True)
class Line:
    """One message between client and worker.

    To the worker, `content` is the request, or `None` to cancel it. From the worker, it is a part
    of the answer, or `None` at its end. `content` is a JSON value, or a dataclass of JSON values,
    which is parsed as a dictionary.
    """

    number: int
    content: Any = None

    def dump(self) -> bytes:
        """One line of ASCII, with a newline."""
        data = {"number": self.number, "content": self.content}
        return json.dumps(data, default=asdict).encode() + b"\n"


def parse_line(data: str | bytes) -> Line:
    """Parses a line; raises `ValueError` if it is not a valid message."""
    fields = json.loads(data)
    if not isinstance(fields, dict) or not isinstance(fields.get("number"), int):
        raise ValueError(f"not a line of a worker: {data[:80]!r}")
    return Line(fields["number"], fields.get("content"))


class WorkerEnded(Exception):
    """A worker exited before its answer was complete; the message is the reason, as a clause.

    `is_unexpected` is false if `WorkerClient.close` ended it. `last` is the last line of its
    stderr, "" if stderr goes to a log.
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
    """Runs the command with `asked` as its stdin, and returns its stdout.

    Raises `OSError` if it cannot be started, `TimeoutError` (a subclass of `OSError`) after
    `seconds`, and `WorkerEnded` for a non-zero exit status. The process never outlives this call.
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
    """Sends requests to one persistent worker process; thread-safe.

    A request starts the process if it does not run. Its stderr goes to `log`, or is discarded.
    """

    def __init__(
        self, command: Sequence[str], log: Path | None = None, needs_hub: bool = False
    ) -> None:
        self._command, self._log, self._needs_hub = command, log, needs_hub
        self._guard = Lock()
        self._worker: _Worker | None = None

    @property
    def process_id(self) -> int | None:
        """The worker's pid; `None` while it does not run."""
        worker = self._worker
        return worker.process.pid if worker is not None and worker.is_alive else None

    def start(self) -> _Worker:
        """The worker, started if it does not run. Raises `OSError` if it cannot be started."""
        with self._guard:
            if self._worker is None or not self._worker.is_alive:
                self._worker = _Worker(self._command, self._log, self._needs_hub)
            return self._worker

    def close(self) -> None:
        """Ends the process and its children; the next request starts a new one."""
        with self._guard:
            worker, self._worker = self._worker, None
        if worker is not None:
            worker.was_closed = True
            worker.end()

    def ask(self, content: Any, seconds: float) -> Generator[Any, None, None]:
        """Yields the parts of the answer, and `None` after each `seconds` without a part.

        Closing the generator early cancels the request. Raises `OSError` if the process cannot be
        started, and `WorkerEnded`. The request is sent a second time if the worker exited for
        reasons unrelated to it: the idle exit, or the watchdog's end of a cancelled request.
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
    """One worker process, and the queues of those who wait for its answers."""

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
        """As `WorkerClient.ask`, without a restart."""
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
        with suppress(OSError):  # an unread request in the buffer is dropped
            self.process.stdin.close()  # type: ignore[union-attr]

    def _tell(self, line: Line) -> None:
        """Writes the line. Raises nothing: an exited worker is detected when its answer is read."""
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
        """Reads stdout to its end in a thread, so that the worker never blocks on slow readers."""
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for data in said:
                with suppress(ValueError, RecursionError):  # skips other output
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
    """Ends the process, waits for its exit, and kills its children."""
    if process.poll() is None:
        end_process_group(process.pid, process)
    with suppress(OSError):  # no children left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
