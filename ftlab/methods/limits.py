"""Checks whether a variant can be trained, and matches variants to a parameter budget.

Both need only the model's dimensions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, NoReturn

from ftlab.basics import units
from ftlab.basics.devices import CPU, kind_of
from ftlab.basics.errors import FtlabError, NotApplicable
from ftlab.methods.capabilities import capabilities, why_not_offered
from ftlab.methods.dimensions import ModelShape
from ftlab.methods.spec import Hyperparameter, MethodSpec, Misfit, Value, Values
from ftlab.methods.targets import misfit, reached_experts, target_names, trained_parameters
from ftlab.methods.variant import (
    Variant,
    parse_variant,
    trainable_parameters,
    validate_variant,
    with_setting,
)

if TYPE_CHECKING:
    from ftlab.settings.training import TrainingSettings


_QUANTISERS = ("bitsandbytes",)


@dataclass(frozen=True)
class Incompatible:
    """Why a variant cannot run. `field` is the field to change ("lora.r"), "" if none would help.

    If `not_applicable`, the method does not work with the model, the installed versions or the
    sweep's settings, and a sweep skips it. Otherwise a value is invalid, and the request fails.
    """

    message: str
    field: str = ""
    not_applicable: bool = True

    def refuse(self) -> NoReturn:
        """Raises `NotApplicable` or `FtlabError` with the message."""
        raise (NotApplicable if self.not_applicable else FtlabError)(self.message)


def incompatible(
    variant: Variant, shape: ModelShape | None, settings: TrainingSettings, device_id: str = CPU
) -> Incompatible | None:
    """The first reason why a valid variant cannot be trained; `None` if there is none.

    Without `shape` (a model that is not downloaded yet) the checks that need it are skipped.
    """
    return (
        _not_offered(variant)
        or _not_installed(variant)
        or _not_on_base(variant, device_id)
        or _not_under(variant, settings)
        or not_sharded(variant, settings.shard)
        or (None if shape is None else incompatible_with_model(variant, shape))
        or (None if shape is None else _too_long(variant, shape, settings))
    )


def incompatible_with_model(variant: Variant, shape: ModelShape) -> Incompatible | None:
    """The first reason why the variant cannot be trained on the model, whatever the settings."""
    method, values = variant.spec, variant.values()
    reason = method.applies(shape, values)
    if reason:
        return Incompatible(f"{method.label}: {reason}.")
    found = misfit(method, shape, values) or _dropout_on_experts(method, shape, values)
    if found is None:
        return None
    return Incompatible(f"{method.label}: {found.why}.", f"{method.id}.{found.name}", False)


def _dropout_on_experts(method: MethodSpec, shape: ModelShape, values: Values) -> Misfit | None:
    """PEFT applies LoRA to an expert matrix by adding B·A to the weight, so dropout on the inputs
    is impossible (`ParamWrapper` in peft/tuners/lora/layer.py)."""
    if not values.get("dropout") or not reached_experts(method, shape, values):
        return None
    return Misfit(
        "dropout",
        f"dropout {values['dropout']} is not possible on experts, which PEFT adapts as one matrix; "
        "choose dropout 0, or the layers attention",
    )


def _not_offered(variant: Variant) -> Incompatible | None:
    reason = why_not_offered(variant.method)
    return Incompatible(f"{variant.spec.label}: {reason.rstrip('.')}.") if reason else None


def _not_installed(variant: Variant) -> Incompatible | None:
    needed = variant.spec.requires + (_QUANTISERS if variant.base_precision else ())
    missing = next((name for name in needed if find_spec(name) is None), None)
    if missing is None:
        return None
    return Incompatible(
        f"{variant.spec.label} needs the package {missing}, which is not installed; "
        f"install it with pip install {missing}, and start ftlab again."
    )


def failed_on_base(variant: Variant) -> bool:
    """Whether the probe found that the method does not learn on the variant's quantised base."""
    seen, base = capabilities().get(variant.method), variant.base_precision
    if seen is None or base is None:
        return False
    return (seen.on_4bit if base == "nf4" else seen.on_8bit) is False


def _not_on_base(variant: Variant, device_id: str) -> Incompatible | None:
    """Each kind of device has its own code for quantised bases. The probe ran on a CPU, so its
    result is used for CPUs only."""
    if kind_of(device_id) != CPU or not failed_on_base(variant):
        return None
    base = variant.base_precision
    return Incompatible(
        f"{variant.spec.label} does not learn on a base in {base} with the installed "
        "versions; choose LoRA."
    )


