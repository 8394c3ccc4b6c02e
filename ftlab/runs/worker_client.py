"""Starts a worker process and asks it. Imports no torch.

A worker that stays reads its requests from stdin and writes its answers to stdout, a `Line` of JSON
each. Every request has a number, and the worker puts that number on each line of the answer, so
several can be answered at once, and what is left of an answer that nobody reads any more cannot get
into the next one. A worker that ends with its only answer is asked by `answer_once`.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock, Thread, Timer
from typing import Any

from ftlab.environment import python_environment
from ftlab.runs.process import end_process_group
from ftlab.runs.watchdog import STUCK_ENDS

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
