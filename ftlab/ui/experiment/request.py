"""From the values of a form, or of an API call, to a sweep request. No gradio, no browser.

Every value may be missing, empty, text, or not a number: each becomes a sentence for its field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ftlab.access import EVERYTHING, Access
from ftlab.devices import AUTO
from ftlab.errors import FieldError, FtlabError, InvalidRequest
from ftlab.methods.matching import FIELD as MATCH
from ftlab.methods.matching import Match, match_parameters, read_budget
from ftlab.methods.peft_variants import read_variants
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import MethodSpec
from ftlab.methods.variant import (
    BASE,
    LEARNING_RATE,
    Variant,
    parse_variant,
    validate_variant,
    with_setting,
)
from ftlab.models.shape import shape_of_model
from ftlab.runs.peft_check import FIELD as PEFT_JSON
from ftlab.runs.spec import SweepRequest
from ftlab.runs.validation import validate
from ftlab.settings.schema import is_empty, read_number, read_settings
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.tasks.custom import ColumnMapping
from ftlab.tasks.files import EXTENSIONS
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.registry import TASKS

EXTRA = "extra"
"""Name of the field that holds further variants, one a line."""

NAMED_KINDS = ("folder", "hub")
"""The kinds of model that are named in a field of their own."""

MAPPING_FIELDS = ("prompt", "completion", "messages", "system")


@dataclass(frozen=True)
class Reading:
    """What a form amounts to: the request as far as it could be read, and every wrong field.

    `matches` says how each variant's size was chosen for `budget` trainable parameters; empty where
    nothing is matched.
    """

    request: SweepRequest
    errors: tuple[FieldError, ...]
    matches: tuple[Match, ...] = ()
    budget: int = 0

    def checked(self) -> SweepRequest:
        """The request; raises `InvalidRequest` if any field is wrong."""
        if self.errors:
            raise InvalidRequest(list(self.errors))
        return self.request


def read_form(values: Mapping[str, Any], access: Access = EVERYTHING) -> Reading:
    """`read_request` on the page's form: it also says which model, task and methods are meant."""
    methods = values.get("methods") or []
    methods = methods if isinstance(methods, list | tuple) else [methods]
    named = [str(method)[:80] for method in methods]  # what is no name is said to be no method
    return read_request(read_model(values), read_task(values), named, values, access)


def read_model(values: Mapping[str, Any]) -> str:
    """The model's name as `parse_model` reads it.

    The field of its kind takes a name of its own too: what is typed there is no kind but the model.
    """
    kind, name = values.get("model", "bundled"), str(values.get("model_name") or "").strip()
    if kind == "bundled":
        return "bundled"
    if kind not in NAMED_KINDS:
        return kind.strip() if isinstance(kind, str) else ""
    if kind == "folder" and name and name[0] not in "/.~":
        return f"./{name}"  # a folder beside the app, and no Hub id that looks like one
    return name


def read_task(values: Mapping[str, Any]) -> TaskReference:
    """The task that the form's task fields mean; an unknown one is left to `validate`."""
    kind = str(values.get("task") or "")
    if kind in TASKS or kind not in ("file", "hub"):
        return TaskReference("bundled", kind)
    columns = {name: values.get(f"map.{name}") or None for name in MAPPING_FIELDS}
    mapping = ColumnMapping(**columns) if any(columns.values()) else None
    metric = values.get("metric") or None
    if kind == "file":
        return TaskReference("file", values.get("file") or "", mapping=mapping, metric=metric)
    return TaskReference(
        "hub",
        str(values.get("hub.id") or "").strip(),
        mapping=mapping,
        metric=metric,
        config=str(values.get("hub.config") or "").strip() or None,
        split=str(values.get("hub.split") or "").strip() or None,
    )


def read_request(
    model: str,
    task: TaskReference,
    methods: Sequence[str],
    values: Mapping[str, Any],
    access: Access = EVERYTHING,
) -> Reading:
    """Reads `values`, whose keys are `settings.steps`, `seeds`, `lora.r`, `extra` and the like.

    A key that is missing means the default; a field that is there but empty is wrong, unless
    empty has a meaning (learning rates, say). The rest is checked even where one field is wrong:
    with a bundled model or task in place of one that `access` does not let a visitor name.
    """
    errors = _nothing_named(model, task, str(values.get("file_error") or ""))
    model, task = allowed(model, task, access, errors)
    settings = TrainingSettings(**read_settings(TrainingSettings, values, errors, PREFIX))
    seeds = _read_seeds(values.get("seeds", "0"), errors)
    variants = [
        *_ticked(methods, values, errors),
        *_extra(str(values.get(EXTRA) or ""), errors),
        *_by_hand(str(values.get(PEFT_JSON) or ""), errors),
    ]
    budget, matches = _matched(str(values.get(MATCH) or ""), model, variants, errors)
    variants = [match.variant for match in matches] or variants
    request = SweepRequest(
        model=model,
        task=task,
        variants=tuple(variants),
        settings=settings,
        **read_settings(SweepRequest, values, errors),
        device=values.get("device") or AUTO,
        seeds=tuple(seeds),
    )
    wrong = {error.field for error in errors}
    for error in validate(request):
        missing = error.field == "variants" and not variants and wrong & {EXTRA, PEFT_JSON}
        if error.field not in wrong and not missing:
            errors.append(error)
    return Reading(request, tuple(errors), tuple(matches), budget)