def _not_under(variant: Variant, settings: TrainingSettings) -> Incompatible | None:
    """Checks the sweep's settings: gradient checkpointing and the optimizer."""
    seen, label = capabilities().get(variant.method), variant.spec.label
    if settings.gradient_checkpointing and seen is not None and seen.with_checkpointing is False:
        return Incompatible(
            f"{label} does not learn under gradient checkpointing with the installed versions; "
            f"switch it off, or leave {label} out.",
            "settings.gradient_checkpointing",
        )
    own = variant.spec.optimizer
    if own is not None and own.replaces not in ("", settings.optimizer):
        return Incompatible(
            f"{label} has its own optimizer, {own.what}, and cannot use '{settings.optimizer}'; "
            f"choose {own.replaces}, or leave {label} out.",
            "settings.optimizer",
        )
    return None


def not_sharded(variant: Variant, parts: int) -> Incompatible | None:
    """Why the variant cannot be trained over so many GPUs; `None` if it can."""
    if parts == 1:
        return None
    label, reason = variant.spec.label, variant.spec.not_sharded
    if variant.base_precision is not None:
        reason = "FSDP does not divide a 4-bit or 8-bit base rightly (bitsandbytes issue 1945)"
    if not reason:
        return None
    return Incompatible(
        f"{label} cannot be trained over {parts} GPUs: {reason}; choose 1 GPU in a run, "
        f"or leave {label} out.",
        "settings.shard",
    )


def _too_long(
    variant: Variant, shape: ModelShape, settings: TrainingSettings
) -> Incompatible | None:
    """Soft tokens precede the text and use positions too."""
    name = variant.spec.soft_tokens
    if name is None or shape.positions is None:
        return None
    tokens = int(variant.values()[name])
    if tokens + settings.max_length <= shape.positions:
        return None
    left = shape.positions - settings.max_length
    way_out = f"choose {left:,} or fewer, or a shorter" if left > 0 else "choose a shorter"
    return Incompatible(
        f"{variant.spec.label}: {tokens:,} soft tokens and a maximum length of "
        f"{settings.max_length:,} are more than the model's {shape.positions:,} positions; "
        f"{way_out} maximum length.",
        f"{variant.method}.{name}",
        False,
    )


TOLERANCE = 0.1
"""Maximum deviation from the budget, as a fraction of it, that counts as matched."""

FIELD = "match"
"""Name of the request's field for the budget; if it is empty, nothing is matched."""

_NUMBER = re.compile(
    r"((?:\d{1,3}(?:,\d{3})+|\d{1,15})(?:\.\d{1,15})?(?:e\d{1,2})?)\s*([kmb]?)", re.IGNORECASE
)
_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


@dataclass(frozen=True)
class Match:
    """A variant with its matched size. `parameters` is its trainable count, `None` if unknown.

    `reason` says why the count is not within `TOLERANCE` of the budget; "" if it is.
    """

    variant: Variant
    parameters: int | None
    reason: str = ""


def read_budget(text: str, shape: ModelShape | None) -> int | None:
    """Parses a parameter budget: "2.4M", "500k", "1200000", or a variant such as "lora:r=16".

    `None` for an empty text. Raises `FtlabError` for anything else, and without a `shape`.
    """
    text = text.strip()
    if not text:
        return None
    if shape is None:
        raise FtlabError(
            "Parameters can only be matched on a model that is on this machine; fetch it first "
            "(python -m ftlab model NAME), or leave the budget empty."
        )
    number = _NUMBER.fullmatch(text)
    if number:
        budget = round(float(number[1].replace(",", "")) * _FACTORS[number[2].lower()])
    else:
        budget = _budget_of(text, shape)
    if budget < 1:
        raise FtlabError(
            f"The budget '{text[:40]}' is {budget:,} trainable parameters; it must be at least 1."
        )
    return budget


def _budget_of(text: str, shape: ModelShape) -> int:
    try:
        variant = parse_variant(text)
    except FtlabError as error:
        raise FtlabError(
            f"The budget '{text[:40]}' is neither a number of parameters, as in 2.4M or 500k, nor "
            f"a method, as in lora: {error}"
        ) from None
    wrong = validate_variant(variant)
    found = incompatible_with_model(variant, shape)
    if wrong or found:
        raise FtlabError(wrong[0].message if wrong else found.message if found else "")
    count = trainable_parameters(variant, shape)
    if count is None:
        raise FtlabError(
            f"How many parameters {variant.label} trains is not known before it runs; give the "
            "budget as a number, as in 2.4M."
        )
    return count


