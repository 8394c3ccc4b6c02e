"""One check of a request, for page, command line and API alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from ftlab.devices import CPU, resolve_device, why_driver_is_too_old
from ftlab.errors import FieldError, FtlabError
from ftlab.methods.fit import Unfit, unfit
from ftlab.methods.variant import Variant, validate_variant
from ftlab.models.reference import parse_model
from ftlab.models.shape import shape_of_model
from ftlab.runs.spec import SweepRequest
from ftlab.settings.schema import errors_in
from ftlab.settings.training import PREFIX
from ftlab.tasks.reference import validate as validate_task
from ftlab.words import join_names


def validate(request: SweepRequest) -> list[FieldError]:
    """Every wrong field with a sentence that names the value, the rule and the way out."""
    return [
        *_model(request),
        *validate_task(request.task),
        *_variants(request),
        *errors_in(request.settings, PREFIX),
        *errors_in(request),
        *_device(request),
        *_seeds(request),
    ]


def _model(request: SweepRequest) -> Iterator[FieldError]:
    try:
        parse_model(request.model)
    except FtlabError as error:
        yield FieldError("model", str(error))


def unfit_variants(request: SweepRequest) -> list[tuple[Variant, Unfit]]:
    """The variants that cannot be trained on the model under the settings, and why.

    Those with a value that no model would take are left to `validate`. Of a model that is not on
    this machine yet only what does not depend on its shape is known.
    """
    shape, device_id = shape_of_model(request.model), device_of(request)
    return [
        (variant, found)
        for variant in request.variants
        if not validate_variant(variant)
        and (found := unfit(variant, shape, request.settings, device_id)) is not None
    ]


def device_of(request: SweepRequest) -> str:
    """The id of the device that is meant; one that is not there is said by `validate`."""
    try:
        return resolve_device(request.device).id
    except FtlabError:
        return CPU


def not_applicable(request: SweepRequest) -> dict[str, str]:
    """By label, why a variant is left out of the sweep, though nothing in the request is wrong."""
    return {
        variant.label: found.message
        for variant, found in unfit_variants(request)
        if found.not_applicable
    }


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
    found = [why for _, why in unfit_variants(request)]
    none_left = len(found) == len(request.variants) and all(why.not_applicable for why in found)
    for why in found:
        if none_left or not why.not_applicable:
            yield FieldError(why.field or "variants", why.message)


def _device(request: SweepRequest) -> Iterator[FieldError]:
    try:
        device = resolve_device(request.device)
    except FtlabError as error:
        yield FieldError("device", str(error))
        return
    too_old = why_driver_is_too_old() if device.is_cuda else ""
    if too_old:
        yield FieldError("device", f"{device.id}: {too_old} Or choose the device cpu.")


def _seeds(request: SweepRequest) -> Iterator[FieldError]:
    seeds = request.seeds
    if not seeds:
        yield FieldError("seeds", "No seed is given; give at least one, as in 0 or 0,1,2.")
    repeated = [seed for seed, times in Counter(seeds).items() if times > 1]
    if repeated:
        yield FieldError("seeds", _repeated(repeated, Counter(seeds)[repeated[0]]))
    for seed in seeds:
        if not 0 <= seed < 2**32:
            yield FieldError("seeds", f"Seed {seed} must lie between 0 and {2**32 - 1}.")


def _repeated(seeds: list[int], times: int) -> str:
    """As in "Seed 0 is given 3 times; give each seed once, as in 0 or 0,1,2."."""
    if len(seeds) > 1:
        named = join_names([str(seed) for seed in seeds])
        return f"Seeds {named} are given more than once; give each seed once, as in 0,1,2."
    often = "twice" if times == 2 else f"{times} times"
    return f"Seed {seeds[0]} is given {often}; give each seed once, as in 0 or 0,1,2."
