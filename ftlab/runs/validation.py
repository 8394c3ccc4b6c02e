"""One check of a request, for page, command line and API alike."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ftlab.devices import resolve_device
from ftlab.errors import FieldError, FtlabError
from ftlab.methods.variant import validate_variant
from ftlab.models.reference import parse_model
from ftlab.runs.spec import (
    DTYPE_POLICIES,
    OPTIMIZERS,
    SCHEDULES,
    SweepRequest,
    TrainingSettings,
)
from ftlab.tasks.reference import validate as validate_task

_WHOLE = {
    "steps": ("Steps", 1, 1_000_000),
    "batch_size": ("Batch size", 1, 4096),
    "accumulation": ("Accumulation", 1, 4096),
    "max_length": ("Maximum length", 16, 1_000_000),
    "warmup_steps": ("Warm-up steps", 0, 1_000_000),
    "eval_examples": ("Held-out examples", 1, 100_000),
}
_REAL = {
    "weight_decay": ("Weight decay", 0.0, 10.0),
    "max_grad_norm": ("Gradient clip", 0.0, 1e6),
}


def validate(request: SweepRequest) -> list[FieldError]:
    """Every wrong field with a sentence that names the value, the rule and the way out."""
    return [
        *_model(request),
        *validate_task(request.task),
        *_variants(request),
        *validate_settings(request.settings),
        *_device(request),
        *_choices(request),
        *_seeds(request),
    ]


def validate_settings(settings: TrainingSettings) -> list[FieldError]:
    errors = []
    for name, (label, low, high) in (_WHOLE | _REAL).items():
        value = getattr(settings, name)
        if not math.isfinite(value) or not low <= value <= high:
            message = (
                f"{label} is {_plain(value)}; it must lie between {_plain(low)} and {_plain(high)}."
            )
            errors.append(FieldError(f"settings.{name}", message))
    rate = settings.learning_rate
    if rate is not None and not (math.isfinite(rate) and 0 < rate <= 10):
        errors.append(
            FieldError(
                "settings.learning_rate",
                f"Learning rate is {rate:g}; it must be above 0 and at most 10, "
                "or left empty for each method's own.",
            )
        )
    return errors


def _plain(value: float) -> str:
    """1000000 -> "1,000,000"; 0.5 -> "0.5"."""
    return f"{int(value):,}" if math.isfinite(value) and value == int(value) else f"{value:g}"


def _model(request: SweepRequest) -> Iterator[FieldError]:
    try:
        parse_model(request.model)
    except FtlabError as error:
        yield FieldError("model", str(error))


def _variants(request: SweepRequest) -> Iterator[FieldError]:
    if not request.variants:
        yield FieldError("variants", "No method is chosen; choose at least one.")
    seen = set()
    for variant in request.variants:
        errors = validate_variant(variant)
        yield from errors
        if not errors and variant.label in seen:
            yield FieldError("variants", f"{variant.label} is in the sweep twice; name it once.")
        elif not errors:
            seen.add(variant.label)


def _device(request: SweepRequest) -> Iterator[FieldError]:
    try:
        resolve_device(request.device)
    except FtlabError as error:
        yield FieldError("device", str(error))


def _choices(request: SweepRequest) -> Iterator[FieldError]:
    for field, value, known in (
        ("dtype_policy", request.dtype_policy, DTYPE_POLICIES),
        ("settings.schedule", request.settings.schedule, SCHEDULES),
        ("settings.optimizer", request.settings.optimizer, OPTIMIZERS),
    ):
        if not isinstance(value, str) or value not in known:
            yield FieldError(field, f"'{value}' is none of: {', '.join(known)}.")


def _seeds(request: SweepRequest) -> Iterator[FieldError]:
    seeds = request.seeds
    if not seeds:
        yield FieldError("seeds", "No seed is given; give at least one, as in 0 or 0,1,2.")
    if len(set(seeds)) != len(seeds):
        yield FieldError("seeds", f"Seeds {', '.join(map(str, seeds))} hold one twice.")
    for seed in seeds:
        if not 0 <= seed < 2**32:
            yield FieldError("seeds", f"Seed {seed} must lie between 0 and {2**32 - 1}.")
