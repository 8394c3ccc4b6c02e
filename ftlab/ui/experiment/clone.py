"""From runs back to the form that asks for them: the inverse of `request.read_form`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ftlab.methods.matching import FIELD as MATCH
from ftlab.methods.peft_variants import write_variants
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import BASE, LEARNING_RATE, Variant, format_variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.runs.peft_check import FIELD as PEFT_JSON
from ftlab.runs.peft_check import by_hand
from ftlab.runs.rates import asked_again
from ftlab.runs.rerun import same_for_all
from ftlab.runs.spec import RunSpec
from ftlab.settings.schema import fields_of
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.tasks.custom import ColumnMapping
from ftlab.tasks.reference import TaskReference
from ftlab.ui.experiment.request import EXTRA, MAPPING_FIELDS


def alike(specs: Sequence[RunSpec]) -> list[RunSpec]:
    """The runs that fit into one form: those that share all settings with the first of them."""
    own = [spec for spec in specs if not spec.is_base]
    return [spec for spec in own if same_for_all(spec) == same_for_all(own[0])]


def form_values(specs: Sequence[RunSpec]) -> dict[str, Any]:
    """Values by field name with which the form asks for these runs; they share their settings.

    The first variant of a method fills the method's own fields, each further one becomes a line of
    the field `extra`; methods without a run are not ticked and stand at their defaults. Sizes that
    were matched are set as they were chosen, and so is a rate that would be another one today. A
    data seed other than 0 has no field, nor has a run
    that was scored on the tuning split, or not scored at all.
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
    values = {
        "methods": [method_id for method_id in METHODS if method_id in ticked],
        "seeds": ", ".join(map(str, dict.fromkeys(spec.seed for spec in specs))),
        "dtype_policy": first.dtype_policy,
        "device": first.device,
        EXTRA: "\n".join(further),
        MATCH: "",
        PEFT_JSON: write_variants(by_hand(variants)),
        **_model(first.model),
        **_task(first.task),
        **_settings(first.settings),
    }
    for method_id in METHODS:
        values |= _method(ticked.get(method_id) or Variant(method_id))
    return values


def _model(name: str) -> dict[str, str]:
    if name in ("bundled", BUNDLED_ID):
        return {"model": "bundled", "model_name": ""}
    return {"model": "folder" if name.startswith("/") else "hub", "model_name": name}


def _task(task: TaskReference) -> dict[str, Any]:
    kind = task.id if task.kind == "bundled" else task.kind
    mapping = asdict(task.mapping or ColumnMapping())
    values: dict[str, Any] = {f"map.{name}": mapping[name] or "" for name in MAPPING_FIELDS}
    values |= {"task": kind, "file": None, "file_error": "", "metric": task.metric}
    values |= {"hub.id": "", "hub.config": "", "hub.split": ""}
    if task.kind == "file":
        values["file"] = task.id
    if task.kind == "hub":
        values |= {
            "hub.id": task.id,
            "hub.config": task.config or "",
            "hub.split": task.split or "",
        }
    return values


def _settings(settings: TrainingSettings) -> dict[str, Any]:
    return {
        PREFIX + name: described.written(getattr(settings, name))
        for name, described in fields_of(TrainingSettings).items()
    }


def _method(variant: Variant) -> dict[str, Any]:
    rate = variant.learning_rate
    own = {f"{variant.method}.{name}": value for name, value in variant.values().items()}
    return own | {
        f"{variant.method}.{LEARNING_RATE}": "" if rate is None else repr(rate),
        f"{variant.method}.{BASE}": variant.base or "",
    }
