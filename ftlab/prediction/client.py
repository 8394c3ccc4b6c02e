"""Asks for predictions, in a process that stays a while for the next ones.

torch and PEFT are imported there, which takes seconds; the web process never does. Answers are
remembered by question.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from threading import Lock, Timer
from types import TracebackType

from ftlab.errors import FtlabError
from ftlab.prediction.question import Prediction, Question, dump_question, load_prediction
from ftlab.runs.spawn import python_environment

MODULE = "ftlab.prediction.worker"
SECONDS = 180
"""How long one answer is waited for; the first one also for the imports."""

IDLE_SECONDS = 120
"""How long the process stays without a question: it holds half a gigabyte."""

MOST_REMEMBERED = 2_000


class Predictor:
    """Predictions by question; each is asked once. Shared by all visitors, who take turns."""

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._known: dict[bytes, Prediction] = {}
        self._turn = Lock()
        self._process: subprocess.Popen[bytes] | None = None
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
        return self._known.get(dump_question(question))

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        """(place, answer) of each question as it is known, those remembered first.

        Raises `FtlabError` if the process cannot be started, or ends without an answer.
        """
        remembered = [self.known(question) for question in questions]
        for place, answer in enumerate(remembered):
            if answer is not None:
                yield place, answer
        for place, question in enumerate(questions):
            if remembered[place] is None:
                yield place, self._answer(question)

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        with self._turn:
            self._end()

    def _answer(self, question: Question) -> Prediction:
        line = dump_question(question)
        with self._turn:  # somebody else may have asked it meanwhile
            answer = self._known.get(line)
            if answer is None:
                answer = self._ask_process(line)
                while len(self._known) >= MOST_REMEMBERED:
                    self._known.pop(next(iter(self._known)))
                self._known[line] = answer
        return answer

    def _ask_process(self, line: bytes) -> Prediction:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        clock = Timer(SECONDS, process.kill)
        clock.daemon = True
        clock.start()
        try:
            process.stdin.write(line + b"\n")
            process.stdin.flush()
            said = process.stdout.readline()
        except OSError:
            said = b""
        finally:
            clock.cancel()
        if not said:
            self._end()
            raise FtlabError(
                f"The prediction ended without an answer, or took more than {SECONDS} s; choose a "
                "smaller model, or look at the machine's memory."
            )
        self._end_later()
        return load_prediction(said)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._ends is not None:
            self._ends.cancel()
        if self._process is None or self._process.poll() is not None:
            self._end()
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", MODULE],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=python_environment(),
                )
            except OSError as error:
                raise FtlabError(f"The prediction cannot be started ({error}).") from None
        return self._process

    def _end_later(self) -> None:
        self._ends = Timer(self._idle_seconds, self.close)
        self._ends.daemon = True
        self._ends.start()

    def _end(self) -> None:
        if self._ends is not None:
            self._ends.cancel()
        process, self._process, self._ends = self._process, None, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # a question in it will be read by nobody
                    pipe.close()
