"""How long runs take: computed from the simulated work, corrected by earlier runs of this device.

Training and scoring are computed from the device's rates. A run records what was computed of it, so
the ratio of measured to computed seconds corrects later predictions, and its range is their band.
The rest of a run (process, imports, data, loading, saving) is as in earlier runs. No torch here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ftlab.basics.devices import Device
from ftlab.models.reference import parse_model
from ftlab.prediction.duration import Band, Rates, ScoringWork
from ftlab.prediction.question import Prediction, Step
from ftlab.prediction.remedies import Seen, is_on
from ftlab.records.progress import seconds_together
from ftlab.records.result import ANSWERING
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import Run
from ftlab.settings.training import (
    CURVE_EXAMPLES,
    EVALUATION_BATCH,
    ROWS_AT_ONCE,
    TrainingSettings,
)
from ftlab.tasks.registry import general_passages

TRAIN, SCORE = "train", "evaluate"
"""The phases of a run that are computed, by their names in its result."""

OTHER, BETWEEN = "other", "between"
"""What a run takes besides: its start, loading, one step under the memory tracker, saving; and the
seconds until the next one starts."""

AT_START = Band(1 / 1.5, 1.5)
"""The band of a device without enough runs."""

FEWEST = 3
"""Runs from which on the band is what they showed."""

_OTHER_SECONDS = 4.0
"""Of a run that is neither training nor scoring, before there is one, without its step more: a part
of the runs imports its libraries, the others find them imported."""

FORMULA = 3
"""Raised when the same run gets other seconds: those of an earlier formula correct nothing."""

FORMULA_KEY = "time_formula"
"""The key in a run's environment for the formula of its computed seconds."""

_BETWEEN_SECONDS = 3.0
"""Between two runs, outside their records, before there are two: the end of one process and the
start of the next, and the prediction of the peak where it was not made before."""

_AFTER_BASE_SECONDS = 1.0
_MOST_BETWEEN_SECONDS = 60.0
"""A longer time between two runs was not that of the queue: it stood still, or waited."""

_KEPT_SECONDS = 2.0
"""Of a base run whose numbers are kept (`records.kept_bases`): it imports no torch."""

_CHARACTERS_A_TOKEN = 4.0
"""Of the passages of unrelated text, whose loss is measured beside that of the examples."""


@dataclass(frozen=True)
class RunSize:
    """What a run does, whatever its method: `tokens` is the mean of a batch with padding, and
    `scored` the number of examples."""

    steps: int
    accumulation: int
    tokens: float
    scored: int
    curve_points: int = 0


def run_size(settings: TrainingSettings, tokens: float, scored: int) -> RunSize:
    points = settings.steps // settings.eval_every if settings.eval_every else 0
    return RunSize(settings.steps, settings.accumulation, tokens, scored, points)


def computed(
    found: Prediction, step: Step, size: RunSize, rates: Rates, new_tokens: int | None = None
) -> dict[str, float]:
    """Seconds of training and of scoring by phase; empty if the step was not simulated.

    Each answer is taken to have `new_tokens`: as many as a row of the longest batch has with loss,
    if it is `None`.
    """
    work, scoring = found.work, found.scoring_work
    if work is None:
        return {}
    training = size.steps * rates.seconds(work.step(size.tokens, size.accumulation))
    general = 0.0
    if scoring is None:  # only the loss: a third of a forward and backward pass
        seconds = rates.seconds(work.batch) * size.scored * step.length / work.tokens / 3
    else:
        new = (step.completion_tokens or 1) if new_tokens is None else new_tokens
        # The answers continue from the keys and values of the pass over the prompts, as the loss.
        batches, tokens = _batches(size.scored), size.scored * (scoring.prompt + new)
        seconds = rates.seconds(scoring.passes(2 * batches, tokens, size.scored * new))
        seconds += new * _answering(scoring, size.scored, rates)
        passages = general_passages()
        read = sum(map(len, passages)) / _CHARACTERS_A_TOKEN
        general = rates.seconds(scoring.passes(_batches(len(passages)), read, read))
    points = size.curve_points * min(CURVE_EXAMPLES, size.scored) / max(1, size.scored)
    one_step = rates.seconds(work.step(size.tokens, size.accumulation))
    return {
        TRAIN: training + rates.seconds(work.batch),
        SCORE: seconds * (1 + points) + general,
        OTHER: _OTHER_SECONDS + one_step,
    }


def _answering(scoring: ScoringWork, scored: int, rates: Rates) -> float:
    """Seconds of one more token of each answer, of which `ROWS_AT_ONCE` are generated at once."""
    work = scoring.passes(math.ceil(scored / ROWS_AT_ONCE), scored, scored)
    return (rates.of_few_rows() if work.narrow else rates).seconds(work)


def _batches(examples: int) -> int:
    return math.ceil(examples / EVALUATION_BATCH)


@dataclass(frozen=True)
class Estimate:
    """Expected seconds, and their least and most."""

    seconds: float
    low: float
    high: float

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.seconds + other.seconds, self.low + other.low, self.high + other.high)


Parts = Mapping[str, Estimate]
"""A run's phases and `OTHER` and `BETWEEN`, each with its seconds."""


def in_all(parts: Iterable[Estimate]) -> Estimate:
    """The seconds of parts one after another: a sweep's are those of the runs that it needs."""
    return sum(parts, Estimate(0, 0, 0))


def together(runs: Sequence[Estimate], devices: int) -> Estimate:
    """The seconds until all these runs have ended, on so many like devices."""
    return Estimate(
        seconds_together((run.seconds for run in runs), devices),
        seconds_together((run.low for run in runs), devices),
        seconds_together((run.high for run in runs), devices),
    )