def allowed(
    model: str, task: TaskReference, access: Access, errors: list[FieldError]
) -> tuple[str, TaskReference]:
    """Model and task as far as they may be named; what may not is one bundled, and an error.

    Nothing of what is refused is looked for, so that not even its existence is told.
    """
    try:
        access.check_model(model)
    except FtlabError as error:
        errors.append(FieldError("model", str(error)))
        model = "bundled"
    try:
        access.check_task(task)
    except FtlabError as error:
        errors.append(FieldError("task.id", str(error)))
        task = TaskReference("bundled", next(iter(TASKS)))
    return model, task


def allowed_values(values: Mapping[str, Any], access: Access) -> dict[str, Any]:
    """The form's values without a model or data that may not be named: nothing is shown of it."""
    errors: list[FieldError] = []
    allowed(read_model(values), read_task(values), access, errors)
    wrong = {error.field for error in errors}
    model = {"model": "bundled"} if "model" in wrong else {}
    data = {"file": None, "hub.id": ""} if "task.id" in wrong else {}
    return {**values, **model, **data}


def one_sentence(errors: Sequence[FieldError]) -> str:
    """The first error, and how many more there are."""
    more = len(errors) - 1
    tail = f" ({more} more field{'s' if more > 1 else ''} to put right.)" if more > 0 else ""
    return errors[0].message + tail


def _nothing_named(model: str, task: TaskReference, file_error: str) -> list[FieldError]:
    """What a form still waits for: a model's name, a file (or a better one), a data set's id."""
    errors = []
    if not model:
        errors.append(FieldError("model", "No model is named; give a folder or a Hub id."))
    if not task.id and task.kind == "file":
        nothing = f"No file is chosen; upload one of: {', '.join(EXTENSIONS)}."
        errors.append(FieldError("task.id", file_error or nothing))
    if not task.id and task.kind == "hub":
        message = "No data set is named; give its id, as in owner/name."
        errors.append(FieldError("task.id", message))
    return errors


def _read_seeds(value: Any, errors: list[FieldError]) -> list[int]:
    parts = [part for part in str("" if value is None else value).replace(",", " ").split() if part]
    try:
        return [int(read_number("Seed", part, whole=True)) for part in parts]
    except FtlabError as error:
        errors.append(FieldError("seeds", f"{error} Give seeds as in 0 or 0,1,2."))
        return [0]


def _ticked(
    methods: Iterable[str], values: Mapping[str, Any], errors: list[FieldError]
) -> list[Variant]:
    variants = []
    for method_id in methods:
        if method_id in METHODS:
            variants.append(_with_form_values(METHODS[method_id], values, errors))
        else:
            variants.append(Variant(method_id))  # `validate` names it and the known ones
    return variants


def _with_form_values(
    method: MethodSpec, values: Mapping[str, Any], errors: list[FieldError]
) -> Variant:
    variant = Variant(method.id)
    labels = {p.name: p.label for p in method.hyperparameters}
    may_be_empty = {LEARNING_RATE: "Learning rate", BASE: "Frozen base"}
    for name, label in (labels | may_be_empty).items():
        key = f"{method.id}.{name}"
        if key not in values:
            continue
        value = values[key]
        if is_empty(value):
            if name not in may_be_empty:
                default = method.defaults()[name]
                message = f"{method.label}: {label} is empty; its default is {default}."
                errors.append(FieldError(key, message))
            continue
        try:
            variant = with_setting(variant, name, value)
        except FtlabError as error:
            errors.append(FieldError(key, str(error)))
    return variant


def _by_hand(text: str, errors: list[FieldError]) -> list[Variant]:
    """Variants by their PeftConfig; PEFT itself is asked when they are launched."""
    try:
        return read_variants(text)
    except FtlabError as error:
        errors.append(FieldError(PEFT_JSON, str(error)))
        return []


def _matched(
    text: str, model: str, variants: Sequence[Variant], errors: list[FieldError]
) -> tuple[int, list[Match]]:
    """The budget of the field, and the variants with their sizes chosen for it."""
    if not text.strip():
        return 0, []
    try:
        shape = shape_of_model(model)
        budget = read_budget(text, shape)
    except FtlabError as error:
        errors.append(FieldError(MATCH, str(error)))
        return 0, []
    if budget is None or shape is None:
        return 0, []
    return budget, match_parameters(variants, shape, budget)


def _extra(text: str, errors: list[FieldError]) -> list[Variant]:
    """Further variants, one a line; what is wrong with one is said at the field that holds it."""
    variants = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        try:
            variant = parse_variant(line)
        except FtlabError as error:
            errors.append(FieldError(EXTRA, f"'{line[:60]}': {error}"))
            continue
        wrong = [FieldError(EXTRA, error.message) for error in validate_variant(variant)]
        errors.extend(wrong)
        if not wrong:
            variants.append(variant)
    return variants
