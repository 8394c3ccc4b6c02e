"""Ladders as runs in the queue: what the command line and the page ask for alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ftlab.methods.rates import ModelSize
from ftlab.methods.variant import Variant
from ftlab.runs.spec import RunSpec, SweepRequest
from ftlab.runs.sweep import enqueue_sweep
from ftlab.settings.training import TrainingSettings
from ftlab.tuning.ladder import around
from ftlab.tuning.reading import Tuned
from ftlab.tuning.suggest import extension

POINTS = 3
"""Rates of a ladder, unless somebody asks for more."""


@dataclass(frozen=True)
class Ladder:
    """A variant, and the rates that it is to be trained at."""

    variant: Variant
    rates: tuple[float, ...]


def starting_ladder(variant: Variant, size: ModelSize, points: int = POINTS) -> Ladder:
    """So many rates around the method's own for a model of that size.

    Raises `FtlabError` for a number of rates that makes no sense.
    """
    return Ladder(variant, around(variant.spec.rate_for(size), points))


def tuning_settings(settings: TrainingSettings) -> TrainingSettings:
    """The settings for runs of a ladder: the loss on tuning examples is all that is measured."""
    return replace(
        settings,
        learning_rate=None,
        eval_split="tuning",
        eval_answers=False,
        eval_every=0,
        report_to=(),
    )


def ladder_request(request: SweepRequest, ladders: Iterable[Ladder]) -> SweepRequest:
    """The request with each variant of the ladders at each of its rates in place of its own."""
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

    Raises as `enqueue_sweep`.
    """
    return enqueue_sweep(ladder_request(request, ladders), runs_folder, onto=onto)


def further_ladders(tuned: Iterable[Tuned]) -> list[Ladder]:
    """One more rate for each ladder whose best rate is at its end, or whose runs all diverged."""
    found = [(ladder.variant, extension(ladder.points)) for ladder in tuned]
    return [Ladder(variant, (rate,)) for variant, rate in found if rate is not None]
