"""What would make a run fit that ran out of memory, in sentences. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ftlab.prediction.calibration import ON_CPU
from ftlab.prediction.cards import HERE, Card
from ftlab.prediction.fit import Ask, Change, changes, fitting
from ftlab.prediction.question import Prediction, Question, Step
from ftlab.runs.spec import RunSpec
from ftlab.units import format_bytes

_MOST_ASKED = 12
"""Each question takes a second or so, and the device waits."""


def remedies(spec: RunSpec, phase: str) -> str:
    """What makes the phase smaller, without a number: for when nothing can be predicted."""
    if spec.variant is not None and phase in ("train", ""):
        settings = spec.settings
        step = Step(
            length=settings.max_length,
            batch=settings.batch_size,
            accumulation=settings.accumulation,
            checkpointing=settings.gradient_checkpointing,
            optimizer=settings.optimizer,
        )
        offered = [_in_words(kind[0]) for kind in changes(Question({}, spec.variant, step))]
        return _sentence("Each of these takes less", [*offered, "a method that needs less"])
    offered = []
    if spec.base_precision is None:
        offered.append("a base in 4 bits (base=nf4)")
    if phase == "evaluate":
        offered.append("a shorter maximum length")
    return _sentence(
        f"The {phase or 'run'} needs the whole model; what takes less"
        if phase != "evaluate"
        else "Each of these takes less",
        [*offered, "a smaller model"],
    )


def predicted_remedies(question: Question, room_bytes: int, ask: Ask) -> str:
    """The changes with which the step is predicted to fit into the room; "" where none is found.

    `room_bytes` is what training may take on top of the process without a model.
    """
    card = Card(HERE, "", room_bytes, context_bytes=0)
    found = fitting(question, card, _Budget(_as_measured(ask)))
    words = [_in_words(change, answer) for change, answer in found]
    return _sentence(f"Predicted to fit into {format_bytes(room_bytes)}", words) if words else ""


class _Budget:
    """Asks so often and no more; what is asked after that has no answer."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._left = ask, _MOST_ASKED

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        if self._left <= 0:
            return iter(())
        self._left -= len(questions)
        return self._ask(questions)


def _as_measured(ask: Ask) -> Ask:
    """On a CPU a process takes more than what lives in it: as much more as has been seen."""

    def scaled(questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        for place, answer in ask(questions):
            peak = answer.peak_reserved_bytes
            if peak is not None and questions[place].step.device == "cpu":
                answer = replace(answer, peak_reserved_bytes=round(peak * ON_CPU.high))
            yield place, answer

    return scaled


def _in_words(change: Change, answer: Prediction | None = None) -> str:
    size = f"≈ {format_bytes(answer.peak_reserved_bytes)}, " if answer else ""
    return f"{change.label[0].lower()}{change.label[1:]} ({size}{change.costs})"


def _sentence(start: str, offered: Sequence[str]) -> str:
    return f"{start}: {'; '.join(offered)}."
