"""A run as a question to the predictor, and changes that would make it fit. No torch.

On a GPU torch counts exactly the bytes that are predicted. On a CPU the process size is measured,
which is more than the live tensors: malloc overhead, oneDNN's packed weights, leftovers of loading.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ftlab.basics.cards import HERE, Card
from ftlab.basics.devices import Device, kind_of
from ftlab.basics.units import format_bytes
from ftlab.methods.variant import Variant
from ftlab.prediction.duration import Band
from ftlab.prediction.fit import Ask, Change, changes, fitting, over_cards
from ftlab.prediction.question import (
    USUAL_CAPABILITY,
    Prediction,
    Question,
    Step,
    ask_about,
)
from ftlab.records.spec import RunSpec
from ftlab.records.store import Run
from ftlab.settings.training import DtypePolicy, TrainingSettings
from ftlab.tasks.formatting import BatchSize, Scoring


def run_question(
    config: Mapping[str, Any],
    variant: Variant,
    settings: TrainingSettings,
    policy: DtypePolicy,
    longest: BatchSize,
    device: Device,
    scoring: Scoring | None = None,
) -> Question:
    """Returns the question on a run's longest batch; raises `InvalidRequest`.

    It is the same at every learning rate, so one simulation serves all of a search for one.
    """
    step = Step(
        length=longest.length,
        batch=longest.rows,
        completion_tokens=math.ceil(longest.completion_tokens / longest.rows),
        weights="bf16" if policy == "bf16" else "fp32",
        mixed=policy == "mixed",
        checkpointing=settings.gradient_checkpointing,
        optimizer=settings.optimizer,
        accumulation=settings.accumulation,
        shard=settings.shard,
        device="cuda" if device.is_gpu else "cpu",
        capability=device.capability or USUAL_CAPABILITY,
        scoring=scoring,
    )
    (question,) = ask_about(config, [variant], step)
    return replace(question, variant=replace(question.variant, learning_rate=None))


FEWEST_OF_METHOD = 3
FEWEST = 5
"""Minimum number of runs for a band: FEWEST_OF_METHOD of the same method, else FEWEST of any."""

_LEFT_OUT = 0.05  # share of the runs at either end


ON_CUDA = Band(0.95, 1.05)
"""Nearly all published reserved peaks are within 5 % of their predictions (docs/prediction.md)."""

ON_CPU = Band(1.1, 1.4)
"""11 of the 12 methods in the shipped sweep are between 1.15 and 1.36 (docs/prediction.md)."""


@dataclass(frozen=True)
class Seen:
    """Net peak memory of a run in bytes, or seconds of a phase, predicted and measured."""

    method: str
    label: str
    predicted: float
    measured: float

    @property
    def ratio(self) -> float:
        return self.measured / self.predicted


@dataclass(frozen=True)
class Calibration:
    """Predicted and measured runs on one device; with too few runs, `start` is the band."""

    seen: tuple[Seen, ...]
    start: Band

    def band(self, method: str) -> Band:
        """Returns the most specific band with enough runs: of the method, of all, else `start`."""
        own = [run.ratio for run in self.seen if run.method == method]
        return self.whole() if len(own) < FEWEST_OF_METHOD else _band(own, "this method")

    def whole(self) -> Band:
        """Returns the band over all methods, else `start`."""
        every = [run.ratio for run in self.seen]
        return _band(every, "all methods") if len(every) >= FEWEST else self.start


def calibration(runs: Iterable[Run], device: Device) -> Calibration:
    """Collects the runs measured on this machine, on the device or an equal one.

    Not those over several devices: gathered weights that malloc keeps are part of their peaks.
    """
    seen = [
        Seen(run.spec.variant.method, run.spec.label, predicted, measured)
        for run in runs
        if run.origin == "measured" and is_on(run, device) and run.spec.settings.shard == 1
        if run.spec.variant is not None and run.status == "done" and run.result is not None
        if (measured := run.result.measures.net_peak_memory_bytes) is not None
        if (predicted := run.result.measures.predicted_net_peak_bytes)
    ]
    return Calibration(tuple(seen), ON_CUDA if device.is_gpu else ON_CPU)


def is_on(run: Run, device: Device) -> bool:
    """Whether the run was on the device, or on an equal GPU."""
    if kind_of(run.spec.device) != kind_of(device.id):
        return False
    if not device.is_cuda or device.is_rocm:
        return run.spec.device == device.id
    return run.result is not None and run.result.environment.get("device") == device.label


def _band(ratios: Sequence[float], whose: str) -> Band:
    """Returns the 5th to 95th percentile; for few runs the minimum to the maximum."""
    ordered = sorted(ratios)
    out = math.floor(_LEFT_OUT * len(ordered))
    return Band(ordered[out], ordered[-1 - out], len(ordered), whose)


_MOST_ASKED = 12
"""Each question takes about a second, and the device is idle meanwhile."""


def remedies(spec: RunSpec, phase: str) -> str:
    """Returns advice without numbers for the phase, for when nothing can be predicted."""
    if spec.variant is not None and phase in ("train", ""):
        settings = spec.settings
        step = Step(
            length=settings.max_length,
            batch=settings.batch_size,
            accumulation=settings.accumulation,
            checkpointing=settings.gradient_checkpointing,
            optimizer=settings.optimizer,
            shard=settings.shard,
        )
        question = Question({}, spec.variant, step)
        kinds = [*changes(question), over_cards(question, counts_of(spec))]
        offered = [_in_words(kind[0]) for kind in kinds if kind]
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


def counts_of(spec: RunSpec) -> tuple[int, ...]:
    """The numbers of this machine's GPUs over which the run could be divided: 2, 4, … and all."""
    gpus = [device for device in spec.may_use if device.startswith("cuda")]
    if any("." in device for device in gpus):  # MIG instances exchange nothing (NCCL)
        return ()
    return tuple(n for n in range(2, len(gpus) + 1) if n & (n - 1) == 0 or n == len(gpus))


def predicted_remedies(
    question: Question, room_bytes: int, ask: Ask, counts: Sequence[int] = ()
) -> str:
    """Returns a sentence with the changes that are predicted to fit; "" if none is found.

    `room_bytes` is what training may use in addition to the process without a model, on each of
    the like devices, over `counts` of which the run could be divided.
    """
    card = Card(HERE, "", room_bytes, context_bytes=0)
    found = fitting(question, card, _Budget(_as_measured(ask)), counts=counts)
    words = [_in_words(change, answer) for change, answer in found]
    return _sentence(f"Predicted to fit into {format_bytes(room_bytes)}", words) if words else ""


class _Budget:
    """Limits the number of questions; later ones get no answer."""

    def __init__(self, ask: Ask) -> None:
        self._ask, self._left = ask, _MOST_ASKED

    def __call__(self, questions: Sequence[Question]) -> Iterator[tuple[int, Prediction]]:
        if self._left <= 0:
            return iter(())
        self._left -= len(questions)
        return self._ask(questions)


def _as_measured(ask: Ask) -> Ask:
    """Scales predictions for a CPU by `ON_CPU.high`, as the process uses more than its tensors."""

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
