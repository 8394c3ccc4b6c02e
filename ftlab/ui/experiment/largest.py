"""Proposes, on a GPU with a way to the Hub, the largest model whose LoRA fits what is free."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ftlab.access import Access
from ftlab.devices import list_devices, resolve_device
from ftlab.errors import FtlabError
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant
from ftlab.models.catalogue import KnownModel, catalogue
from ftlab.prediction.calibration import Band, calibration
from ftlab.prediction.cards import Card
from ftlab.prediction.fit import Ask
from ftlab.prediction.largest import Largest, largest_that_fits, on_hub
from ftlab.prediction.question import Prediction, Question
from ftlab.runs.spec import SweepRequest
from ftlab.ui.context import AppContext
from ftlab.ui.experiment.costs import Costing, costing, verdict
from ftlab.ui.html import escape
from ftlab.units import format_bytes

_METHOD = "lora"


@dataclass(frozen=True)
class Proposal:
    """The model that is proposed, and the device that it fits."""

    largest: Largest
    band: Band
    card: Card


def may_propose(access: Access) -> bool:
    """Whether a page of this machine ever proposes a model: it takes a GPU and a way to the Hub."""
    may_use = access.may_train and access.may_ask_hub
    return may_use and any(device.is_cuda for device in list_devices())


def propose(request: SweepRequest, context: AppContext, ask: Ask) -> Proposal | None:
    """The largest model of the catalogue whose LoRA fits what is free on the form's device.

    LoRA is the form's first variant of it, else with its defaults, under the form's settings.
    `None` without a GPU, without the Hub, where no model fits, or nothing can be predicted. May
    take seconds.
    """
    try:
        device = resolve_device(request.device)
        if not device.is_cuda or not context.hub.is_reached():
            return None
        models = on_hub()
        card = _costing(request, models[0]).card
        band = calibration(context.store.runs(), device).band(_METHOD)

        def fits(answer: Prediction) -> bool:
            return answer.peak_reserved_bytes is not None and verdict(answer, band, card) == "fits"

        def question(model: KnownModel) -> Question:
            return _costing(request, model).questions[0]

        found = largest_that_fits(models, question, ask, fits, card.usable_bytes)
    except FtlabError:
        return None  # what is wrong is said where the chosen model's own costs are predicted
    return None if found is None else Proposal(found, band, card)


def proposal_html(proposal: Proposal | None, chosen: str) -> str:
    """The proposal, and the button that chooses it; empty where there is none.

    `chosen` is the model that the form names.
    """
    if proposal is None or proposal.largest.model.id == chosen:
        return ""
    model, peak = proposal.largest.model, proposal.largest.prediction.peak_reserved_bytes or 0
    needs = format_bytes(round(proposal.band.high * peak))
    free = format_bytes(proposal.card.memory_bytes)
    what = f"{METHODS[_METHOD].label} with the settings below takes up to {needs} of {free} free"
    return (
        f'<p class="largest"><span title="{escape(what)} on {escape(proposal.card.label)}">'
        f"Largest that fits this GPU: <b>{escape(model.label)}</b></span>"
        f'<button type="button" class="ghost" data-choose="{escape(model.id)}" '
        f'aria-label="Choose {escape(model.label)}">Choose</button></p>'
    )


def proposable(model_id: str) -> bool:
    """Whether it is a model that could have been proposed."""
    return any(model.id == model_id and model.is_on_hub for model in catalogue())


def _costing(request: SweepRequest, model: KnownModel) -> Costing:
    """What a run of the form's LoRA on that model is asked to take."""
    variants = [variant for variant in request.variants if variant.method == _METHOD]
    variant = variants[0] if variants else Variant(_METHOD)
    return costing(replace(request, model=model.id, variants=(variant,)))
