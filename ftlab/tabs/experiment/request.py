"""Converts values of the form or an API call to a sweep request, and back. No gradio.

A value may be missing, empty, text, or not a number. Invalid values become errors of their field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.jobs.launch import ValidRequest, same_for_all, validate
from ftlab.jobs.peft_check import FIELD as PEFT_JSON
from ftlab.jobs.peft_check import by_hand
from ftlab.methods.limits import FIELD as MATCH
from ftlab.methods.limits import Match, match_parameters, read_budget
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import MethodSpec
from ftlab.methods.variant import (
    BASE,
    LEARNING_RATE,
    Variant,
    format_variant,
    parse_variant,
    read_variants,
    validate_variant,
    with_setting,
    write_variants,
)
from ftlab.models.dimensions import shape_of_model
from ftlab.models.reference import BUNDLED_ID
from ftlab.records.spec import RunSpec, SweepRequest, asked_again
from ftlab.settings.schema import fields_of, is_empty, read_settings
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.tasks.files import EXTENSIONS, ColumnMapping
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.registry import TASKS

EXTRA = "extra"
"""Name of the field for further variants, one per line."""

NAMED_KINDS = ("folder", "hub")
"""The kinds of model whose name is entered in a separate field."""

MAPPING_FIELDS = ("prompt", "completion", "messages", "system")


@dataclass(frozen=True)
class Reading:
    """The parsed form: the request as far as it could be parsed, and all invalid fields.

    `matches` holds how each variant's size was chosen for `budget` trainable parameters; empty
    without parameter matching.
    """

    request: SweepRequest
    errors: tuple[FieldError, ...]
    matches: tuple[Match, ...] = ()
    budget: int = 0

    def checked(self) -> ValidRequest:
        """Returns the request. Raises `InvalidRequest` if any field is invalid."""
        if self.errors:
            raise InvalidRequest(list(self.errors))
        return ValidRequest(self.request)


def read_form(values: Mapping[str, Any], access: Access = EVERYTHING) -> Reading:
    """Calls `read_request` with the model, task and methods from the page's form."""
    methods = values.get("methods") or []
    methods = methods if isinstance(methods, list | tuple) else [methods]
    named = [str(method)[:80] for method in methods]  # any other type is an unknown method
    return read_request(read_model(values), read_task(values), named, values, access)


def read_model(values: Mapping[str, Any]) -> str:
    """The model's name, as input of `parse_model`.

    The dropdown for the kind of model also accepts a model name: any other text is the name.
    """
    kind, name = values.get("model", "bundled"), str(values.get("model_name") or "").strip()
    if kind == "bundled":
        return "bundled"
    if kind not in NAMED_KINDS:
        return kind.strip() if isinstance(kind, str) else ""
    if kind == "folder" and name and name[0] not in "/.~":
        return f"./{name}"  # relative folder, else it would be read as a Hub id
    return name


def read_task(values: Mapping[str, Any]) -> TaskReference:
    """The task from the form's task fields. `validate` reports an unknown task."""
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
    """Parses `values`, with keys such as `settings.steps`, `seeds`, `lora.r` and `extra`.

    A missing key means the default. An empty field is invalid, unless empty has a meaning (e.g. for
    learning rates). An invalid field does not stop the checks of the others. If `access` forbids
    the model or the task, a bundled one replaces it for these checks.
    """
    errors = _nothing_named(model, task, str(values.get("file_error") or ""))
    model, task = allowed(model, task, access, errors)
    settings = TrainingSettings(**read_settings(TrainingSettings, values, errors, PREFIX))
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
    """Replaces a forbidden model or task by a bundled one and adds an error.

    Does not look up a forbidden path or id, so that not even its existence is disclosed.
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
    """The form's values without a forbidden model or data set, so that nothing of it is shown."""
    errors: list[FieldError] = []
    allowed(read_model(values), read_task(values), access, errors)
    wrong = {error.field for error in errors}
    model = {"model": "bundled"} if "model" in wrong else {}
    data = {"file": None, "hub.id": ""} if "task.id" in wrong else {}
    return {**values, **model, **data}


