"""Runs as the lines of a figure: the seeds of a variant together, with no more points than show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ftlab.runs.thinning import MOST_BUCKETS


@dataclass(frozen=True)
class Curve:
    """One run: `points` are (step, x, loss), the loss as it is drawn (smoothed); NaN: a gap."""

    run_id: str
    label: str
    method: str
    seed: Any
    emphasised: bool
    settings: str
    points: Sequence[tuple[int, float, float]]

    @property
    def finite(self) -> list[float]:
        return [loss for _, _, loss in self.points if math.isfinite(loss)]


@dataclass(frozen=True)
class At:
    """The seeds of a variant at one step: their mean x and each one's loss, if it is a number.

    For several neighbouring steps taken together, `losses` are means and `range` is their whole
    range.
    """

    x: float
    losses: Mapping[int, float]
    range: tuple[float, float] | None = None

    @property
    def mean(self) -> float | None:
        return sum(self.losses.values()) / len(self.losses) if self.losses else None

    @property
    def low(self) -> float:
        return self.range[0] if self.range else min(self.losses.values())

    @property
    def high(self) -> float:
        return self.range[1] if self.range else max(self.losses.values())


@dataclass(frozen=True)
class Line:
    """What is drawn as one line: a run, or the mean of a variant's seeds with their range."""

    label: str
    method: str
    emphasised: bool
    curves: Sequence[Curve]

    @cached_property
    def steps(self) -> list[At]:
        """Every step that any seed has, with the seeds that have it; of very many, fewer.

        One seed keeps the lowest and the highest of neighbouring steps, so that spikes stay. Of
        several, neighbouring steps become their means in their whole range: seeds whose curves were
        thinned share no steps.
        """
        steps = self._every_step
        if len(steps) <= 2 * MOST_BUCKETS + 2:
            return steps
        width = -(-len(steps) // MOST_BUCKETS)
        groups = [steps[i : i + width] for i in range(0, len(steps), width)]
        if len(self.curves) > 1:
            return [_together(group) for group in groups]
        ends = [steps[0], steps[-1]]
        kept = {id(at) for group in groups for at in _extremes(group)} | {id(at) for at in ends}
        return [at for at in steps if id(at) in kept]

    @cached_property
    def _every_step(self) -> list[At]:
        losses: dict[int, dict[int, float]] = {}
        places: dict[int, list[float]] = {}
        for number, curve in enumerate(self.curves):
            for step, x, loss in curve.points:
                places.setdefault(step, []).append(x)
                at = losses.setdefault(step, {})
                if math.isfinite(loss):
                    at[number] = loss
        return [At(sum(places[step]) / len(places[step]), losses[step]) for step in sorted(losses)]

    @property
    def end(self) -> float:
        """The last value of the line."""
        return next(at.mean for at in reversed(self.steps) if at.mean is not None)

    @property
    def key(self) -> tuple[str, str]:
        return self.method, self.label


def _extremes(group: Sequence[At]) -> list[At]:
    """The steps with the lowest and the highest mean, and one without any: a gap."""
    known = [at for at in group if at.losses]
    gap = [at for at in group if not at.losses][:1]
    if not known:
        return gap
    return [
        *gap,
        min(known, key=lambda at: at.mean or 0.0),
        max(known, key=lambda at: at.mean or 0.0),
    ]


def _together(group: Sequence[At]) -> At:
    values: dict[int, list[float]] = {}
    for at in group:
        for number, loss in at.losses.items():
            values.setdefault(number, []).append(loss)
    known = [at for at in group if at.losses]
    return At(
        sum(at.x for at in group) / len(group),
        {number: sum(losses) / len(losses) for number, losses in values.items()},
        (min(at.low for at in known), max(at.high for at in known)) if known else None,
    )
