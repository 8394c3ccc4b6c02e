"""The Experiment form takes over the settings of runs that were cloned in Results."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr

from ftlab.access import EVERYTHING, Access
from ftlab.devices import AUTO, list_devices
from ftlab.errors import FtlabError
from ftlab.runs.spec import RunSpec
from ftlab.settings.trackers import is_installed
from ftlab.tasks.files import columns_of
from ftlab.ui.context import AppContext
from ftlab.ui.events import QUIET, Action
from ftlab.ui.experiment.clone import alike, form_values
from ftlab.ui.experiment.fields import METHOD_SETTINGS, Form
from ftlab.ui.experiment.method_view import FIELDS, method_table
from ftlab.ui.experiment.request import MAPPING_FIELDS, allowed_values
from ftlab.ui.experiment.task import TaskBlocks, name_field, rows_at_hand
from ftlab.ui.html import escape, plural, warn
from ftlab.ui.links import Links
from ftlab.ui.results.names import run_name


def listen(
    form: Form, task: TaskBlocks, table: gr.HTML, check: Action, context: AppContext, links: Links
) -> None:
    """Fills the form as `links.clone` names runs; then it is checked as if it had been typed."""
    outputs = [
        links.clone, table, task.file_group, task.hub_group, task.mapping_row,
        *form.components.values(),
    ]  # fmt: skip

    def take(run_ids: tuple[str, ...]) -> list[Any]:
        if not run_ids:
            return [gr.skip()] * len(outputs)
        try:
            specs = [context.store.find(run_id).spec for run_id in run_ids]
        except FtlabError as error:
            warn(str(error), title="Not cloned")
            return [(), *[gr.skip()] * (len(outputs) - 1)]
        values, missing = fitting(form_values(alike(specs)))
        gr.Info(str(escape(taken_over(specs))), title="Cloned", duration=6)
        for sentence in missing:
            warn(sentence, title="Not as in the run")
        return [(), *updates(values, list(form.components), context.access)]

    taken = links.clone.change(take, links.clone, outputs, **QUIET)
    task.preview.after(check.after(taken))


def taken_over(specs: Sequence[RunSpec]) -> str:
    """The sentence on whose settings the form now holds."""
    kept = alike(specs)
    names = f"{kept[0].label} ({run_name(kept[0].run_id)})"
    if len(kept) > 1:
        names += f" and {plural(len(kept) - 1, 'more run')}"
    left = len(specs) - len(kept)
    aside = f" {plural(left, 'run')} with other settings left aside." if left else ""
    return f"The form holds the settings of {names}.{aside}"


def fitting(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values that this machine can offer, and a sentence for each that it cannot."""
    fit, missing = dict(values), []
    devices = [device.id for device in list_devices()]
    if fit["device"] not in (*devices, AUTO):
        missing.append(f"There is no device {fit['device']} here; the form says auto.")
        fit["device"] = AUTO
    absent = [name for name in fit["settings.report_to"] if not is_installed(name)]
    if absent:
        missing.append(f"{', '.join(absent)} is not installed here; nothing is logged to it.")
        fit["settings.report_to"] = [n for n in fit["settings.report_to"] if n not in absent]
    return fit, missing


def updates(
    values: Mapping[str, Any], names: Sequence[str], access: Access = EVERYTHING
) -> list[Any]:
    """Updates for the table of methods, the three blocks of the task, and each field by name."""
    kind = values["task"]
    mapped = [values[f"map.{name}"] for name in MAPPING_FIELDS]
    columns = columns_of(rows_at_hand(allowed_values(values, access))) or list(filter(None, mapped))
    choices = [("–", ""), *((column, column) for column in columns)]
    special = {
        f"map.{name}": gr.update(choices=choices, value=chosen if chosen in columns else "")
        for name, chosen in zip(MAPPING_FIELDS, mapped, strict=True)
    }
    special["model_name"] = name_field(values["model"], value=values["model_name"])
    own = kind in ("file", "hub")
    special["metric"] = gr.update(visible=own, **({"value": values["metric"]} if own else {}))
    # The comment makes it another value, so that it is drawn even where only ticks differ.
    settings = {name: value for name, value in values.items() if name in FIELDS}
    special[METHOD_SETTINGS] = settings
    table = f"{method_table(values['methods'], settings)}<!--{secrets.token_hex(4)}-->"
    return [
        table,
        gr.update(visible=kind == "file"),
        gr.update(visible=kind == "hub"),
        gr.update(visible=own and bool(columns)),
        *(special.get(name, values.get(name, gr.skip())) for name in names),
    ]