def match_parameters(variants: Sequence[Variant], shape: ModelShape, budget: int) -> list[Match]:
    """Replaces each variant's size so that its trainable parameters are closest to the budget.

    Hyperparameters that the method keeps in proportion to its size (such as alpha) follow it.
    """
    return [_match(variant, shape, budget) for variant in variants]


def _match(variant: Variant, shape: ModelShape, budget: int) -> Match:
    if validate_variant(variant):
        return Match(variant, None, "it has a wrong value")
    method = variant.spec
    own = trainable_parameters(variant, shape)
    if own is None:
        return Match(variant, None, "how many it trains is not known before it runs")
    if method.applies(shape, variant.values()):
        return Match(variant, own, "it cannot be trained on this model")
    size = method.hyperparameter(method.size) if method.size else None
    if size is None:
        whole = own == shape.total
        why = "it trains every weight" if whole else "it has nothing to set its size with"
        return Match(variant, own, "" if _near(own, budget) else why)
    values = variant.values()
    sized = [_at_size(method, values, size, value) for value in _sizes(size, values)]
    counted = [(sizes, trained_parameters(method, shape, values | sizes)) for sizes in sized]
    known = [(sizes, count) for sizes, count in counted if count is not None]
    known.sort(key=lambda found: abs(found[1] - budget))
    fitting = (found for found in known if _fits(method, shape, values | found[0]))
    nearest = next(fitting, None)
    if nearest is None:
        return Match(variant, own, f"no {size.label} fits this model")
    sizes, count = nearest
    for name, value in sizes.items():
        variant = with_setting(variant, name, value)
    reason = "" if _near(count, budget) else _limit(size, [nearest, *fitting], budget)
    return Match(variant, count, reason)


def _fits(method: MethodSpec, shape: ModelShape, values: Values) -> bool:
    """Whether the values fit every chosen layer: a match skips no layer and reduces no rank."""
    if misfit(method, shape, values) is not None:
        return False
    if method.limit is None:
        return True
    return all(method.limit.holds(*size, values) for size in shape.sizes(target_names(values)))


def _near(count: int, budget: int) -> bool:
    return abs(count - budget) <= TOLERANCE * budget


def _sizes(size: Hyperparameter, values: Values) -> list[int]:
    """The sizes to try: small ones in steps of 1, larger ones in steps of 1 %."""
    high = int(size.maximum or 1)
    tried = {int(values[size.name]), high}
    value = int(size.minimum or 1)
    while value <= high:
        tried.add(value)
        value = max(value + 1, math.floor(value * 1.01))
    return sorted(tried)


def _at_size(
    method: MethodSpec, values: Values, size: Hyperparameter, value: int
) -> dict[str, Value]:
    """The size set to `value`, and the proportional hyperparameters, each within its range."""
    result: dict[str, Value] = {size.name: value}
    for name in method.in_proportion:
        partner = method.hyperparameter(name)
        assert partner is not None
        scaled = round(float(values[name]) * value / float(values[size.name]))
        low, high = int(partner.minimum or 1), int(partner.maximum or scaled)
        result[name] = min(max(scaled, low), high)
    return result


def _limit(
    size: Hyperparameter, candidates: Sequence[tuple[Mapping[str, Value], int]], budget: int
) -> str:
    """Why the closest size does not match: the range ends, or the steps are too coarse."""
    counts = [count for _, count in candidates]
    low, high = min(counts), max(counts)
    if not low <= budget <= high:
        end, word = (high, "large") if budget > high else (low, "small")
        at = candidates[counts.index(end)][0][size.name]
        return f"{size.label} {at} is as {word} as it gets here, with {units.format_count(end)}"
    below = max(count for count in counts if count <= budget)
    above = min(count for count in counts if count >= budget)
    return f"{size.label} goes in steps: {units.format_count(below)} or {units.format_count(above)}"


def describe(match: Match, budget: int) -> str:
    """One line on how a variant was matched, as in "LoRA r=4: 1.2 M of 1.2 M"."""
    count = "unknown" if match.parameters is None else units.format_count(match.parameters)
    reason = f": {match.reason}" if match.reason else ""
    not_within = ", not within 10 %" if match.reason else ""
    return (
        f"{match.variant.label}: {count} trainable of {units.format_count(budget)}"
        f"{not_within}{reason}"
    )
