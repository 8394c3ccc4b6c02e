"""A predictor that starts no process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ftlab.basics.errors import FtlabError
from ftlab.basics.visitor_turns import Visitor
from ftlab.prediction.client import NOBODY, Predictor
from ftlab.prediction.duration import ScoringWork, StepWork, Work
from ftlab.prediction.question import Prediction, Question

GB = 1_000_000_000


class SizedPredictor(Predictor):
    """Predicts a peak in GB by a rule, and notes what it was asked.

    The rule may raise `FtlabError`, as a process that ends; `None` is a peak that is not known.
    What torch reserves is `beside` GB more.
    """

    def __init__(self, size: Callable[[Question], float | None], beside: float = 1) -> None:
        super().__init__()
        self.size, self.beside = size, beside
        self.asked: list[Question] = []

    def ask(
        self,
        questions: Sequence[Question],
        visitor: Visitor = NOBODY,
        has_left: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, Prediction]]:
        for place, question in enumerate(questions):
            self.asked.append(question)
            yield place, self._answer(question)

    def known(self, question: Question) -> Prediction | None:
        return self._answer(question) if question in self.asked else None

    def _answer(self, question: Question) -> Prediction:
        variant, size = question.variant, self.size(question)
        sizes = (2_400_000, 8_000_000_000, 9_800_000)
        if size is None:
            reason = "It <i>cannot</i> be."
            return Prediction(variant.method, variant.label, *sizes, reason=reason)
        peak = int(size * GB)
        parts = {"weights": peak // 2, "activations": peak // 2}
        reserved = peak + int(self.beside * GB)
        return Prediction(
            variant.method, variant.label, *sizes, peak, reserved, parts, "simulated", 0.1
        )


class TimedPredictor(SizedPredictor):
    """A step is a call of torch and 10^13 operations, and so is each token of an answer."""

    def _answer(self, question: Question) -> Prediction:
        work = Work(narrow=1e13, calls=1)
        step = StepWork(work, Work(), tokens=question.step.batch * question.step.length)
        scoring = ScoringWork(Work(), work, Work(), rows=16, prompt=50)
        return replace(super()._answer(question), work=step, scoring_work=scoring)


def failing(question: Question) -> float:
    """A rule for a process that ends without an answer."""
    raise FtlabError("The prediction <b>ended</b>.")
