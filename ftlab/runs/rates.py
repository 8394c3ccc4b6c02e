"""The learning rate that a run trains with where nobody sets one: decided once, and recorded.

It is decided as the sweep is planned, from the model's config (`MethodSpec.rate_for`). A Hub model
that is not on this machine yet leaves it to the run's worker, which has the config by then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ftlab.methods.rates import ModelSize, size_of
from ftlab.methods.variant import Variant
from ftlab.models.size import is_bundled, size_of_model
from ftlab.runs.spec import UNDECIDED, DefaultRate, RunSpec
from ftlab.settings.training import TrainingSettings
from ftlab.words import rate_name


def default_rate(
    variant: Variant | None, settings: TrainingSettings, size: ModelSize | None
) -> DefaultRate | None:
    """What a new spec holds as `default_rate`; `size` is `None` where the config is not here."""
    if variant is None or variant.learning_rate or settings.learning_rate:
        return None
    return UNDECIDED if size is None else variant.spec.rate_for(size)


def rate_of(variant: Variant, settings: TrainingSettings, size: ModelSize | None) -> float | None:
    """The rate that the variant would train with; `None` where it is not known yet."""
    default = default_rate(variant, settings, size)
    if default is None:
        return variant.learning_rate or settings.learning_rate
    return None if default == UNDECIDED else default


def decided(spec: RunSpec, config: Mapping[str, Any]) -> RunSpec:
    """The spec with its rate, where that was left to whoever has the model's config.json."""
    if spec.default_rate != UNDECIDED:
        return spec
    return replace(spec, default_rate=default_rate(spec.variant, spec.settings, size_of(config)))


def asked_again(spec: RunSpec) -> Variant | None:
    """The variant that a new request names to get this run's rate once more.

    It is the run's own, with the rate set where the method's own would be another one today: the
    run comes from another version of ftlab, or its model is no longer here to say.
    """
    variant, rate = spec.variant, spec.learning_rate
    if variant is None or rate is None:
        return variant
    today = rate_of(variant, spec.settings, size_of_model(spec.model))
    return variant if today == rate else replace(variant, learning_rate=rate)


def rate_words(spec: RunSpec) -> str:
    """The run's rate for people, and whether it was tuned on the run's model."""
    rate = rate_name(spec.learning_rate)
    if spec.default_rate is None or is_bundled(spec.model):
        return rate
    if spec.default_rate == UNDECIDED:
        return "the method's own, known once the model is fetched"
    return f"{rate}, the method's own for this size, not tuned on this model"