@dataclass(frozen=True)
class PastRuns:
    """What earlier runs of a device took: by phase, of base runs, and besides."""

    seen: dict[str, tuple[Seen, ...]]
    bases: tuple[tuple[RunSpec, float, int], ...]
    """Base runs, their seconds of scoring, and how many examples they scored."""
    other: tuple[float, ...]
    """Of base runs, what is not scoring."""
    between: tuple[float, ...]
    answering: tuple[float, ...]

    def run(self, phases: dict[str, float], request: SweepRequest, method: str) -> Parts:
        """A run of a method from what was computed of it; empty if nothing was."""
        if not phases:
            return {}
        parts = {phase: self.phase(phase, seconds, method) for phase, seconds in phases.items()}
        if request.settings.measure_answering and self.answering:
            parts[ANSWERING] = _within(self.answering, AT_START)
        between = self.between or (_BETWEEN_SECONDS,)
        return parts | {BETWEEN: _within(between, AT_START)}

    def phase(self, phase: str, seconds: float, method: str) -> Estimate:
        """Computed seconds, corrected by the runs of the method, else of all methods."""
        every = [run.ratio for run in self.seen.get(phase, ())]
        own = [run.ratio for run in self.seen.get(phase, ()) if run.method == method]
        middle = seconds * statistics.median(own or every or [1.0])
        ratios = own if len(own) >= FEWEST else every
        if len(ratios) < FEWEST:
            return Estimate(middle, AT_START.low * middle, AT_START.high * middle)
        low, high = seconds * min(ratios), seconds * max(ratios)
        return Estimate(middle, min(low, middle), max(high, middle))

    def base(self, request: SweepRequest, spec: RunSpec, scored: int, computed: float) -> Parts:
        """A base run: nothing but its start if the same base was measured before, else as earlier
        ones of the same model, task and precision, else as computed."""
        if any(_measures_the_same(base, spec) for base, *_ in self.bases):
            return {OTHER: _within([_KEPT_SECONDS], AT_START)}
        model = parse_model(request.model).name
        each = [
            seconds / examples
            for base, seconds, examples in self.bases
            if (base.model, base.task, base.base_precision)
            == (model, request.task, spec.base_precision)
            if base.settings.eval_answers == request.settings.eval_answers
        ]
        if each:
            return {SCORE: _within([scored * one for one in each], AT_START)} | self.rest()
        return {SCORE: self.phase(SCORE, computed, "")} | self.rest()

    def rest(self) -> dict[str, Estimate]:
        """What of a base run is not scoring, until the next run starts."""
        return {
            OTHER: _within(self.other or (_OTHER_SECONDS,), AT_START),
            BETWEEN: _within([_AFTER_BASE_SECONDS], AT_START),
        }


def _measures_the_same(base: RunSpec, other: RunSpec) -> bool:
    return all(
        getattr(base, name) == getattr(other, name)
        for name in ("model", "task", "base_precision", "dtype_policy", "memory_limit")
    ) and all(
        getattr(base.settings, name) == getattr(other.settings, name)
        for name in ("eval_examples", "eval_split", "eval_answers", "max_length")
    )


def past_runs(runs: Iterable[Run], device: Device) -> PastRuns:
    """Collects what runs took that were measured on this machine, on the device or an equal one."""
    seen: dict[str, list[Seen]] = {TRAIN: [], SCORE: [], OTHER: []}
    bases: list[tuple[RunSpec, float, int]] = []
    other: list[float] = []
    answering: list[float] = []
    between: list[float] = []
    before: dict[str, float] = {}  # by sweep: when its latest trained run ended
    for run in sorted(runs, key=lambda run: run.result.finished_at if run.result else 0.0):
        spec, result = run.spec, run.result
        if run.origin != "measured" or run.status != "done" or result is None or result.resumed:
            continue
        if not is_on(run, device):
            continue
        took = {name: phase.seconds for name, phase in result.phases.items()}
        total = result.measures.total_seconds
        if total is not None:
            took[OTHER] = max(0.0, total - took.get(TRAIN, 0.0) - took.get(SCORE, 0.0))
            since = result.finished_at - total - before.pop(spec.sweep_id, math.inf)
            if 0 <= since <= _MOST_BETWEEN_SECONDS:
                between.append(since)
        if spec.variant is None:
            if took.get(SCORE):
                bases.append((spec, took[SCORE], max(1, spec.settings.eval_examples)))
                other.append(took.get(OTHER, _OTHER_SECONDS))
        else:
            before[spec.sweep_id] = result.finished_at
            method, label = spec.variant.method, spec.label
            is_ours = result.environment.get(FORMULA_KEY) == FORMULA
            for phase, seconds in result.predicted_seconds.items() if is_ours else ():
                if seconds > 0 and took.get(phase):
                    seen.setdefault(phase, []).append(Seen(method, label, seconds, took[phase]))
        if ANSWERING in took:
            answering.append(took[ANSWERING])
    return PastRuns(
        {phase: tuple(found) for phase, found in seen.items()},
        tuple(bases), tuple(other), tuple(between), tuple(answering),
    )  # fmt: skip


def _within(seconds: Sequence[float], start: Band) -> Estimate:
    """The median; its range is that of the values, if there are enough."""
    middle = statistics.median(seconds)
    if len(seconds) < FEWEST:
        return Estimate(middle, start.low * middle, start.high * middle)
    return Estimate(middle, min(seconds), max(seconds))
