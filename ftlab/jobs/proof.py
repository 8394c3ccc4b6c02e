"""What the proof of a method runs: a probe, ladders of learning rates, and a comparison.

The method is compared with full fine-tuning, and with a LoRA of as many trainable parameters, each
at the best rate of a ladder of the same length, over several seeds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from pydantic import TypeAdapter, ValidationError

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.basics.processes import WorkerEnded, answer_once, module_command
from ftlab.jobs.launch import ValidRequest, checked
from ftlab.jobs.peft_check import check_request, check_variants
from ftlab.jobs.tuning import Ladder, Tuned, around, latest_ladders, tuning_settings
from ftlab.methods.by_hand import PEFT
from ftlab.methods.capabilities import Capability
from ftlab.methods.families.full import FULL
from ftlab.methods.families.lora import LORA
from ftlab.methods.limits import describe, match_parameters
from ftlab.methods.rates import TUNED_ON, two_digits
from ftlab.methods.targets import LAYERS
from ftlab.methods.variant import Variant, trainable_parameters, with_setting
from ftlab.models.dimensions import shape_of_model, size_of_model
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import Run

PROBE = "ftlab.training.probe_worker"
_PROBE_SECONDS = 300.0


def ask_probe(variant: Variant) -> Capability:
    """What the variant can do, seen on a tiny model in another process, in about 20 seconds.

    Raises `FtlabError` if it does not train at all, or the process fails.
    """
    question = json.dumps(asdict(variant))
    try:
        said = answer_once(module_command(PROBE), question, seconds=_PROBE_SECONDS)
        found = TypeAdapter(Capability).validate_json(said)
    except (WorkerEnded, OSError, ValidationError) as error:
        raise FtlabError(f"{variant.label} could not be tried on a tiny model: {error}.") from None
    if not found.trains:
        raise FtlabError(
            f"{variant.label} does not train on a tiny model of 128 numbers in width. "
            f"{found.reason}"
        )
    return found


@dataclass(frozen=True)
class Proof:
    """A method under proof, and those that it is compared with.

    `request` has the three variants without learning rates, the method first; `points` is the
    number of rates in each ladder. `matching` says how LoRA's size was chosen.
    """

    request: ValidRequest
    matching: str
    points: int
    ladders: tuple[Ladder, ...]

    @property
    def method(self) -> Variant:
        return self.request.variants[0]

    def comparison(self, tuned: Sequence[Tuned]) -> ValidRequest:
        """The variants, each at the rate of its ladder; another than the method is left out if its
        ladder suggests none.

        Raises `FtlabError` if that of the method suggests none.
        """
        own = tuned[0].suggestion
        if own.rate is None:
            raise FtlabError(f"{self.method.label} has no learning rate. {_why(tuned[0])}")
        variants = tuple(
            replace(ladder.variant, learning_rate=ladder.suggestion.rate)
            for ladder in tuned
            if ladder.suggestion.rate is not None
        )
        return checked(replace(self.request, variants=variants))

    def left_out(self, tuned: Sequence[Tuned]) -> list[str]:
        """A sentence for each variant that the method is not compared with."""
        return [
            f"{ladder.variant.label} is not compared: it has no learning rate. {_why(ladder)}"
            for ladder in tuned
            if ladder.suggestion.rate is None
        ]


def _why(tuned: Tuned) -> str:
    return " ".join([tuned.suggestion.reason, *tuned.reasons])


def proof_of(variant: Variant, request: SweepRequest, points: int, capability: Capability) -> Proof:
    """Plans the proof on the request's model, which is on this machine.

    A PeftConfig has no tuned rate: without one of its own its ladder lies around the rate at which
    the tiny model learnt. Raises `FtlabError` for what cannot be trained.
    """
    normalised, errors = check_request(checked(replace(request, variants=(variant,))))
    if errors:
        raise InvalidRequest(errors)
    (own,) = normalised.variants
    trained = _trained(own, request)
    lora, matching = _matched_lora(trained, request.model)
    bare = replace(own, learning_rate=None)
    others = [one for one in (lora, Variant(FULL.id)) if one != bare]
    valid = checked(replace(request, variants=(bare, *others)))
    size = size_of_model(request.model) or TUNED_ON
    first = own.learning_rate or own.spec.rate_for(size)
    if own.method == PEFT.id and own.learning_rate is None:
        first = two_digits(first * (capability.rate_factor or 1))
    rates = [first, *(one.spec.rate_for(size) for one in valid.variants[1:])]
    ladders = tuple(
        Ladder(one, around(rate, points)) for one, rate in zip(valid.variants, rates, strict=True)
    )
    return Proof(valid, matching, points, ladders)


def _trained(variant: Variant, request: SweepRequest) -> int | None:
    if variant.method == PEFT.id:
        return check_variants([variant], request)[0].trainable
    shape = shape_of_model(request.model)
    return None if shape is None else trainable_parameters(variant, shape)


def _matched_lora(trained: int | None, model: str) -> tuple[Variant, str]:
    """The LoRA with about as many trained parameters, and the choice in words.

    It is on all layers, or on fewer where even its smallest rank there has too many.
    """
    shape, lora = shape_of_model(model), Variant(LORA.id)
    if shape is None or not trained:
        return lora, f"{lora.label} has its default size: how many parameters to match is not known"
    sizes = [with_setting(lora, LAYERS.name, choice) for choice in LAYERS.choices]
    matches = match_parameters(sizes, shape, trained)
    near = next((match for match in matches if not match.reason), None)
    found = near or min(matches, key=lambda match: abs((match.parameters or 0) - trained))
    return found.variant, describe(found, trained)


def known_ladder(ladder: Ladder, request: SweepRequest, runs: Iterable[Run]) -> Tuned | None:
    """The newest ladder of these rates or more that was run under these settings, if it is done."""
    settings = tuning_settings(request.settings)
    for tuned in latest_ladders(runs):
        spec = tuned.runs[0].spec
        same = (spec.model, spec.task, spec.settings) == (request.model, request.task, settings)
        rates = {point.rate for point in tuned.points}
        if same and tuned.variant == ladder.variant and rates >= set(ladder.rates):
            return tuned if tuned.suggestion.rate is not None else None
    return None


def known_sweep(request: SweepRequest, runs: Iterable[Run]) -> list[RunSpec] | None:
    """The newest sweep of exactly this request of which every run is done or open; else `None`."""
    sweeps: dict[str, list[Run]] = {}
    for run in runs:
        sweeps.setdefault(run.spec.sweep_id, []).append(run)
    asked = {(variant, seed) for variant in map(repr, request.variants) for seed in request.seeds}
    for own in reversed(sweeps.values()):
        trained = [run.spec for run in own if not run.spec.is_base]
        same = all(
            (spec.model, spec.task, spec.settings, spec.dtype_policy)
            == (request.model, request.task, request.settings, request.dtype_policy)
            for spec in trained
        )
        if same and {(repr(spec.variant), spec.seed) for spec in trained} == asked:
            return trained if all(run.is_open or run.status == "done" for run in own) else None
    return None
