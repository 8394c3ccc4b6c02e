"""Loss and score on a few held-out examples between training steps: the curve over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ftlab.settings.training import CURVE_EXAMPLES
from ftlab.tasks.formatting import EncodedSet
from ftlab.training.evaluation import Evaluation
from ftlab.training.first_pass import same_random_numbers
from ftlab.training.meters import PhaseMeter


def curve_examples(held_out: EncodedSet) -> EncodedSet:
    """Those of the held-out examples that a point of the curve is of."""
    return replace(
        held_out,
        examples=held_out.examples[:CURVE_EXAMPLES],
        formatted=held_out.formatted[:CURVE_EXAMPLES],
    )


@dataclass(frozen=True)
class CurvePoints:
    """Evaluates after every `every` steps and after the last, outside of the measured phase.

    Neither its time nor its memory counts as training, and the random numbers of the steps that
    follow are those they would have drawn anyway. `every` 0 is never.
    """

    every: int
    steps: int
    evaluate: Callable[[], Evaluation]
    meter: PhaseMeter
    report: Callable[[dict[str, Any]], None]
    device: torch.device

    def after_step(self, step: int) -> None:
        """Reports one point, if the step has one."""
        if not self.every or (step % self.every and step != self.steps):
            return
        with self.meter.pause(), same_random_numbers(self.device):
            found = self.evaluate()
        self.report(curve_event(step, found.loss, found.score))


def curve_event(step: int, loss: float, score: float | None) -> dict[str, Any]:
    """A point as it stands in metrics.jsonl; step 0 is the untouched model."""
    return {
        "event": "evaluation",
        "step": step,
        "loss": loss if math.isfinite(loss) else None,
        "score": score,
    }
