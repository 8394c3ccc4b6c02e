"""Turns the fields of the Plan tab into questions for the predictor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftlab.basics.cards import HERE, Card, cards
from ftlab.basics.devices import list_devices
from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.basics.units import format_bytes
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.methods.registry import CORE, METHODS, on_base
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import catalogue, known_model
from ftlab.prediction.question import USUAL_CAPABILITY, Question, Step, Target, ask_about
from ftlab.prediction.source import NamedConfig, find_config
from ftlab.settings.schema import fields_of, read_settings

LENGTHS = (256, 512, 1024, 2048, 4096)
"""Sequence lengths of the chart, up to the model's maximum number of positions."""


@dataclass(frozen=True)
class Plan:
    """What the fields ask for: `chosen` is the headline's question, `others` those by method id."""

    model: NamedConfig
    card: Card
    chosen: Question
    others: Mapping[str, Question]

    @property
    def label(self) -> str:
        return self.chosen.variant.label

    @property
    def rows(self) -> list[tuple[str, str]]:
        """(id, label) of every method in the plan, the chosen one first."""
        return [(method, METHODS[method].label) for method in self.questions]

    @property
    def questions(self) -> dict[str, Question]:
        return {self.chosen.variant.method: self.chosen} | dict(self.others)


def model_choices() -> list[tuple[str, str]]:
    """Returns (label, id) of the models in the catalogue."""
    return [(model.label, model.id) for model in catalogue()]


def card_choices() -> list[tuple[str, str]]:
    """Returns (label, id) of this machine's GPU, if any, then of all cards by kind and year."""
    gpus = [device for device in list_devices() if device.is_gpu]
    here = [(f"This machine: {device.label}", HERE) for device in gpus[:1]]
    table = sorted(cards(), key=lambda card: (card.kind, -(card.year or 0), card.label))
    return here + [
        (f"{card.label}, {format_bytes(card.memory_bytes)}, {card.year}", card.id) for card in table
    ]


def method_choices() -> list[tuple[str, str]]:
    return [(method.label, method.id) for method in METHODS.values()]


PREFIX = "plan_"
"""Prefix of this tab's field names; without it they equal those of Experiment."""


def read_plan(given: Mapping[str, Any], access: Access = EVERYTHING) -> Plan:
    """Builds the plan from the fields; raises `InvalidRequest` with every invalid field."""
    errors: list[FieldError] = []
    target = Target(**read_settings(Target, given, errors, PREFIX))
    step = Step(**read_settings(Step, given, errors, PREFIX))
    model = None
    try:
        model = _named_config(
            str(given.get(f"{PREFIX}config") or "").strip() or str(target.model), access
        )
    except FtlabError as error:
        errors.append(FieldError(f"{PREFIX}model", str(error)))
    if model is None or target.card is None or errors:
        raise InvalidRequest(errors)
    step = replace(step, capability=target.card.capability or USUAL_CAPABILITY)
    methods = list(dict.fromkeys([str(given[f"{PREFIX}method"]), *CORE]))
    try:
        questions = ask_about(model.config, [Variant(method) for method in methods], step)
    except InvalidRequest as error:
        raise InvalidRequest(
            [FieldError(PREFIX + wrong.field, wrong.message) for wrong in error.errors]
        ) from None
    asked = dict(zip(methods, questions, strict=True))
    return Plan(model, target.card, asked.pop(methods[0]), asked)


def _named_config(text: str, access: Access) -> NamedConfig:
    """Calls `find_config` if the visitor may name that model; checks access before any file."""
    name = text.strip()
    if name and not name.startswith("{") and known_model(name) is None:
        access.check_model(name)
    return find_config(name)


def curve_questions(plan: Plan) -> list[tuple[str, int, Question]]:
    """Returns (method, length, question) for the chart, ordered by length, then by method."""
    most = _positions(plan.model)
    lengths = [length for length in LENGTHS if length <= most] or [min(LENGTHS[0], most)]
    return [
        (method, length, replace(question, step=_at(question.step, length)))
        for length in lengths
        for method, question in plan.questions.items()
    ]


def _at(step: Step, length: int) -> Step:
    kept = step.completion_tokens
    return replace(
        step, length=length, completion_tokens=None if kept is None else min(kept, length - 1)
    )


def _positions(model: NamedConfig) -> int:
    for name in ("max_position_embeddings", "n_positions"):
        value = model.config.get(name)
        if isinstance(value, int) and value > 0:
            return value
    return LENGTHS[-1]


STEP, TARGET = fields_of(Step), fields_of(Target)
CHANGED_BY_A_FIX = (
    "method", "length", "batch", "accumulation", "checkpointing", "completion_tokens",
)  # fmt: skip


def changed_fields(question: Question) -> dict[str, Any]:
    """Returns `CHANGED_BY_A_FIX` for this question; LoRA on a 4-bit base becomes QLoRA."""
    variant = question.variant
    method = variant.method
    if variant.base is not None:
        method = on_base(method, variant.base) or method
    step = {name: STEP[name] for name in CHANGED_BY_A_FIX if name in STEP}
    return {"method": method} | {
        name: described.written(getattr(question.step, name)) for name, described in step.items()
    }
