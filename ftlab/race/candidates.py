"""The candidates of a race: methods at their default values, and at neighbouring ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from ftlab.basics.cards import Card
from ftlab.basics.errors import FtlabError
from ftlab.basics.units import format_bytes
from ftlab.jobs.launch import incompatible_variants
from ftlab.jobs.sweep_costs import costing
from ftlab.jobs.tuning import around
from ftlab.methods.dimensions import ModelShape
from ftlab.methods.limits import match_parameters
from ftlab.methods.rates import TUNED_ON
from ftlab.methods.registry import CORE
from ftlab.methods.variant import Variant, trainable_parameters
from ftlab.models.dimensions import shape_of_model, size_of_model
from ftlab.prediction.client import Predictor
from ftlab.prediction.fit import verdict
from ftlab.prediction.remedies import calibration
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run

SIZES = (0.5, 2.0)
"""Neighbouring sizes, as factors of a method's trainable parameters at its default values."""


@dataclass(frozen=True)
class LeftOut:
    """A method that takes no part, and the reason."""

    variant: Variant
    reason: str


def neighbours(variant: Variant, model: str) -> list[Variant]:
    """The variant, then at both neighbouring learning rates, and at half and twice its size.

    A variant without a rate has the method's default for the model.
    """
    rate = variant.learning_rate or variant.spec.rate_for(size_of_model(model) or TUNED_ON)
    rates = [replace(variant, learning_rate=one) for one in around(rate) if one != rate]
    found: dict[str, Variant] = {}
    for one in (variant, *rates, *_sizes(variant, shape_of_model(model))):
        found.setdefault(one.label, one)
    return list(found.values())


def _sizes(variant: Variant, shape: ModelShape | None) -> Iterator[Variant]:
    if shape is None or variant.spec.size is None:
        return
    own = trainable_parameters(variant, shape) or 0
    for factor in SIZES:
        (match,) = match_parameters([variant], shape, round(own * factor))
        if not match.reason:
            yield match.variant


def that_apply(request: SweepRequest) -> tuple[list[Variant], list[LeftOut]]:
    """The variants that can be trained on the request's model, and the others."""
    wrong = [(variant, why.message) for variant, why in incompatible_variants(request)]
    left_out = [LeftOut(variant, reason) for variant, reason in wrong]
    names = {one.variant.label for one in left_out}
    return [one for one in request.variants if one.label not in names], left_out


def that_fit(
    request: SweepRequest,
    predictor: Predictor,
    runs: Iterable[Run],
    has_left: Callable[[], bool] = lambda: False,
) -> tuple[list[Variant], list[LeftOut]]:
    """The variants that are predicted to fit the device or the request's limit, and the others.

    A prediction takes seconds unless it is kept. What cannot be predicted is taken to fit: its
    runs are held to the limit in any case.
    """
    try:
        asked = costing(request)
    except FtlabError:
        return list(request.variants), []
    card, seen = _held_to(asked.card, request.memory_limit), calibration(runs, asked.device)
    fitting, left_out = list[Variant](), list[LeftOut]()
    for variant, question in zip(asked.variants, asked.questions, strict=True):
        try:
            ((_, answer),) = predictor.ask([question], has_left=has_left)
        except FtlabError:
            fitting.append(variant)
            continue
        band = seen.band(variant.method)
        needed = answer.peak_reserved_bytes
        if needed is None or verdict(answer, band, card) != "does not fit":
            fitting.append(variant)
        else:
            needed = round(band.low * needed) + card.context_bytes
            left_out.append(
                LeftOut(
                    variant,
                    f"it needs {format_bytes(needed)} or more, and may take "
                    f"{format_bytes(card.memory_bytes)}",
                )
            )
    return fitting, left_out


def _held_to(card: Card, limit: int | None) -> Card:
    return card if limit is None else replace(card, memory_bytes=min(limit, card.memory_bytes))


def in_turn(methods: Sequence[Variant]) -> list[Variant]:
    """One method of each family, then another of each: where time is short, every kind is tried.

    Within a family those come first that the page offers first (`CORE`).
    """
    families: dict[str, list[Variant]] = {}
    for variant in sorted(methods, key=lambda one: one.method not in CORE):
        families.setdefault(variant.spec.family, []).append(variant)
    rounds = zip_longest(*families.values())
    return [variant for one_round in rounds for variant in one_round if variant is not None]


def all_candidates(methods: Sequence[Variant], model: str) -> tuple[list[Variant], tuple[int, ...]]:
    """The methods at their defaults, then their neighbours; and the places of the former."""
    groups = [neighbours(variant, model) for variant in in_turn(methods)]
    defaults = [group[0] for group in groups]
    others = [variant for group in groups for variant in group[1:]]
    return [*defaults, *others], tuple(range(len(defaults)))
