"""From a step and some variants to one question each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ftlab.errors import FieldError, InvalidRequest
from ftlab.methods.by_hand import PEFT
from ftlab.methods.spec import BasePrecision
from ftlab.methods.variant import Variant, validate_variant
from ftlab.nvml import FIRST_WITH_BF16
from ftlab.prediction.question import Packing, Question, Step

MAX_LENGTH, MAX_BATCH, MAX_ACCUMULATION = 1_000_000, 4_096, 4_096

_PACKED_AS: dict[BasePrecision, Packing] = {"nf4": "nf4-double", "int8": "int8"}
"""How a run packs its base: in 4 bits with double quantisation."""


def ask_about(config: Mapping[str, Any], variants: Sequence[Variant], step: Step) -> list[Question]:
    """A question for each variant, its base packed as it asks for itself, else as the step says.

    Raises `InvalidRequest` with every wrong value.
    """
    asked = [_on_base(variant, step.packing) for variant in variants]
    errors = validate_step(step) + [
        error
        for variant in asked
        if variant.method != PEFT.id  # PEFT judges it as it is laid over the model
        for error in validate_variant(variant)
    ]
    if not variants:
        errors.append(FieldError("variants", "No method is named; name one, as in lora."))
    if errors:
        raise InvalidRequest(errors)
    return [Question(dict(config), variant, _step_of(variant, step)) for variant in asked]


def validate_step(step: Step) -> list[FieldError]:
    """Every number of the step that makes no sense."""
    bounds = {
        "length": (step.length, 1, MAX_LENGTH, "tokens"),
        "batch": (step.batch, 1, MAX_BATCH, "rows"),
        "accumulation": (step.accumulation, 1, MAX_ACCUMULATION, "batches"),
    }
    errors = [
        FieldError(name, f"{name} is {value}; it must be {low} to {high:,} {unit}.")
        for name, (value, low, high, unit) in bounds.items()
        if not low <= value <= high
    ]
    kept = step.completion_tokens
    if kept is not None and not 1 <= kept <= max(1, step.length - 1):
        errors.append(
            FieldError(
                "completion_tokens",
                f"completion tokens are {kept}; of {step.length} tokens a row 1 to "
                f"{max(1, step.length - 1)} can carry loss.",
            )
        )
    return errors


def _on_base(variant: Variant, packing: Packing | None) -> Variant:
    """The variant on a base in fewer bits where the step asks for it and it has none itself."""
    if packing is None or variant.base_precision is not None:
        return variant
    base: BasePrecision = "int8" if packing == "int8" else "nf4"
    return replace(variant, base=base)


def _step_of(variant: Variant, step: Step) -> Step:
    """The step as a run of the variant takes it: its base packed, its weights of a type that the
    card computes in.

    A card without bf16 computes ftlab's own step in fp16, and holds weights that learn in fp32
    (`models.loading.weight_dtype`).
    """
    step = replace(step, packing=_packing(variant, step.packing))
    if not step.is_own or step.device != "cuda" or step.capability >= FIRST_WITH_BF16:
        return step
    if step.weights == "fp32":
        return step
    if variant.spec.is_adapter:
        return replace(step, weights="fp16")
    return replace(step, weights="fp32", mixed=True)


def _packing(variant: Variant, asked: Packing | None) -> Packing | None:
    precision = variant.base_precision
    if precision is None:
        return None
    if asked is not None and asked.startswith(precision):
        return asked
    return _PACKED_AS[precision]
