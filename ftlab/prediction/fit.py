"""Whether a step fits a card, and what would make it fit: found by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ftlab.methods.variant import Variant
from ftlab.prediction.cards import Card
from ftlab.prediction.question import Prediction, Question

Verdict = Literal["fits", "tight", "does not fit"]

BAND = 0.05
"""How far a predicted reserved peak may be off: the worst of nearly all published runs."""

MOST_CHANGES = 3
SHORTEST = 128

Ask = Callable[[Sequence[Question]], Iterator[tuple[int, Prediction]]]


@dataclass(frozen=True)
class Fit:
    """`margin_bytes` is what is left of the card, less than nothing where it does not fit."""

    verdict: Verdict
    margin_bytes: int


@dataclass(frozen=True)
class Change:
    """Something that makes a step smaller, and the question with it."""

    label: str
    costs: str
    question: Question


def fit(peak_bytes: int, card: Card, band: float = BAND) -> Fit:
    """Whether a reserved peak fits: "tight" where it does as predicted, but not `band` above."""
    margin = card.usable_bytes - peak_bytes
    if margin < 0:
        return Fit("does not fit", margin)
    return Fit("fits" if peak_bytes * (1 + band) <= card.usable_bytes else "tight", margin)


def changes(question: Question) -> list[list[Change]]:
    """What can be changed, kind by kind, the cheapest for the result first.

    The changes of a kind make the step smaller and smaller.
    """
    step = question.step
    found: list[list[Change]] = []
    if not step.checkpointing:
        smaller = replace(question, step=replace(step, checkpointing=True))
        costs = "about 1.3 times the time, the same result"
        found.append([Change("Gradient checkpointing", costs, smaller)])
    found.append(_smaller_batches(question))
    packed = _packed(question)
    if packed is not None:
        costs = "slower steps, nearly the same result"
        found.append([Change("Base in 4 bits", costs, packed)])
    found.append(_shorter(question))
    return [kind for kind in found if kind]


def fitting(
    question: Question, card: Card, ask: Ask, most: int = MOST_CHANGES
) -> list[tuple[Change, Prediction]]:
    """Up to `most` changes that make the step fit, one of each kind: the first that is enough.

    Where none is enough alone, they are tried on top of each other, until they are.
    """
    kinds = changes(question)
    found: list[tuple[Change, Prediction]] = []
    for kind in kinds:
        if len(found) == most:
            break
        enough = _first_that_fits(kind, card, ask)
        found += [enough] if enough else []
    if not found and len(kinds) > 1:
        enough = _first_that_fits(_together(question, kinds), card, ask)
        found += [enough] if enough else []
    return found


def _first_that_fits(
    tried: Sequence[Change], card: Card, ask: Ask
) -> tuple[Change, Prediction] | None:
    for change in tried:
        for _, answer in ask([change.question]):
            peak = answer.peak_reserved_bytes
            if peak is not None and fit(peak, card).verdict != "does not fit":
                return change, answer
    return None


def _smaller_batches(question: Question) -> list[Change]:
    step, found = question.step, []
    batch = step.batch
    while batch > 1 and batch % 2 == 0:
        batch //= 2
        times = step.batch // batch * step.accumulation
        smaller = replace(question, step=replace(step, batch=batch, accumulation=times))
        label = f"Batch {batch}, accumulated {times} times"
        found.append(Change(label, "the same result, somewhat slower", smaller))
    return found


def _shorter(question: Question) -> list[Change]:
    step, found = question.step, []
    length = step.length
    while length // 2 >= SHORTEST:
        length //= 2
        kept = step.completion_tokens
        shorter = replace(
            step, length=length, completion_tokens=None if kept is None else min(kept, length - 1)
        )
        label = f"At most {length:,} tokens"
        found.append(Change(label, "longer examples are left out", replace(question, step=shorter)))
    return found


def _together(question: Question, kinds: Sequence[Sequence[Change]]) -> list[Change]:
    """The last change of each kind on top of those before it; of the last kind one by one."""
    made: list[Change] = []
    now, labels = question, list[str]()
    for kind in kinds:
        steps = kind if kind is kinds[-1] else kind[-1:]
        for change in steps:
            made.append(
                Change(
                    ", ".join([*labels, change.label]).capitalize(),
                    change.costs,
                    _on_top(now, change.question),
                )
            )
        now = made[-1].question
        labels.append(steps[-1].label)
    return made[1:]


def _on_top(question: Question, changed: Question) -> Question:
    """The question with what makes the other one smaller taken over."""
    step, other = question.step, changed.step
    kept = step.completion_tokens
    return replace(
        question,
        variant=changed.variant if changed.variant.base else question.variant,
        step=replace(
            step,
            checkpointing=step.checkpointing or other.checkpointing,
            batch=min(step.batch, other.batch),
            accumulation=max(step.accumulation, other.accumulation),
            packing=step.packing or other.packing,
            length=min(step.length, other.length),
            completion_tokens=None if kept is None else min(kept, other.completion_tokens or kept),
        ),
    )


def _packed(question: Question) -> Question | None:
    """The same adapter on a base in 4 bits; `None` where it has one, or trains the base itself."""
    variant = question.variant
    if not variant.spec.is_adapter or variant.base_precision is not None:
        return None
    on_four_bits: Variant = replace(variant, base="nf4")
    return replace(
        question, variant=on_four_bits, step=replace(question.step, packing="nf4-double")
    )
