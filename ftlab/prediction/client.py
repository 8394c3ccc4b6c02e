"""Asks for predictions, in a process that stays a while for the next ones.

torch and PEFT are imported there, which takes seconds; the web process never does. Answers are
remembered by question.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import queue
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from threading import Lock, Thread, Timer
from types import TracebackType

from ftlab.errors import FtlabError
from ftlab.operations.log import note_refusal
from ftlab.prediction.limits import Ending, Limits, LimitsOf, sentence, usual
from ftlab.prediction.protocol import limited, numbered, parse_answer, parse_numbered
from ftlab.prediction.question import Prediction, Question, dump_question
from ftlab.recent import Recent
from ftlab.runs.spawn import python_environment
from ftlab.turns import NOBODY, Places, Turns, Visitor

MODULE = "ftlab.prediction.worker"
SECONDS = 180
"""How long one answer is waited for; the first one also for the imports. Computing time has a limit
of its own (`Limits`): the process waits for runs on the same cores."""

IDLE_SECONDS = 120
"""How long the process stays without a question: it holds half a gigabyte."""

MOST_REMEMBERED = 2_000

SECONDS_BETWEEN_LOOKS = 0.1
"""How often is looked whether whoever asks is still there."""

_GRACE_SECONDS = 5.0

PLACES = Places(all=3, of_a_name=2)


class NobodyWaits(FtlabError):
    """Whoever asked has gone."""


def _stays() -> bool:
    return False


class Predictor:
    """Predictions by question; each is asked once. Shared by all visitors, who take turns."""

    def __init__(
        self,
        idle_seconds: float = IDLE_SECONDS,
        limits_of: LimitsOf = usual,
        turns: Turns | None = None,
    ) -> None:
        self._idle_seconds = idle_seconds
        self._limits_of = limits_of
        self._turns = turns or Turns(PLACES)
        self._known: Recent[bytes, Prediction] = Recent(MOST_REMEMBERED)
        self._guard = Lock()
        self._numbers = itertools.count(1)
        self._asking = 0
        self._worker: _Worker | None = None
        self._ends: Timer | None = None

    def __enter__(self) -> Predictor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def known(self, question: Question) -> Prediction | None:
        """The answer where it was given before."""
        return self._known.get(_key(dump_question(question)))

    def ask(
        self,
        questions: Sequence[Question],
        visitor: Visitor = NOBODY,
        has_left: Callable[[], bool] = _stays,
    ) -> Iterator[tuple[int, Prediction]]:
        """(place, answer) of each question as it is known, those remembered first.

        Raises `NobodyWaits` once the visitor has left, and `FtlabError` if the process cannot be
        started, a question took more than its limits, or too many are waiting.
        """
        remembered = [self.known(question) for question in questions]
        for place, answer in enumerate(remembered):
            if answer is not None:
                yield place, answer
        for place, question in enumerate(questions):
            if remembered[place] is None:
                yield place, self._answer(question, visitor, has_left)

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        with self._guard:
            self._end()

    @property
    def process_id(self) -> int | None:
        """Of the process that predicts; `None` while there is none."""
        worker = self._worker
        return worker.process.pid if worker is not None and worker.is_alive else None

    def _answer(
        self, question: Question, visitor: Visitor, has_left: Callable[[], bool]
    ) -> Prediction:
        line = dump_question(question)
        key = _key(line)
        with self._turns.line(visitor) as place:
            while not place.has_come(SECONDS_BETWEEN_LOOKS):
                if has_left():
                    raise NobodyWaits("Nobody waits for the prediction any more.")
            answer = self._known.get(key)  # somebody else may have asked it meanwhile
            if answer is None:
                answer = self._ask_worker(line, self._limits_of(question.config), has_left)
                with self._guard:
                    self._known[key] = answer
        return answer

    def _ask_worker(self, line: bytes, limits: Limits, has_left: Callable[[], bool]) -> Prediction:
        with self._guard:
            worker = self._running()
            self._asking += 1
        try:
            said = worker.ask(next(self._numbers), limited(line, limits), has_left)
        except _Silent:
            with self._guard:
                if self._worker is worker:
                    self._end()
            note_refusal("prediction ended", why="no answer", seconds=SECONDS)
            raise FtlabError(
                f"The prediction ended without an answer, or took more than {SECONDS} s; choose a "
                "smaller model, or look at the machine's memory."
            ) from None
        finally:
            with self._guard:
                self._asking -= 1
                self._end_later()
        if isinstance(said, Prediction):
            return said
        if said == "left":
            raise NobodyWaits(sentence(said, limits))
        note_refusal("prediction ended", why=said)
        raise FtlabError(sentence(said, limits))

    def _running(self) -> _Worker:
        if self._ends is not None:
            self._ends.cancel()
        if self._worker is None or not self._worker.is_alive:
            self._end()
            try:
                self._worker = _Worker()
            except OSError as error:
                raise FtlabError(f"The prediction cannot be started ({error}).") from None
        return self._worker

    def _end_later(self) -> None:
        if self._ends is not None:
            self._ends.cancel()
        if self._asking == 0 and self._worker is not None:
            self._ends = Timer(self._idle_seconds, self._close_idle)
            self._ends.daemon = True
            self._ends.start()

    def _close_idle(self) -> None:
        with self._guard:
            if self._asking == 0:
                self._end()

    def _end(self) -> None:
        if self._ends is not None:
            self._ends.cancel()
        worker, self._worker, self._ends = self._worker, None, None
        if worker is not None:
            worker.end()


class _Silent(Exception):
    """The worker has ended, or says nothing."""


class _Worker:
    """The process that predicts, and who waits for what it says."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=python_environment(),
            start_new_session=True,  # its children end with it
        )
        self._guard, self._writes = Lock(), Lock()
        self._has_ended = False
        self._waiting: dict[int, queue.SimpleQueue[bytes | None]] = {}
        Thread(target=self._read, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def ask(
        self, number: int, question: bytes, has_left: Callable[[], bool]
    ) -> Prediction | Ending:
        """The answer to one line; raises `_Silent` where none comes."""
        heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        with self._guard:
            if self._has_ended:
                raise _Silent
            self._waiting[number] = heard
        try:
            self._tell(numbered(number, question))
            until = time.monotonic() + SECONDS
            is_told = False
            while True:
                try:
                    said = heard.get(timeout=SECONDS_BETWEEN_LOOKS)
                except queue.Empty:
                    if time.monotonic() > until:
                        raise _Silent from None
                    if not is_told and has_left():
                        is_told = True
                        until = time.monotonic() + _GRACE_SECONDS
                        self._tell(numbered(number))
                    continue
                if said is None:
                    raise _Silent
                return parse_answer(said)
        finally:
            with self._guard:
                self._waiting.pop(number, None)

    def end(self) -> None:
        """Ends the process and all that it has forked."""
        with suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        with suppress(OSError):  # a question in it will be read by nobody
            self.process.stdin.close()  # type: ignore[union-attr]

    def _tell(self, line: bytes) -> None:
        """A worker that is gone is noticed where its answer is read, so nothing is raised here."""
        assert self.process.stdin is not None
        clock = Timer(SECONDS, self.process.kill)  # else one that reads nothing holds this up
        clock.daemon = True
        clock.start()
        try:
            with self._writes, suppress(OSError, ValueError):
                self.process.stdin.write(line)
                self.process.stdin.flush()
        finally:
            clock.cancel()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                with suppress(ValueError):  # no line of ours
                    number, content = parse_numbered(line)
                    with self._guard:
                        if number in self._waiting:
                            self._waiting[number].put(content)
        with self._guard:
            self._has_ended = True
            for heard in self._waiting.values():
                heard.put(None)


def _key(line: bytes) -> bytes:
    """Of a question by which its answer is kept: a config alone may have 200,000 characters."""
    return hashlib.sha256(line).digest()
