"""What the runs of a tuning sweep say: one ladder, its points and the suggestion."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from ftlab.methods.rates import TUNED_ON
from ftlab.methods.variant import Variant
from ftlab.models.size import size_of_model
from ftlab.runs.result import OPEN, Status
from ftlab.runs.store import Run
from ftlab.tuning.suggest import Point, Suggestion, suggest


@dataclass(frozen=True)
class Tuned:
    """One variant over learning rates. `variant` has none of its own; `points` go from the lowest
    rate up. `base_loss` is the untouched model's on the same examples, in nats a token."""

    variant: Variant
    points: tuple[Point, ...]
    base_loss: float | None
    runs: tuple[Run, ...]

    @property
    def suggestion(self) -> Suggestion:
        return suggest(self.points)

    @property
    def default(self) -> float:
        """The rate that the method starts from on the runs' model."""
        size = size_of_model(self.runs[0].spec.model)
        return self.variant.spec.rate_for(size or TUNED_ON)

    @property
    def reasons(self) -> list[str]:
        """Why runs are not done, each reason once."""
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


def tuned_of(runs: Sequence[Run]) -> Tuned | None:
    """The ladder of one sweep's runs; `None` where they are no ladder of one variant."""
    ladders = ladders_of(runs)
    return ladders[0] if len(ladders) == 1 else None


def ladders_of(runs: Sequence[Run]) -> list[Tuned]:
    """The runs of one sweep by variant, whatever their rates, in the order of the queue."""
    variants: dict[str, list[Run]] = {}
    for run in runs:
        if run.spec.variant is not None:
            variants.setdefault(repr(_without_rate(run)), []).append(run)
    return [_ladder(own, runs) for own in variants.values()]


def _ladder(own: Sequence[Run], sweep: Sequence[Run]) -> Tuned:
    """Those runs of the sweep as a ladder."""
    rates = sorted({run.spec.learning_rate for run in own if run.spec.learning_rate})
    bases = [
        run.result.measures.eval_loss_before
        for run in sweep
        if run.spec.is_base and run.result and _same_base(run, own[0])
    ]
    return Tuned(
        variant=_without_rate(own[0]),
        points=tuple(
            _point(rate, [r for r in own if r.spec.learning_rate == rate]) for rate in rates
        ),
        base_loss=next((loss for loss in bases if loss is not None), None),
        runs=tuple(own),
    )


def _same_base(base: Run, run: Run) -> bool:
    return base.spec.base_precision == run.spec.base_precision


def latest_ladders(runs: Iterable[Run]) -> list[Tuned]:
    """The newest ladder of each variant, model and task that was measured on the tuning split."""
    sweeps: dict[str, list[Run]] = {}
    for run in runs:
        if run.spec.settings.eval_split == "tuning" and run.status not in OPEN:
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
    return Point(rate, _worst(undone), known, _examples(runs))


def _worst(undone: Sequence[Status]) -> Status:
    return "diverged" if "diverged" in undone else undone[0] if undone else "done"


def _examples(runs: Sequence[Run]) -> tuple[float, ...]:
    """Each example's loss, mean of the runs; empty where one of them lacks it."""
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
