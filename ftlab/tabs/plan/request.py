"""Turns the fields of the Plan tab into questions for the predictor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ftlab.basics.cards import HERE, Card, cards, find_card
from ftlab.basics.devices import list_devices
from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.basics.files import person_path
from ftlab.basics.units import format_bytes
from ftlab.basics.words import shorten, shown_name
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.methods.registry import CORE, METHODS, get_method, on_base
from ftlab.methods.variant import Variant
from ftlab.models.dimensions import catalogue, known_model
from ftlab.models.reference import is_hub_id
from ftlab.prediction.question import (
    Question,
    Step,
    Target,
    ask_about,
    validate_step,
)
from ftlab.prediction.rows import capability_of
from ftlab.prediction.source import NamedConfig, find_config
from ftlab.settings.schema import fields_of, read_settings

STEP, TARGET = fields_of(Step), fields_of(Target)
ON_FORM = {name: described for name, described in STEP.items() if described.setting.is_on_form}

START: dict[str, Any] = {
    name: described.written(described.default) for name, described in ON_FORM.items()
} | {
    "model": "meta-llama/Llama-3.1-8B", "card": "rtx-4090", "price": "", "method": "lora",
    "length": 896,
    "checkpointing": True,
}  # fmt: skip
"""The values of a new form: on a card of 24 GB LoRA is tight, QLoRA fits, full does not fit."""

ADDRESS = ("model", "card", "price", "method", *ON_FORM)
"""The parameters of the tab's address, as its fields without `PREFIX`."""

LENGTHS = (256, 512, 1024, 2048, 4096)
"""Sequence lengths of the chart, up to the model's maximum number of positions."""


@dataclass(frozen=True)
class Plan:
    """What the fields ask for: `chosen` is the headline's question, `others` those by method id."""

    model: NamedConfig
    card: Card
    price: float | None
    step: Step
    chosen: Question
    others: Mapping[str, Question]
    model_name: str = ""
    """The model's id in the catalogue or on the Hub; "" for a pasted config or a folder."""
    link: Mapping[str, str] | None = None
    """The parameters of its address that are not those of `START`; `None` if it cannot have one."""

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
        model = named_config(
            str(given.get(f"{PREFIX}config") or "").strip() or str(target.model), access
        )
    except FtlabError as error:
        errors.append(FieldError(f"{PREFIX}model", str(error)))
    errors += [
        FieldError(f"{PREFIX}price", problem) for problem in TARGET["price"].problems(target.price)
    ]
    if model is None or target.card is None or errors:
        raise InvalidRequest(errors)
    step = replace(step, capability=capability_of(target.card))
    methods = list(dict.fromkeys([str(given[f"{PREFIX}method"]), *CORE]))
    try:
        questions = ask_about(model.config, [Variant(method) for method in methods], step)
    except InvalidRequest as error:
        raise InvalidRequest(
            [FieldError(PREFIX + wrong.field, wrong.message) for wrong in error.errors]
        ) from None
    asked = dict(zip(methods, questions, strict=True))
    chosen = asked.pop(methods[0])
    name = linked_model(given) or ""
    return Plan(model, target.card, target.price, step, chosen, asked, name, link_of(given))


def named_config(text: str, access: Access) -> NamedConfig:
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


CHANGED_BY_A_FIX = (
    "method", "length", "batch", "accumulation", "checkpointing", "completion_tokens", "shard",
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


def linked_model(given: Mapping[str, Any]) -> str | None:
    """Returns the model of the fields as an address names it.

    `None` if no address can: a pasted config is too long, and a folder is only on this machine.
    """
    if str(given.get(f"{PREFIX}config") or "").strip():
        return None
    name = str(given.get(f"{PREFIX}model") or "").strip()
    known = known_model(name)
    if known is not None:
        return known.id
    return name if _is_on_hub(name) else None


def link_of(given: Mapping[str, Any]) -> dict[str, str] | None:
    """Returns the parameters of the address that opens valid fields, without those of `START`.

    `None` as for `linked_model`.
    """
    model = linked_model(given)
    if model is None:
        return None
    values = {name: given.get(PREFIX + name) for name in ADDRESS} | {"model": model}
    written = {name: _in_link(value) for name, value in values.items()}
    return {name: text for name, text in written.items() if text != _in_link(START[name])}


def _in_link(value: Any) -> str:
    if isinstance(value, bool):
        return _SWITCH[value]
    if isinstance(value, float) and value == int(value):
        value = int(value)  # as gradio sends some whole numbers
    return "" if value is None else str(value).strip()


_SWITCH = {True: "on", False: "off"}
_LONGEST_SENTENCE = 200


def read_link(
    asked: Mapping[str, str | None], access: Access = EVERYTHING
) -> tuple[dict[str, Any], list[str]]:
    """Returns the field values, by name with `PREFIX`, for the parameters of an address.

    A parameter that is missing or wrong gets its value of `START`. The list has a sentence for each
    wrong one. Opens no file and asks nobody.
    """
    values, wrong = dict(START), dict[str, str]()
    for name, text in asked.items():
        try:
            if text:
                values[name] = _from_link(name, text, access)
        except FtlabError as error:
            wrong[name] = str(error)
    read = {name: described.read(values[name]) for name, described in ON_FORM.items()}
    for each in validate_step(Step(**read)):
        values[each.field] = START[each.field]
        wrong[each.field] = each.message
    fields = {PREFIX + name: value for name, value in values.items()}
    return fields | {f"{PREFIX}config": ""}, [
        shorten(words, _LONGEST_SENTENCE) for words in wrong.values()
    ]


def _from_link(name: str, text: str, access: Access) -> Any:
    """Returns the value of a field; raises `FtlabError` if the text is none."""
    if name == "model":
        return _model_from_link(text.strip(), access)
    if name == "card":
        return find_card(text).id
    if name == "method":
        method = get_method(text).id
        if method not in METHODS:
            raise FtlabError(f"The method '{method}' has no settings in an address.")
        return method
    described = TARGET[name] if name == "price" else ON_FORM[name]
    if described.kind == "switch":
        given: Any = next((value for value, word in _SWITCH.items() if word == text), text)
        return described.written(described.read(given))
    value = described.read(text)
    for problem in described.problems(value):
        raise FtlabError(problem)
    return described.written(value)


def _model_from_link(text: str, access: Access) -> str:
    known = known_model(text)
    if known is not None:
        return known.id
    if not _is_on_hub(text):
        raise FtlabError(
            f"'{shown_name(text)}' is no model for an address, which names one of the catalogue or "
            "of the Hub."
        )
    access.check_model(text)
    return text


def _is_on_hub(name: str) -> bool:
    """Whether the name is a Hub id, and no file or folder here, which `find_config` would read."""
    return is_hub_id(name) and not person_path(name).exists()
