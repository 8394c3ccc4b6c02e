"""Requests predictions from a worker process, which stays alive for a while for later ones.

The worker imports torch and PEFT, which takes seconds; the web process never does. Answers are
remembered by question, and kept for other processes (`ftlab.prediction.kept_predictions`).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from threading import Lock
from typing import Any, cast, get_args

from ftlab.basics.errors import FtlabError
from ftlab.basics.log import note_refusal
from ftlab.basics.processes import WorkerClient, WorkerEnded, module_command
from ftlab.basics.recent import Recent
from ftlab.basics.visitor_turns import NOBODY, Places, Visitor, VisitorQueue
from ftlab.prediction.kept_predictions import keep_prediction, kept_prediction
from ftlab.prediction.question import (
    Ending,
    Limits,
    LimitsOf,
    Prediction,
    Question,
    dump_question,
    load_prediction,
    sentence,
    usual,
)

MODULE = "ftlab.prediction.worker"
SECONDS = 300
"""Timeout of one answer; the first one includes the imports. CPU time has a separate limit
(`Limits`): the worker rests beside timed steps, and has little of the cores beside other work."""

IDLE_SECONDS = 120
"""How long the idle worker stays alive: it uses half a gigabyte."""

MOST_REMEMBERED = 2_000

SECONDS_BETWEEN_LOOKS = 0.1
"""Interval of the check whether the caller is still there."""

LEFT = "Nobody waits for the prediction any more."

PLACES = Places(all=3, of_a_name=2)


class NobodyWaits(FtlabError):
    """The caller has left."""


def _stays() -> bool:
    return False


class Predictor:
    """Answers questions and caches the answers; shared by all visitors, who are queued."""

    def __init__(
        self,
        idle_seconds: float = IDLE_SECONDS,
        limits_of: LimitsOf = usual,
        turns: VisitorQueue | None = None,
    ) -> None:
        self._limits_of = limits_of
        self._turns = turns or VisitorQueue(PLACES)
        self._known: Recent[bytes, Prediction] = Recent(MOST_REMEMBERED)
        self._guard = Lock()
        self._worker = WorkerClient(module_command(MODULE, str(idle_seconds)))

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def known(self, question: Question) -> Prediction | None:
        """Returns the remembered or kept answer, or `None`."""
        key = _key(dump_question(question))
        found = self._known.get(key)
        if found is None and (found := kept_prediction(question)) is not None:
            with self._guard:
                self._known[key] = found
        return found

    def ask(
        self,
        questions: Sequence[Question],
        visitor: Visitor = NOBODY,
        has_left: Callable[[], bool] = _stays,
    ) -> Iterator[tuple[int, Prediction]]:
        """Yields (index, answer) of each question when it is known, cached answers first.

        Raises `NobodyWaits` when the visitor has left, and `FtlabError` if the worker cannot be
        started, a question exceeded its limits, or too many are queued.
        """
        remembered = [self.known(question) for question in questions]
        for place, answer in enumerate(remembered):
            if answer is not None:
                yield place, answer
        for place, question in enumerate(questions):
            if remembered[place] is None:
                yield place, self._answer(question, visitor, has_left)

    def close(self) -> None:
        """Ends the worker; the next question starts another."""
        self._worker.close()

    @property
    def process_id(self) -> int | None:
        """The process id of the worker; `None` while there is none."""
        return self._worker.process_id

    def _answer(
        self, question: Question, visitor: Visitor, has_left: Callable[[], bool]
    ) -> Prediction:
        line = dump_question(question)
        key = _key(line)
        with self._turns.line(visitor) as place:
            while not place.has_come(SECONDS_BETWEEN_LOOKS):
                if has_left():
                    raise NobodyWaits(LEFT)
            answer = self._known.get(key)  # another visitor may have asked it meanwhile
            if answer is None:
                answer = self._ask_worker(line, self._limits_of(question.config), has_left)
                with self._guard:
                    self._known[key] = answer
                keep_prediction(question, answer)
        return answer

    def _ask_worker(self, line: bytes, limits: Limits, has_left: Callable[[], bool]) -> Prediction:
        content = {
            "cpu_seconds": limits.cpu_seconds,
            "memory_bytes": limits.memory_bytes,
            "question": line.decode(),  # as text: only the limited child process parses it
        }
        try:
            said = self._say(content, has_left)
        except OSError as error:
            raise FtlabError(f"The prediction cannot be started ({error}).") from None
        except WorkerEnded:
            said = None
        if said is None:
            note_refusal("prediction ended", why="no answer", seconds=SECONDS)
            raise FtlabError(
                f"The prediction ended without an answer, or took more than {SECONDS} s; choose a "
                "smaller model, or look at the machine's memory."
            )
        if said not in get_args(Ending):
            return load_prediction(said.encode())
        note_refusal("prediction ended", why=said)
        raise FtlabError(sentence(cast(Ending, said), limits))

    def _say(self, content: dict[str, Any], has_left: Callable[[], bool]) -> str | None:
        """Returns the worker's answer; on timeout ends the worker and returns `None`."""
        until = time.monotonic() + SECONDS
        with closing(self._worker.ask(content, SECONDS_BETWEEN_LOOKS)) as answer:
            for said in answer:
                if said is not None:
                    return str(said)
                if has_left():
                    raise NobodyWaits(LEFT)
                if time.monotonic() > until:
                    self._worker.close()
                    break
        return None


def _key(line: bytes) -> bytes:
    """Returns the cache key of a question; a hash, as a config may have 200,000 characters."""
    return hashlib.sha256(line).digest()
