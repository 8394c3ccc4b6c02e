"""A prediction as JSON values, for programs and agents."""

from __future__ import annotations

import dataclasses
from typing import Any

from ftlab.basics.cards import Card
from ftlab.prediction.duration import cost, seconds_of_steps
from ftlab.prediction.fit import fit
from ftlab.prediction.question import USUAL_CAPABILITY, Prediction, Step, Target


def capability_of(card: Card | None) -> tuple[int, int]:
    """The card's compute capability; the usual one if it is not known."""
    return (card and card.capability) or USUAL_CAPABILITY


def prediction_row(
    row: Prediction, target: Target, step: Step, rate: float | None
) -> dict[str, Any]:
    """The prediction with its learning rate `rate`, and with verdict, bytes left and times if the
    target has a card."""
    fields = dataclasses.asdict(row) | {"learning_rate": rate}
    for name in ("scoring_bytes", "scoring_work", "work"):
        del fields[name]  # not of a training step, or in numbers that nobody reads
    card = target.card
    if card is not None:
        peak = row.peak_reserved_bytes
        found = None if peak is None else fit(peak, card)
        seconds = seconds_of_steps(row.work, card, step.accumulation) if step.shard == 1 else None
        fields |= {
            "device": card.label,
            "verdict": found and found.verdict,
            "margin_bytes": found and found.margin_bytes,
            "seconds_1000_steps": seconds,
            "cost_1000_steps": cost(seconds, target.price),
        }
    return fields
