"""What the table of methods says of the chosen model: what each trains on it, or why it cannot."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ftlab.methods.fit import unfit
from ftlab.methods.registry import METHODS
from ftlab.methods.targets import reach_words
from ftlab.methods.variant import Variant, trainable_parameters
from ftlab.models.shape import shape_of_model
from ftlab.models.size import size_of_model
from ftlab.runs.rates import rate_of
from ftlab.runs.spec import SweepRequest
from ftlab.runs.validation import device_of
from ftlab.ui.html import escape
from ftlab.units import DASH, format_count
from ftlab.words import rate_name


@dataclass(frozen=True)
class MethodFacts:
    """By method id: trainable parameters for people, and a sentence where it does not go.

    `reach` says what of the model it is laid over, where that is not plain. `rates` is the learning
    rate that it would be trained with, `own` the one that it has where nobody sets any.
    """

    counts: dict[str, str]
    reasons: dict[str, str]
    reach: dict[str, str]
    rates: dict[str, str]
    own: dict[str, str]

    def html(self) -> str:
        """What the browser writes into the table (`assets/methods.js`)."""
        facts = json.dumps(asdict(self), sort_keys=True)
        return f'<span id="method-facts" data-facts="{escape(facts)}"></span>'


def method_facts(request: SweepRequest) -> MethodFacts:
    """Of every method: as the request has it, or as its defaults are.

    What is wrong with a value of the request is not among the reasons: that is said at its field.
    """
    shape, size = shape_of_model(request.model), size_of_model(request.model)
    device_id = device_of(request)
    chosen: dict[str, Variant] = {}
    for variant in request.variants:
        chosen.setdefault(variant.method, variant)
    counts, reasons, reach, rates, own = {}, {}, {}, {}, {}
    for method_id, method in METHODS.items():
        variant = chosen.get(method_id, Variant(method_id))
        rates[method_id] = rate_name(rate_of(variant, request.settings, size))
        own[method_id] = "" if size is None else rate_name(method.rate_for(size))
        found = unfit(variant, shape, request.settings, device_id)
        if found is None:
            count = None if shape is None else trainable_parameters(variant, shape)
            counts[method_id] = format_count(count)
            said = "" if shape is None else reach_words(method, shape, variant.values())
            if said:
                reach[method_id] = said
        else:
            counts[method_id] = DASH
            if found.not_applicable or method_id not in chosen:
                reasons[method_id] = _beside(variant.spec.label, found.message)
    return MethodFacts(counts, reasons, reach, rates, own)


def _beside(label: str, message: str) -> str:
    """The sentence without the method's name, beside which it stands."""
    rest = message.removeprefix(f"{label}: ")
    return rest[:1].upper() + rest[1:]
