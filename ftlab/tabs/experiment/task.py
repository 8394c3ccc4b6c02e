"""Steps 1 and 2 of the form: model, task and settings. Also stores an uploaded task file."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from ftlab.basics.devices import AUTO, auto_label, device_choices
from ftlab.basics.errors import FtlabError
from ftlab.jobs.control import control_folder
from ftlab.jobs.inputs import Access, Rows, kept_hub_rows, read_hub_rows
from ftlab.models.reference import BUNDLED_ID, model_label
from ftlab.models.resolve import ModelReach
from ftlab.records.run import check_writable
from ftlab.records.spec import SweepRequest
from ftlab.settings.schema import Field, Place, fields_of
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.tabs.context import NO_OVERLAY, Action, AppContext, Latest, first_shown
from ftlab.tabs.experiment.costs import may_propose
from ftlab.tabs.experiment.fields import Form
from ftlab.tabs.experiment.method_view import model_line, task_preview
from ftlab.tabs.experiment.request import (
    MAPPING_FIELDS,
    NAMED_KINDS,
    allowed_values,
    read_model,
    read_task,
)
from ftlab.tabs.widgets import H, field_error, head, live
from ftlab.tasks.files import EXTENSIONS, ColumnMapping, columns_of, guess_mapping, read_rows
from ftlab.tasks.reference import TaskReference, validate
from ftlab.tasks.registry import TASKS
from ftlab.tasks.spec import TEXT_METRICS


def keep_upload(path: Path, runs_folder: Path) -> Path:
    """Copies an upload into the runs folder: gradio's copy is temporary, but run records stay.

    Raises `FtlabError` if the folder cannot be written.
    """
    check_writable(runs_folder)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    target = _uploads(runs_folder) / digest / path.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(path, target)
    except OSError as error:
        raise FtlabError(
            f"The file cannot be kept in '{target.parent}' ({error.strerror}); "
            "free some space or make it writable."
        ) from None
    return target.resolve()


def name_upload(path: Path, runs_folder: Path) -> dict[str, str]:
    """The name of an upload and the hash of its content; no hash for any other file."""
    is_upload = path.parent.parent == _uploads(runs_folder).resolve()
    return {"name": path.name, "digest": path.parent.name if is_upload else ""}


def find_upload(name: Any, digest: Any, runs_folder: Path) -> Path | None:
    """The upload of that name and hash, as `name_upload` gives them; `None` if there is none.

    So it opens no file of another visitor to anybody who does not have it: a hash has 64 digits (16
    in older runs folders), which nobody finds by trying.
    """
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return None
    try:
        files = list((_uploads(runs_folder) / digest).iterdir())
    except OSError:
        return None
    return next((file.resolve() for file in files if file.name == name and file.is_file()), None)


def _uploads(runs_folder: Path) -> Path:
    return control_folder(runs_folder) / "uploads"


_DIGEST = re.compile(r"[0-9a-f]{16}([0-9a-f]{48})?")
REQUEST, TASK = dict(fields_of(SweepRequest)), fields_of(TaskReference)
_MODELS = [(model_label(BUNDLED_ID), "bundled"), ("Local folder …", "folder"), ("Hub id …", "hub")]
_SHORT_NAMES = {"medical": "Medical"}  # the row of tasks must fit into the left column
_COLUMN_LABELS = {
    "prompt": "Prompt",
    "completion": "Completion",
    "messages": "Chat (instead)",
    "system": "System (optional)",
}
_NO_COLUMN = ("–", "")
_CHOOSE = """element.addEventListener('click', ({ target }) => {
  const button = target.closest('[data-choose]');
  if (button) trigger('select', {model: button.dataset.choose});
})"""
_HUB_FIELDS = ("hub.id", "hub.config", "hub.split")
_MODEL_HINTS = {"folder": "/path/to/model", "hub": "owner/name"}


@dataclass(frozen=True)
class TaskBlocks:
    """The containers of step 1. `preview` renders the model line and the task preview.

    `upload` takes a task file, and the form's field `file` is its path here. `columns_from` is
    `hub_data` of the values whose columns are offered.
    `largest` shows the proposed model; `None` on a machine that proposes no model.
    """

    file_group: gr.Column
    hub_group: gr.Column
    mapping_row: gr.Row
    upload: gr.File
    columns_from: gr.State
    preview: Action
    largest: gr.HTML | None = None


def build_model_and_task(form: Form, context: AppContext) -> TaskBlocks:
    """Builds step 1: adds its fields to the form and refreshes the preview on changes."""
    access = context.access
    head("Model and task", number=1)
    form.add(
        "model",
        gr.Dropdown,
        model_kinds(access),
        value="bundled",
        label=REQUEST["model"].label,
        allow_custom_value=True,  # accepts a typed model name, which is lost otherwise
    )
    form.add(
        "model_name", gr.Textbox, label="Folder or Hub id", visible=False, max_lines=1, lines=1
    )
    form.slot("model")
    line = H("")
    largest = H("", js_on_load=_CHOOSE) if may_propose(access) else None
    tasks = [(_SHORT_NAMES.get(task.id, task.label), task.id) for task in TASKS.values()]
    form.add(
        "task",
        gr.Radio,
        [*tasks, *own_tasks(access)],
        value="sql",
        label=REQUEST["task"].label,
        elem_classes="ft-seg",
    )
    with gr.Column(visible=False, min_width=0) as file_group:
        upload = live(
            gr.File,
            label=upload_label(None),
            file_types=list(EXTENSIONS),
            height=96,
            elem_id="f-task-id",
        )
        form.components["file"] = gr.State(None)
        form.components["file_error"] = gr.State("")
    with gr.Column(visible=False, min_width=0) as hub_group:
        with gr.Row():
            form.add("hub.id", gr.Textbox, label="Data set id", placeholder="owner/name", scale=2)
            for name in ("config", "split"):
                form.setting(f"hub.{name}", TASK[name], info=None, min_width=70)
        look_up = gr.Button("Read its first rows", size="sm")
    with gr.Row(visible=False) as mapping_row:
        for name in MAPPING_FIELDS:
            form.add(
                f"map.{name}",
                gr.Dropdown,
                [_NO_COLUMN],
                value="",
                label=_COLUMN_LABELS[name],
                min_width=130,
                # else gradio raises for a column of the previous file; the form's check does
                allow_custom_value=True,
            )
    metrics = [(metric.label, key) for key, metric in TEXT_METRICS.items()]
    form.setting(
        "metric", TASK["metric"], choices=metrics, value=metrics[0][1], info=None, visible=False
    )
    form.slot("task")
    preview = H("")
    columns_from = gr.State(("", "", ""))

    names = list(form.components)
    fields = list(form.components.values())

    def named(given: tuple[Any, ...]) -> dict[str, Any]:
        return allowed_values(dict(zip(names, given, strict=True)), access)

    def show_task(*given: Any) -> tuple[Any, ...]:
        values = named(given)
        kind = values["task"]
        return (
            gr.update(visible=kind == "file"),
            gr.update(visible=kind == "hub"),
            gr.update(visible=kind in ("file", "hub")),
            *column_choices(rows_at_hand(values)),
        )

    def show_columns(columns_from: Any, *given: Any) -> tuple[Any, ...]:
        values = named(given)
        if hub_data(values) == columns_from:
            return (gr.skip(),) * (2 + len(MAPPING_FIELDS))
        return hub_data(values), *column_choices(rows_at_hand(values))

    latest = Latest()

    def look(request: gr.Request, *given: Any) -> tuple[Any, Any]:
        """Shows the model and the first examples, unless the form has changed meanwhile."""
        session, values = str(request.session_hash), named(given)
        mine = latest.begin(session)
        shown = model_html(values, context.models), preview_html(values)
        return shown if latest.is_newest(session, mine) else (gr.skip(), gr.skip())

    def look_on_hub(*given: Any) -> tuple[Any, ...]:
        return read_hub(named(given))

    def take(path: str | None) -> tuple[Any, ...]:
        label = gr.update(label=upload_label(None))
        return *read_upload(path, context.runs_folder), label

    hidden: Any = NO_OVERLAY | {"api_visibility": "private"}
    by_name = form.components
    by_name["model"].input(
        lambda kind: name_field(kind), by_name["model"], by_name["model_name"], **hidden
    )
    mapping = [by_name[f"map.{name}"] for name in MAPPING_FIELDS]
    chosen = by_name["task"].input(
        show_task,
        fields,
        [file_group, hub_group, by_name["metric"], mapping_row, *mapping],
        **hidden,
    )
    taken = gr.on(
        [upload.upload, upload.clear],
        take,
        upload,
        [by_name["file"], by_name["file_error"], mapping_row, *mapping, upload],
        api_visibility="private",
    )
    gr.on(
        [look_up.click, by_name["hub.id"].submit],
        look_on_hub,
        fields,
        [preview, mapping_row, *mapping],
        show_progress="minimal",
        api_visibility="private",
    )
    # Another data set has other columns. Not at `change`: a form that is filled in brings its own.
    changed = gr.on(
        [
            event
            for name in _HUB_FIELDS
            for event in (by_name[name].input, by_name[name].blur)  # `input` does not fire on paste
        ],
        show_columns,
        [columns_from, *fields],
        [columns_from, mapping_row, *mapping],
        trigger_mode="always_last",
        **hidden,
    )
    for event in (chosen, taken, changed):
        event.then(look, fields, [line, preview], **hidden)
    gr.on(
        [
            first_shown(),
            by_name["model"].input,
            by_name["model_name"].submit,
            by_name["model_name"].blur,
            by_name["metric"].input,
            *(dropdown.input for dropdown in mapping),
        ],
        look,
        fields,
        [line, preview],
        trigger_mode="always_last",
        **hidden,
    )
    seen = Action(look, fields, [line, preview])
    return TaskBlocks(file_group, hub_group, mapping_row, upload, columns_from, seen, largest)


def build_settings(form: Form) -> tuple[gr.Accordion, gr.HTML]:
    """Builds step 2. Returns the accordion, whose label shows its current values, and the
    placeholder for the note on the number of examples."""
    head("Settings, the same for all", number=2)
    form.settings(_settings_at("main"))
    form.slot("settings")
    scored = H("")
    with gr.Accordion("Advanced", open=False, elem_classes="ft-fold") as advanced:
        devices = [(f"auto: {auto_label()}", AUTO), *device_choices()]
        form.settings(_settings_at("advanced"), {"device": {"choices": devices}})
        form.slot("advanced")
    return advanced, scored


def _settings_at(place: Place) -> dict[str, Field]:
    named = {PREFIX + name: described for name, described in fields_of(TrainingSettings).items()}
    return {name: one for name, one in (named | REQUEST).items() if one.setting.place == place}


def model_kinds(access: Access) -> list[tuple[str, str]]:
    """(label, kind) of the model sources that the visitor may use."""
    folders = access.folders is None or len(access.folders) > 0
    open_to = {"bundled": True, "folder": folders, "hub": access.may_ask_hub}
    return [(label, kind) for label, kind in _MODELS if open_to[kind]]


def own_tasks(access: Access) -> list[tuple[str, str]]:
    """(label, kind) of the custom task sources that the visitor may use."""
    upload = [("File", "file")] if access.may_upload else []
    return [*upload, *([("Hub", "hub")] if access.may_ask_hub else [])]


def upload_label(path: str | None) -> str:
    """The label above the place for a task file: a file that is in the form already, or which can
    be uploaded."""
    return f"Task file: {Path(path).name if path else ', '.join(EXTENSIONS)}"


def name_field(kind: str, **more: Any) -> dict[str, Any]:
    """Update of the model name field for a kind of model; hidden for the bundled model."""
    return gr.update(
        visible=kind in NAMED_KINDS,
        label="Hub id" if kind == "hub" else "Folder with config.json and safetensors",
        placeholder=_MODEL_HINTS.get(kind, ""),
        **more,
    )


def model_html(values: Mapping[str, Any], models: ModelReach) -> str:
    """The line below the model's name; empty on errors, which the form's check reports."""
    model = read_model(values)
    if models.known(model):  # not available; the form's check reports why
        return ""
    try:
        return model_line(model)
    except FtlabError:
        return ""


def preview_html(values: Mapping[str, Any]) -> str:
    """The task's examples, or the error of reading them. Does not query the Hub.

    Empty if a field is invalid, which the form's check reports.
    """
    reference = read_task(values)
    if not reference.id or validate(reference):
        return ""
    if reference.kind == "hub" and kept_hub_rows(reference) is None:
        return '<p class="meta">Read its first rows to see how they are formatted.</p>'
    try:
        return task_preview(read_model(values), reference)
    except FtlabError as error:
        return field_error([str(error)])


def read_hub(values: Mapping[str, Any]) -> tuple[Any, ...]:
    """Queries the Hub for the form's data set. Returns its preview and the dropdown updates.

    Selected columns are kept if the data set has all of them.
    """
    reference = read_task(values)
    if not reference.id or validate(replace(reference, mapping=None)):
        return "", *column_choices([])
    try:
        rows = read_hub_rows(reference)
    except FtlabError as error:
        return field_error([str(error)]), *column_choices([])
    mapping = column_mapping(rows, reference.mapping)
    chosen = {f"map.{name}": column for name, column in asdict(mapping).items()}
    return preview_html({**values, **chosen}), *column_choices(rows, reference.mapping)


def rows_at_hand(values: Mapping[str, Any]) -> Rows:
    """The rows of the form's file, or the cached rows of its data set; else empty."""
    reference = read_task(values)
    if reference.kind == "hub":
        return kept_hub_rows(reference) or []
    if reference.kind != "file" or not reference.id:
        return []
    try:
        return read_rows(reference.id)
    except FtlabError:
        return []


