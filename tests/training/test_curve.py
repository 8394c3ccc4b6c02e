"""Evaluations between the steps: when there is one, and what it leaves alone."""

from __future__ import annotations

import math
from typing import Any

import torch

from ftlab.settings.training import CURVE_EXAMPLES
from ftlab.training.evaluate import CurvePoints, Evaluation, curve_event, curve_examples
from ftlab.training.meters import PeakReading, PhaseMeter
from tests.training.test_quality import held_out


class NoMemory:
    """Measures nothing, at once."""

    kind = "none"

    def start(self) -> int | None:
        return None

    def restart(self) -> PeakReading:
        return PeakReading(None)

    def now(self) -> int | None:
        return None

    def read(self) -> PeakReading:
        return PeakReading(None)


def points_after(every: int, steps: int, draw: bool = False) -> list[dict[str, Any]]:
    def evaluate() -> Evaluation:
        if draw:
            torch.rand(3)
        return Evaluation(1.5, 0.5, [], [], [])

    events: list[dict[str, Any]] = []
    meter = PhaseMeter(NoMemory(), lambda event: None)
    points = CurvePoints(every, steps, evaluate, meter, events.append, torch.device("cpu"))
    with meter.measure("train"):
        for step in range(1, steps + 1):
            points.after_step(step)
    return events


def test_there_is_a_point_every_so_many_steps_and_at_the_last() -> None:
    events = points_after(every=3, steps=8)
    assert [event["step"] for event in events] == [3, 6, 8]
    assert events[0] == {"event": "evaluation", "step": 3, "loss": 1.5, "score": 0.5}


def test_zero_is_never() -> None:
    assert points_after(every=0, steps=8) == []


def test_the_steps_draw_the_random_numbers_that_they_would_have_drawn_anyway() -> None:
    torch.manual_seed(0)
    expected = torch.rand(4)
    torch.manual_seed(0)
    points_after(every=1, steps=3, draw=True)
    assert torch.equal(torch.rand(4), expected)


def test_a_loss_that_is_no_number_is_null_in_the_metrics() -> None:
    assert curve_event(1, math.nan, 0.0)["loss"] is None


def test_a_point_is_of_the_first_examples_alone() -> None:
    some = curve_examples(held_out(CURVE_EXAMPLES + 5))
    assert len(some.examples) == len(some.formatted) == CURVE_EXAMPLES
    assert some.examples[0].question == "q0"