def one_sentence(errors: Sequence[FieldError]) -> str:
    """The first error, and the number of further errors."""
    more = len(errors) - 1
    tail = f" ({more} more field{'s' if more > 1 else ''} to correct.)" if more > 0 else ""
    return errors[0].message + tail


def _nothing_named(model: str, task: TaskReference, file_error: str) -> list[FieldError]:
    """Errors for required input: a model's name, a valid file, a data set's id."""
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
    """Variants given by their PeftConfig. PEFT itself checks them at launch."""
    try:
        return read_variants(text)
    except FtlabError as error:
        errors.append(FieldError(PEFT_JSON, str(error)))
        return []


def _matched(
    text: str, model: str, variants: Sequence[Variant], errors: list[FieldError]
) -> tuple[int, list[Match]]:
    """The parameter budget from the field, and the variants with sizes chosen for it."""
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
    """Further variants, one per line. Their errors are reported at the field `extra`."""
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


def alike(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """The runs that fit into one form: those with the same settings as the first run."""
    own = [spec for spec in specs if not spec.is_base]
    return [spec for spec in own if same_for_all(spec) == same_for_all(own[0])]


def form_values(specs: Sequence[RunSpec]) -> dict[str, Any]:
    """Form values by field name that reproduce these runs, which must share their settings.

    The first variant of a method fills the method's own fields; each further one becomes a line of
    the field `extra`. Methods without a run are not ticked and keep their defaults. Matched sizes
    are set explicitly, and so is a learning rate that would differ today. These have no field: a
    data seed other than 0, scoring on the tuning split, and no scoring at all.
    """
    first = specs[0]
    variants: list[Variant] = []
    for variant in map(asked_again, specs):
        if variant is not None and variant not in variants:
            variants.append(variant)
    ticked: dict[str, Variant] = {}
    further = []
    for variant in variants:
        if variant.method in METHODS and ticked.setdefault(variant.method, variant) is not variant:
            further.append(format_variant(variant))
    seeds = tuple(dict.fromkeys(spec.seed for spec in specs))
    values = {
        "methods": [method_id for method_id in METHODS if method_id in ticked],
        EXTRA: "\n".join(further),
        MATCH: "",
        PEFT_JSON: write_variants(by_hand(variants)),
        **_settings(first.settings, PREFIX),
        **_settings(replace(same_for_all(first), seeds=seeds)),
        **_model(first.model),
        **_task(first.task),
    }
    for method_id in METHODS:
        values |= _method(ticked.get(method_id) or Variant(method_id))
    return values


def _model(name: str) -> dict[str, str]:
    if name in ("bundled", BUNDLED_ID):
        return {"model": "bundled", "model_name": ""}
    return {"model": "folder" if name.startswith("/") else "hub", "model_name": name}


def _task(task: TaskReference) -> dict[str, Any]:
    columns = asdict(task.mapping or ColumnMapping())
    return {
        "task": task.id if task.kind == "bundled" else task.kind,
        "file": task.id if task.kind == "file" else None,
        "file_error": "",
        "hub.id": task.id if task.kind == "hub" else "",
        "hub.config": task.config or "",
        "hub.split": task.split or "",
        "metric": task.metric,
        **{f"map.{name}": column or "" for name, column in columns.items()},
    }


def _settings(settings: Any, prefix: str = "") -> dict[str, Any]:
    return {
        prefix + name: described.written(getattr(settings, name))
        for name, described in fields_of(type(settings)).items()
        if described.setting.is_on_form
    }


def _method(variant: Variant) -> dict[str, Any]:
    rate = variant.learning_rate
    own = {f"{variant.method}.{name}": value for name, value in variant.values().items()}
    return own | {
        f"{variant.method}.{LEARNING_RATE}": "" if rate is None else repr(rate),
        f"{variant.method}.{BASE}": variant.base or "",
    }