def hub_data(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Id, config and split in the form's fields; the columns of other ones are others."""
    return tuple(str(values.get(name) or "") for name in _HUB_FIELDS)


def column_mapping(rows: Rows, chosen: ColumnMapping | None = None) -> ColumnMapping:
    """`chosen` if the rows have those columns, else a guess from the column names."""
    columns = columns_of(rows)
    if chosen is not None and set(filter(None, asdict(chosen).values())) <= set(columns):
        return chosen
    return guess_mapping(columns, rows)


def column_choices(rows: Rows, chosen: ColumnMapping | None = None) -> tuple[Any, ...]:
    """Updates for the row of column dropdowns and each dropdown; hidden if there are no rows."""
    columns = columns_of(rows)
    values = asdict(column_mapping(rows, chosen)) if rows else {}
    choices = [_NO_COLUMN, *((column, column) for column in columns)]
    filled = [gr.update(choices=choices, value=values.get(name) or "") for name in MAPPING_FIELDS]
    return gr.update(visible=bool(rows)), *filled


def read_upload(path: str | None, runs_folder: Path) -> tuple[Any, ...]:
    """Values after an upload: the stored path, an error message, and the dropdown updates."""
    if path is None:
        return None, "", *column_choices([])
    try:
        rows = read_rows(path)
        kept = keep_upload(Path(path), runs_folder)
    except FtlabError as error:
        return None, str(error), *column_choices([])
    return str(kept), "", *column_choices(rows)
