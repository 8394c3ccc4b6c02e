"""The largest model of the catalogue that fits a card: found with few questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ftlab.methods.variant import Variant
from ftlab.models.catalogue import KnownModel, catalogue
from ftlab.prediction.fit import Ask
from ftlab.prediction.question import Prediction, Question

_FAMILIES_APART = 0.1
"""How far two models of one size may differ in memory by their family: by their vocabulary, say."""

_WEIGHT_BYTES = {"nf4": 0.5, "int8": 1.0}


@dataclass(frozen=True)
class Largest:
    """A model that fits, with what was predicted of it."""

    model: KnownModel
    prediction: Prediction


def on_hub(models: Iterable[KnownModel] | None = None) -> list[KnownModel]:
    """The models that can be fetched from the Hub, the largest first; the catalogue's if `None`."""
    found = catalogue() if models is None else models
    return sorted((m for m in found if m.is_on_hub), key=lambda m: m.parameters, reverse=True)


def largest_that_fits(
    models: Sequence[KnownModel],
    question: Callable[[KnownModel], Question],
    ask: Ask,
    fits: Callable[[Prediction], bool],
    usable_bytes: int,
) -> Largest | None:
    """The first of the models, which are sorted largest first, whose step is predicted to fit.

    A model is passed over unasked where its weights alone do not fit, or where it would take more
    than the card has if its memory were in proportion to that of a larger one that was asked: a
    smaller model takes more than its share. `None` where none fits. Raises what `ask` raises.
    """
    per_parameter = 0.0
    for model in models:
        asked = question(model)
        least = max(_weight_bytes(asked), per_parameter) * model.parameters
        if least * (1 - _FAMILIES_APART) > usable_bytes:
            continue
        for _, answer in ask([asked]):
            if answer.peak_reserved_bytes is None:
                continue
            if fits(answer):
                return Largest(model, answer)
            per_parameter = answer.peak_reserved_bytes / model.parameters
    return None


def _weight_bytes(question: Question) -> float:
    """Bytes of a weight of the base."""
    variant: Variant = question.variant
    if variant.base_precision is not None:
        return _WEIGHT_BYTES[variant.base_precision]
    return 4.0 if question.step.weights == "fp32" else 2.0
