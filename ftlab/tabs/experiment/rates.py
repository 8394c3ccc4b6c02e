"""Learning rates in Experiment: the hint for untuned rates, and how to tune them.

Tuning queues a short ladder of rates for each variant as one sweep, evaluated on the task's tuning
examples. When the ladders have ended, the queue shows the suggested rates (`suggested_html`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import rate_name
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.inputs import Access, check_inputs
from ftlab.jobs.launch import not_applicable, same_for_all
from ftlab.jobs.tuning import (
    POINTS,
    Tuned,
    enqueue_ladders,
    further_ladders,
    is_of_ladder,
    ladders_of,
    starting_ladder,
)
from ftlab.methods.rates import NOT_TUNED, how_scaled, what_is_done
from ftlab.methods.registry import METHODS, rates_kept
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import size_of_model
from ftlab.models.reference import kind_of_name, model_label
from ftlab.prediction.source import find_size
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import Run
from ftlab.tabs.context import AppContext
from ftlab.tabs.widgets import escape, named, plural


def untuned_html(request: SweepRequest, access: Access) -> str:
    """A hint that the rates were not tuned on this model, and the button that tunes them; empty for
    the model that they were tuned on."""
    if kind_of_name(request.model) in ("bundled", None):
        return ""
    size = size_of_model(request.model)
    if size is None:
        how = "scaled to its size once it is on this machine"
    else:
        hint = escape(how_scaled(size, rates_kept()))
        how = f'<span tabindex="0" title="{hint}">{what_is_done(size)}</span>'
    count = POINTS * len(variants_to_tune(request))
    button = (
        f'<button type="button" class="ghost" data-tune title="{escape(_TUNE_HINT)}">'
        f"Tune them: {plural(count, 'run')}</button>"
        if access.may_train and count
        else ""
    )
    return f'<p class="untuned"><span>{NOT_TUNED}; they are {how}.</span>{button}</p>'


_TUNE_HINT = (
    f"Trains each ticked method at {POINTS} rates, three times apart, and compares the loss on "
    "tuning examples; the test examples are not used"
)


def variants_to_tune(request: SweepRequest) -> list[Variant]:
    """The request's variants that fit the model, without their own rates and without duplicates."""
    left_out = not_applicable(request)
    fit = [variant for variant in request.variants if variant.label not in left_out]
    found: list[Variant] = []
    for variant in (replace(variant, learning_rate=None) for variant in fit):
        if variant not in found:
            found.append(variant)
    return found


def tune(request: SweepRequest, context: AppContext) -> list[RunSpec]:
    """Queues a ladder for each variant as one sweep, with the first of the request's seeds.

    Raises `FtlabError` if launching is not allowed or the model's config is not available, and
    `InvalidRequest` like a launch does.
    """
    context.access.check_training()
    variants = variants_to_tune(request)
    if not variants:
        raise FtlabError("No method to tune is ticked; tick one that goes with the model.")
    check_inputs(request, context.models)
    size = find_size(request.model)
    ladders = [starting_ladder(variant, size) for variant in variants]
    specs = enqueue_ladders(replace(request, seeds=request.seeds[:1]), ladders, context.runs_folder)
    start_dispatcher(context.runs_folder)
    return specs


def tune_further(sweep_id: str, context: AppContext) -> list[RunSpec]:
    """Adds a rate to each ladder whose best rate is at its end, as further runs of the sweep.

    Raises `FtlabError` if the sweep is not a ladder, is still running, or needs no more rates.
    """
    context.access.check_training()
    runs = [run for run in context.store.runs() if run.spec.sweep_id == sweep_id]
    if not is_tuning(runs):
        raise FtlabError(f"The sweep '{sweep_id[:80]}' is no ladder of learning rates.")
    if any(run.is_open for run in runs):
        raise FtlabError("The ladder is still going; wait until its runs have ended.")
    ladders = further_ladders(ladders_of(runs))
    if not ladders:
        raise FtlabError("Every ladder has its best rate inside; there is none to add.")
    specs = [run.spec for run in runs]
    own = next(spec for spec in specs if not spec.is_base)
    seeds = dict.fromkeys(spec.seed for spec in specs if not spec.is_base)
    request = replace(same_for_all(own), seeds=tuple(seeds))
    added = enqueue_ladders(request, ladders, context.runs_folder, onto=specs)
    start_dispatcher(context.runs_folder)
    return added


def is_tuning(runs: Sequence[Run]) -> bool:
    """Whether the runs are a sweep of ladders, evaluated on tuning examples."""
    return bool(runs) and all(map(is_of_ladder, runs))


def suggested_html(runs: Sequence[Run]) -> str:
    """The suggested rates of an ended tuning sweep, with buttons to apply them; else empty."""
    if not is_tuning(runs) or any(run.is_open for run in runs):
        return ""
    ladders = ladders_of(runs)
    if not ladders:
        return ""
    spec = runs[0].spec
    rows = "".join(
        f"<li><span>{named(tuned.variant.method, tuned.variant.label)}</span>"
        f"<b>{rate_name(tuned.suggestion.rate)}</b><em>{escape(tuned.suggestion.reason)}</em></li>"
        for tuned in ladders
    )
    where = f"on {model_label(spec.model)}, {spec.task.label}"
    return (
        f'<div class="suggested"><h4>Suggested learning rates <small>{escape(where)}</small></h4>'
        f'<ul>{rows}</ul><div class="chips">{_use_button(ladders)}'
        f"{_further_button(ladders, spec.sweep_id)}</div></div>"
    )


def rates_of_form(ladders: Sequence[Tuned]) -> dict[str, str]:
    """The suggested rates by field name, e.g. `lora.learning_rate`: those of each method's first
    variant, which is the one in the table."""
    found: dict[str, str] = {}
    for tuned in ladders:
        rate, method = tuned.suggestion.rate, tuned.variant.method
        if rate is not None and method in METHODS:
            found.setdefault(f"{method}.learning_rate", f"{rate:g}")
    return found


def _use_button(ladders: Sequence[Tuned]) -> str:
    rates = rates_of_form(ladders)
    if not rates:
        return ""
    text = escape(json.dumps(rates))
    return f'<button type="button" class="ghost" data-rates="{text}">Use them in the form</button>'


def _further_button(ladders: Sequence[Tuned], sweep_id: str) -> str:
    count = len(further_ladders(ladders))
    if not count:
        return ""
    return (
        f'<button type="button" class="ghost" data-further="{escape(sweep_id)}">'
        f"Try {plural(count, 'rate')} beyond the ends</button>"
    )
