"""Tuning of a learning rate: a ladder (series of rates), one run per rate, and a suggestion.

The rule: among the rates whose runs are all done, find the lowest mean loss on the tuning split
after the last step. Rates within noise of it count as equal, and the smallest of these is
suggested, because a smaller rate is safer in a longer run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.basics.words import join_names, rate_name
from ftlab.jobs.launch import checked, enqueue_sweep, errors_in_file
from ftlab.methods.rates import TUNED_ON, ModelSize, two_digits
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import size_of_model
from ftlab.records.differences import paired_interval
from ftlab.records.result import OPEN, Status
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import Run
from ftlab.settings.training import HIGHEST_RATE, TrainingSettings

SPACING = 3.0
"""The factor between neighbouring rates, unless both ends are given."""

MOST_POINTS = 20


def around(rate: float, points: int = 3, spacing: float = SPACING) -> tuple[float, ...]:
    """Returns `points` rates around `rate`; if `points` is even, one more above than below."""
    below = (points - 1) // 2
    rates = [rate * spacing ** (i - below) for i in range(_checked(points))]
    return tuple(two_digits(rate) for rate in rates if two_digits(rate) <= HIGHEST_RATE)


def between(low: float, high: float, points: int) -> tuple[float, ...]:
    """Returns `points` rates from `low` to `high`, spaced geometrically."""
    if not 0 < low < high <= HIGHEST_RATE:
        raise FtlabError(
            f"A ladder from {low:g} to {high:g} cannot be made; the first rate must lie above 0 "
            f"and below the last, the last at {HIGHEST_RATE:g} at most."
        )
    if _checked(points) == 1:
        raise FtlabError("A ladder with two ends has 2 rates or more; give --points 2 or more.")
    factor = (high / low) ** (1 / (points - 1))
    inner = [two_digits(low * factor**i) for i in range(1, points - 1)]
    return tuple(dict.fromkeys([low, *inner, high]))


def parse_rates(text: str) -> tuple[float, ...]:
    """Parses "1e-4,1e-3" to sorted, unique rates; raises `FtlabError` for invalid rates."""
    try:
        rates = sorted({float(part) for part in text.split(",") if part.strip()})
    except ValueError:
        raise FtlabError(f"Rates '{text}' must be numbers by commas, as in 1e-4,1e-3.") from None
    if not rates or not all(math.isfinite(rate) and 0 < rate <= HIGHEST_RATE for rate in rates):
        raise FtlabError(f"Rates '{text}' must lie above 0 and at {HIGHEST_RATE:g} at most.")
    _checked(len(rates))
    return tuple(rates)


def beyond(rates: Sequence[float], up: bool) -> float | None:
    """Returns the next rate beyond an end of the sorted ladder; `None` above `HIGHEST_RATE`."""
    end, neighbour = (rates[-1], rates[-2:][0]) if up else (rates[0], rates[:2][-1])
    factor = end / neighbour
    if factor == 1:
        factor = SPACING if up else 1 / SPACING
    rate = two_digits(end * factor)
    return rate if rate <= HIGHEST_RATE and rate not in rates else None


def _checked(points: int) -> int:
    if not 1 <= points <= MOST_POINTS:
        raise FtlabError(f"A ladder of {points} rates cannot be made; give 1 to {MOST_POINTS}.")
    return points


NOISE = 0.01
"""Another loss within this share of the lowest loss counts as equal, without a paired test."""

EXTENSIONS = 2
"""A ladder whose suggestion is at its end is extended by one rate, at most this many times."""


@dataclass(frozen=True)
class Point:
    """One rate of a ladder; its `losses` are in nats per token, one per seed.

    `examples` are the mean losses per example over the seeds. `status` is "done" if all runs are
    done, else the worst status.
    """

    rate: float
    status: Status = "done"
    losses: tuple[float, ...] = ()
    examples: tuple[float, ...] = ()

    @property
    def loss(self) -> float | None:
        """The mean over the seeds; `None` if a run is not done."""
        return fmean(self.losses) if self.status == "done" and self.losses else None


@dataclass(frozen=True)
class Suggestion:
    """`rate` is `None` if no rate can be suggested; `reason` explains the choice in a sentence."""

    rate: float | None
    reason: str


def suggest(points: Sequence[Point]) -> Suggestion:
    """Suggests a rate from a sorted ladder."""
    done = [point for point in points if point.loss is not None]
    if not done:
        return Suggestion(None, _nothing(points))
    best = min(done, key=_loss)
    alike = [point for point in done if point is best or _within_noise(point, best)]
    chosen = min(alike, key=lambda point: point.rate)
    reason = f"{rate_name(best.rate)} has the lowest loss, {_loss(best):.3f}."
    if chosen is not best:
        names = join_names([rate_name(point.rate) for point in alike])
        reason = (
            f"{names} lie within noise ({_loss(chosen):.3f} against {_loss(best):.3f}): "
            "the smallest is taken."
        )
    end = _end(points, chosen.rate)
    if end:
        reason += f" It is the {end} of the ladder: a {end[:-3]}er rate may do better."
    return Suggestion(chosen.rate, reason)


def extension(points: Sequence[Point]) -> float | None:
    """Returns the rate beyond the end that is best, or below if all diverged; else `None`."""
    rates = [point.rate for point in points]
    rate = suggest(points).rate
    if rate is None:
        diverged = bool(points) and all(point.status == "diverged" for point in points)
        return beyond(rates, up=False) if diverged else None
    end = _end(points, rate)
    return beyond(rates, up=end == "highest") if end else None


def _end(points: Sequence[Point], rate: float) -> str:
    """ "lowest" or "highest" if the rate is at that end of the ladder, else ""."""
    if rate == points[0].rate:
        return "lowest"
    return "highest" if rate == points[-1].rate else ""


def _within_noise(point: Point, best: Point) -> bool:
    """Whether the loss is within `NOISE` of the best, or its 95 % interval contains zero."""
    if _loss(point) - _loss(best) <= NOISE * _loss(best):
        return True
    if len(point.examples) != len(best.examples) or len(best.examples) < 2:
        return False
    return paired_interval(best.examples, point.examples)[1] <= 0


def _loss(point: Point) -> float:
    assert point.loss is not None
    return point.loss


def _nothing(points: Sequence[Point]) -> str:
    statuses = {point.status for point in points}
    if statuses == {"diverged"}:
        return f"Every run diverged, also at {rate_name(points[0].rate)}; try lower rates."
    if statuses == {"not_applicable"}:
        return "The method is not applicable to this model."
    return "No rate has all of its runs done; see the reasons of the runs."


@dataclass(frozen=True)
class Tuned:
    """The ladder of one variant, with `points` sorted by rate; `variant` itself has no rate.

    `base_loss` is the base model's loss on the same examples, in nats per token.
    """

    variant: Variant
    points: tuple[Point, ...]
    base_loss: float | None
    runs: tuple[Run, ...]

    @property
    def suggestion(self) -> Suggestion:
        return suggest(self.points)

    @property
    def default(self) -> float:
        """The method's default rate on the runs' model."""
        size = size_of_model(self.runs[0].spec.model)
        return self.variant.spec.rate_for(size or TUNED_ON)

    @property
    def reasons(self) -> list[str]:
        """The unique reasons of runs that are not done."""
        return list(dict.fromkeys(run.reason for run in self.runs if run.reason))

    def to_json(self) -> dict[str, Any]:
        spec, found = self.runs[0].spec, self.suggestion
        return {
            "method": self.variant.method,
            "variant": self.variant.label,
            "task": spec.task.label,
            "model": spec.model,
            "sweep_id": spec.sweep_id,
            "default": self.default,
            "suggested": found.rate,
            "reason": found.reason,
            "base_loss": self.base_loss,
            "points": [
                {
                    "learning_rate": point.rate,
                    "loss": point.loss,
                    "losses": list(point.losses),
                    "status": point.status,
                }
                for point in self.points
            ],
        }


def ladders_of(runs: Sequence[Run]) -> list[Tuned]:
    """Groups the runs of one sweep by variant without its rate, in queue order."""
    variants: dict[str, list[Run]] = {}
    for run in runs:
        if run.spec.variant is not None:
            variants.setdefault(repr(_without_rate(run)), []).append(run)
    return [_ladder(own, runs) for own in variants.values()]


def _ladder(own: Sequence[Run], sweep: Sequence[Run]) -> Tuned:
    rates = sorted({run.spec.learning_rate for run in own if run.spec.learning_rate})
    bases = [
        run.result.measures.eval_loss_before
        for run in sweep
        if run.spec.is_base and run.result
        if run.spec.base_precision == own[0].spec.base_precision
    ]
    return Tuned(
        variant=_without_rate(own[0]),
        points=tuple(
            _point(rate, [r for r in own if r.spec.learning_rate == rate]) for rate in rates
        ),
        base_loss=next((loss for loss in bases if loss is not None), None),
        runs=tuple(own),
    )


def is_of_ladder(run: Run) -> bool:
    """Whether the run was measured on the tuning split as a whole; a race may pause its own."""
    return run.spec.settings.eval_split == "tuning" and not run.directory.may_pause


def latest_ladders(runs: Iterable[Run]) -> list[Tuned]:
    """Returns the newest ladder of each variant, model and task measured on the tuning split."""
    sweeps: dict[str, list[Run]] = {}
    for run in runs:
        if is_of_ladder(run) and run.status not in OPEN:
            sweeps.setdefault(run.spec.sweep_id, []).append(run)
    found: dict[str, Tuned] = {}
    for sweep_id in sorted(sweeps):
        for ladder in ladders_of(sweeps[sweep_id]):
            spec = ladder.runs[0].spec
            found[repr((ladder.variant, spec.model, spec.task))] = ladder
    return list(found.values())


def _without_rate(run: Run) -> Variant:
    assert run.spec.variant is not None
    return replace(run.spec.variant, learning_rate=None)


def _point(rate: float, runs: Sequence[Run]) -> Point:
    undone = [run.status for run in runs if run.status != "done"]
    losses = [run.result.measures.eval_loss_after for run in runs if run.result]
    known = tuple(loss for loss in losses if loss is not None)
    worst: Status = "diverged" if "diverged" in undone else undone[0] if undone else "done"
    return Point(rate, worst, known, _examples(runs))


def _examples(runs: Sequence[Run]) -> tuple[float, ...]:
    """Each example's mean loss over the runs; empty if a run has no such losses."""
    each: list[list[float]] = []
    for run in runs:
        try:
            rows: Sequence[Mapping[str, Any]] = run.directory.samples()
        except (OSError, json.JSONDecodeError):
            return ()
        losses = [row.get("loss_after") for row in rows]
        each.append([float(loss) for loss in losses if isinstance(loss, int | float)])
    if not each or any(len(losses) != len(each[0]) for losses in each):
        return ()
    return tuple(fmean(values) for values in zip(*each, strict=True))


