"""The form as the browser keeps it: the values that differ from those of the untouched form.

A task file is kept by its name and the hash of its content. Of what the browser sends back, names
that the form does not have are ignored, and values that its fields cannot hold are left out; the
rest is checked like typed input.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from ftlab.basics.words import join_names, shown_name
from ftlab.settings.schema import is_empty
from ftlab.tabs.context import AppContext, KeptInputs
from ftlab.tabs.experiment.fields import METHOD_SETTINGS, Form
from ftlab.tabs.experiment.method_view import FIELDS, known_settings, known_ticks
from ftlab.tabs.experiment.task import find_upload, name_upload
from ftlab.tabs.requests import WrongCall, check_inputs

FORM = KeptInputs("form", 1)
READINESS = "ready"
"""Name of the form's field that is empty until it holds what the browser kept."""


def untouched(form: Form) -> dict[str, Any]:
    """The form's values when the page is opened, by field name."""
    own = {name: part.value for name, part in form.components.items()}
    del own[METHOD_SETTINGS], own[READINESS]
    return {**FIELDS, **own}


def changed(form: Form, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that differ from those of the untouched form."""
    return {
        name: values[name]
        for name, usual in untouched(form).items()
        if name in values and not _is_same(values[name], usual)
    }


def values_to_keep(form: Form, values: Mapping[str, Any], runs_folder: Path) -> dict[str, Any]:
    """What the browser is to keep of the form's values: JSON without a path of this machine."""
    kept = changed(form, values)
    kept.pop("file_error", None)
    if "file" in kept:
        kept["file"] = name_upload(Path(kept["file"]), runs_folder)
    return kept


def values_kept(
    form: Form, kept: Mapping[str, Any], context: AppContext
) -> tuple[dict[str, Any], list[str]]:
    """All values of the form from what the browser kept, and a sentence for what is not as kept."""
    values, wrong, sentences = untouched(form), [], []
    for name, part in form.components.items():
        if name not in kept or name == READINESS or isinstance(part, gr.State):
            continue
        if _can_hold(part, kept[name]):
            values[name] = kept[name]
        else:
            wrong.append(part.label)
    if wrong:
        is_one = len(wrong) == 1
        kept_ones = "a value that is" if is_one else "values that are"
        usual = "the usual one stands" if is_one else "the usual ones stand"
        sentences.append(
            f"{join_names(wrong)}: this browser kept {kept_ones} not offered here; {usual}."
        )
    if "methods" in kept:
        values["methods"] = known_ticks(kept["methods"])
    values |= known_settings(kept)
    file = kept.get("file")
    if isinstance(file, dict) and context.access.may_upload:
        found = find_upload(file.get("name"), file.get("digest"), context.runs_folder)
        values["file"] = None if found is None else str(found)
        if found is None:
            name = shown_name(str(file.get("name")))
            sentences.append(f"The task file '{name}' is no longer here; upload it again.")
    return values, sentences


def _is_same(value: Any, usual: Any) -> bool:
    if isinstance(value, list) and isinstance(usual, list):
        return sorted(map(str, value)) == sorted(map(str, usual))
    return value == usual or (is_empty(value) and is_empty(usual))


def _can_hold(part: Any, value: Any) -> bool:
    """Whether a field takes a value of that type, and offers it if it has choices."""
    try:
        check_inputs([part], [value])
    except WrongCall:
        return False
    choices = getattr(part, "choices", None)
    if choices is None or getattr(part, "allow_custom_value", False):
        return True
    offered = [choice for _, choice in choices]
    return all(one in offered for one in (value if isinstance(value, list) else [value]))
