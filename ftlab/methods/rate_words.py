"""What is said of starting rates on a model that they were not tuned on: page and command line."""

from __future__ import annotations

from ftlab.methods.rates import BY_WIDTH, TUNED_ON, ModelSize, exponent_of
from ftlab.methods.registry import METHODS
from ftlab.words import join_names

TUNED_MODEL = "SmolLM2-135M"

NOT_TUNED = f"Learning rates were tuned on {TUNED_MODEL}, not on this model"
"""The sentence without its end: what was done instead follows, or what to do."""


def what_is_done(size: ModelSize) -> str:
    """In a few words what becomes of the tuned rates on a model of that size."""
    return "used unchanged" if BY_WIDTH.rate(1.0, size) == 1 else "scaled to its size"


def how_scaled(size: ModelSize) -> str:
    """By which rule the rates come about on a model of that size, and whose it is."""
    if not size.hidden:
        return "Its config does not say how wide it is, so they are used unchanged."
    factor = BY_WIDTH.rate(1.0, size)
    if factor == 1:
        return f"It is as wide as {TUNED_MODEL}, so they are used unchanged."
    kept = [spec.label for spec in METHODS.values() if spec.rate_rule is not BY_WIDTH]
    widths = f"{TUNED_ON.hidden:,} numbers wide, this one {size.hidden:,}"
    return (
        f"{TUNED_MODEL} is {widths}: most rates are {factor:g} times the tuned ones, by "
        f"(2000 / hidden size)^{exponent_of(size.family):g} ({BY_WIDTH.source}). "
        f"{join_names(kept)} keep theirs, as their papers do."
    )