POINTS = 3
"""The default number of rates in a ladder."""


@dataclass(frozen=True)
class Ladder:
    """A variant, and the learning rates to train it with."""

    variant: Variant
    rates: tuple[float, ...]


def starting_ladder(variant: Variant, size: ModelSize, points: int = POINTS) -> Ladder:
    """Returns `points` rates around the method's default for that size; may raise `FtlabError`."""
    return Ladder(variant, around(variant.spec.rate_for(size), points))


def tuning_settings(settings: TrainingSettings) -> TrainingSettings:
    """Returns the settings for runs of a ladder: they measure only the loss on tuning examples."""
    return replace(
        settings,
        learning_rate=None,
        eval_split="tuning",
        eval_answers=False,
        eval_every=0,
        measure_answering=False,
        report_to=(),
    )


def ladder_request(request: SweepRequest, ladders: Iterable[Ladder]) -> SweepRequest:
    """Returns the request with the ladders' variants, each at each of its rates."""
    rungs = [
        replace(ladder.variant, learning_rate=rate) for ladder in ladders for rate in ladder.rates
    ]
    return replace(request, variants=tuple(rungs), settings=tuning_settings(request.settings))


def enqueue_ladders(
    request: SweepRequest,
    ladders: Sequence[Ladder],
    runs_folder: Path,
    onto: Sequence[RunSpec] = (),
) -> list[RunSpec]:
    """Queues the ladders as one sweep, or as more runs of the sweep `onto`.

    Raises the errors of `checked` and `enqueue_sweep`, and what is wrong in a data file by now.
    """
    valid = checked(ladder_request(request, ladders))
    wrong = errors_in_file(request.task)
    if wrong:
        raise InvalidRequest(wrong)
    return enqueue_sweep(valid, runs_folder, onto=onto)


def further_ladders(tuned: Iterable[Tuned]) -> list[Ladder]:
    """Returns one more rate for each ladder whose best rate is at its end, or that diverged."""
    found = [(ladder.variant, extension(ladder.points)) for ladder in tuned]
    return [Ladder(variant, (rate,)) for variant, rate in found if rate is not None]
