"""The form comes back as the browser kept it, and a hostile one changes and shows nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.jobs.inputs import Access, demo_access
from ftlab.tabs import app
from ftlab.tabs.context import READY, AppContext
from ftlab.tabs.experiment import tab as experiment
from ftlab.tabs.experiment import task as experiment_task
from ftlab.tabs.experiment.fields import METHOD_SETTINGS, Form
from ftlab.tabs.experiment.kept import (
    FORM,
    READINESS,
    changed,
    untouched,
    values_kept,
    values_to_keep,
)
from ftlab.tabs.experiment.method_view import FIELDS
from ftlab.tabs.experiment.request import allowed_values, read_form
from ftlab.tabs.experiment.task import find_upload, keep_upload, name_upload
from tests.tabs.page_fakes import page_context
from tests.tabs.test_kept import stored

CSV = "question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(20))
SECRET = "what another visitor trains on"


def made_form(context: AppContext) -> Form:
    """The form as the page has it."""
    form = Form()
    with gr.Blocks():
        experiment_task.build_model_and_task(form, context)
        experiment_task.build_settings(form)
        experiment._build_methods(form)
        form.components[READINESS] = gr.Textbox(READY, visible=False)
    return form


@pytest.fixture
def context(tmp_path: Path) -> AppContext:
    return page_context(tmp_path / "runs")


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> Form:
    return made_form(page_context(tmp_path_factory.mktemp("runs")))


@pytest.fixture
def upload(tmp_path: Path, context: AppContext) -> Path:
    file = tmp_path / "mine.csv"
    file.write_text(CSV)
    return keep_upload(file, context.runs_folder)


def other_value(name: str, part: Any, upload: Path) -> Any:
    """A value of that field that is not its default."""
    if name == "file":
        return str(upload)
    if name == "methods":
        return ["lora", "dora"]
    if isinstance(part, gr.CheckboxGroup):
        return [part.choices[0][1]]
    if isinstance(part, gr.Dropdown | gr.Radio):
        own = {"map.prompt": "question", "map.completion": "answer", "task": "file"}
        others = [value for _, value in part.choices if value != part.value]
        return own.get(name) or (others or [f"another {name}"])[-1]
    if isinstance(part, gr.Checkbox):
        return not part.value
    if isinstance(part, gr.Number):
        return part.value + 1
    assert isinstance(part, gr.Textbox), f"no test value for a {type(part).__name__}"
    return f"<b> {name}"


def test_every_field_of_the_form_comes_back(
    form: Form, context: AppContext, upload: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackers = form.components["settings.report_to"]
    monkeypatch.setattr(trackers, "choices", [("W&B", "wandb")])  # as if it were installed
    left_out = (METHOD_SETTINGS, READINESS, "file_error")
    other = {
        name: other_value(name, part, upload)
        for name, part in form.components.items()
        if name not in left_out
    } | {name: f"{default} 1" for name, default in FIELDS.items()}
    text = json.dumps(values_to_keep(form, other, context.runs_folder))
    assert str(context.runs_folder) not in text
    values, sentences = values_kept(form, json.loads(text), context)
    assert sentences == []
    assert {name: values[name] for name in other} == other
    shown = experiment.updates(values, list(form.components))
    filled = dict(zip(form.components, shown[-len(form.components) :], strict=True))
    assert filled[METHOD_SETTINGS] == {name: other[name] for name in FIELDS}
    for name in set(form.components) - set(left_out):
        said = filled[name]
        got = said["value"] if isinstance(said, dict) else said
        assert got == ("" if name in ("map.messages", "map.system") else other[name]), name
    assert filled[READINESS] == READY


def test_nothing_is_kept_of_an_untouched_form(form: Form, context: AppContext) -> None:
    values = untouched(form) | {"methods": untouched(form)["methods"][::-1]}
    assert values_to_keep(form, values, context.runs_folder) == {}
    emptied = values | {"hub.id": None, "match": " "}
    assert changed(form, emptied) == {}


def test_only_what_was_changed_is_kept(form: Form, context: AppContext) -> None:
    values = untouched(form) | {"settings.steps": 7, "lora.r": "4"}
    kept = values_to_keep(form, values, context.runs_folder)
    assert kept == {"settings.steps": 7, "lora.r": "4"}


def test_a_task_file_is_kept_by_the_hash_of_its_content(
    form: Form, context: AppContext, upload: Path
) -> None:
    values = untouched(form) | {"task": "file", "file": str(upload)}
    kept = values_to_keep(form, values, context.runs_folder)
    digest = hashlib.sha256(CSV.encode()).hexdigest()
    assert kept["file"] == {"name": "mine.csv", "digest": digest}
    assert values_kept(form, kept, context)[0]["file"] == str(upload)


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_a_file_that_is_gone_is_a_sentence_and_the_rest_is_as_kept(
    form: Form, context: AppContext, upload: Path, tmp_path: Path, is_elsewhere: bool
) -> None:
    file = tmp_path / "mine.csv" if is_elsewhere else upload  # as in a run of the command line
    values = untouched(form) | {
        "task": "file", "file": str(file), "map.prompt": "answer", "settings.steps": 7,
    }  # fmt: skip
    kept = values_to_keep(form, values, context.runs_folder)
    assert "/" not in json.dumps(kept)
    upload.unlink()
    back, sentences = values_kept(form, kept, context)
    assert sentences == ["The task file 'mine.csv' is no longer here; upload it again."]
    assert back == values | {"file": None}
    assert "No file is chosen" in read_form(back).errors[0].message


def test_a_value_that_is_not_offered_here_is_named_and_left_out(
    form: Form, context: AppContext
) -> None:
    kept = {"device": "cuda:7", "settings.steps": "many", "settings.batch_size": 2}
    values, sentences = values_kept(form, kept, context)
    assert values == untouched(form) | {"settings.batch_size": 2}
    assert sentences == [
        "Steps and Device: this browser kept values that are not offered here; the usual ones "
        "stand."
    ]


def test_a_demo_takes_back_what_can_be_chosen_there(tmp_path: Path, upload: Path) -> None:
    context = replace(page_context(tmp_path / "runs"), access=demo_access())
    form = made_form(context)
    kept = {
        "task": "file", "file": name_upload(upload, context.runs_folder), "methods": ["lora"],
    }  # fmt: skip
    values, sentences = values_kept(form, kept, context)
    assert values == untouched(form) | {"methods": ["lora"]}
    assert sentences == [
        "Task: this browser kept a value that is not offered here; the usual one stands."
    ]


# ---------------------------------------------------------------- the page's events


@pytest.fixture(scope="module")
def handlers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The page's events by the names of their handlers."""
    page = app.build_page(page_context(tmp_path_factory.mktemp("runs")))
    return {event.name: event for event in page.fns.values()}


def values_sent(event: Any, **given: Any) -> list[Any]:
    """What the page sends for the event: its first values, and `given` by the element's id."""
    return [given.get(part.elem_id, part.value) for part in event.inputs]


def kept_of(event: Any, answer: list[Any]) -> Any:
    places = [n for n, part in enumerate(event.outputs) if "ft-kept" in (part.elem_classes or [])]
    return answer[places[0]]


def test_nothing_is_kept_before_the_form_holds_what_was_kept(handlers: dict[str, Any]) -> None:
    check = handlers["check"]
    given = values_sent(check, **{"f-settings-steps": 7})
    assert kept_of(check, check.fn(*given)) == gr.skip()
    given[-1] = READY
    kept = stored(kept_of(check, check.fn(*given)))
    assert json.loads(kept) == {"version": FORM.version, "values": {"settings.steps": 7}}


def test_what_is_typed_before_the_kept_form_comes_stays(handlers: dict[str, Any]) -> None:
    restore = handlers["restore"]
    given = values_sent(restore, **{"f-settings-steps": 7})
    given[0] = {"settings.steps": 3, "settings.batch_size": 2}
    answer = dict(zip([part.elem_id for part in restore.outputs], restore.fn(*given), strict=True))
    assert (answer["f-settings-steps"], answer["f-settings-batch-size"]) == (7, 2)


def test_a_cloned_form_wins_over_the_kept_one(handlers: dict[str, Any]) -> None:
    restore = handlers["restore"]
    given = [{"settings.steps": 3}, True, *values_sent(restore)[2:]]
    assert all(update == gr.skip() for update in restore.fn(*given))
    assert restore.fn(*[given[0], False, *given[2:]])[0] is True  # filled


def test_the_defaults_come_back_by_one_press(
    handlers: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gr, "Info", lambda *_, **__: None)
    anew = handlers["start_anew"]
    answer = anew.fn()
    for part, update in zip(anew.outputs, answer, strict=True):
        if part.elem_id and part.elem_id.startswith("f-") and not isinstance(update, dict):
            assert update == part.value, part.elem_id
    assert answer[-1] == READY


# ---------------------------------------------------------------- hostile kept forms


def hostile_files() -> list[Any]:
    digest = hashlib.sha256(f"prompt,completion\n{SECRET},yes\n".encode()).hexdigest()
    name = "theirs.csv"
    return [
        {"name": name, "digest": digest[:-1]},
        {"name": name, "digest": digest[:16]},
        {"name": name, "digest": digest.upper()},
        {"name": name, "digest": f"{digest}/"},
        {"name": name, "digest": f"{digest}\n"},
        {"name": name, "digest": f"../uploads/{digest}"},
        {"name": name, "digest": ".."},
        {"name": name, "digest": "*"},
        {"name": name, "digest": "0" * 64},
        {"name": name, "digest": ""},
        {"name": name, "digest": None},
        {"name": name, "digest": [digest]},
        {"name": name},
        {"digest": digest},
        {"name": "", "digest": digest},
        {"name": ".", "digest": digest},
        {"name": "*", "digest": digest},
        {"name": "THEIRS.csv", "digest": digest},
        {"name": f"./{name}", "digest": digest},
        {"name": f"../{digest}/{name}", "digest": digest},
        {"name": "../../../secret.csv", "digest": digest},
        {"name": [name], "digest": digest},
        {"name": {"name": name}, "digest": digest},
        {"name": "<img src=x onerror=alert(1)>" * 50, "digest": digest},
    ]


@pytest.mark.hostile("kept forms")
@pytest.mark.parametrize("file", hostile_files(), ids=str)
def test_no_file_of_another_visitor_is_found(
    file: Any, tmp_path: Path, form: Form, context: AppContext
) -> None:
    theirs = tmp_path / "theirs.csv"
    theirs.write_text(f"prompt,completion\n{SECRET},yes\n")
    kept = keep_upload(theirs, context.runs_folder)
    (kept.parent.parent / "secret.csv").write_text(theirs.read_text())
    values, sentences = values_kept(form, {"task": "file", "file": file}, context)
    assert values == untouched(form) | {"task": "file"}
    assert "upload it again" in sentences[0]
    assert len(sentences[0]) < 200
    shown = experiment.updates(values, list(form.components), context.access)
    assert SECRET not in repr(shown)


HOSTILE: list[dict[str, Any]] = [
    {"task": "/etc/passwd"},
    {"task": ["file"]},
    {"task": {"kind": "file"}},
    {"task": 7},
    {"file": "/etc/passwd"},
    {"file": ["/etc/passwd"]},
    {"file": None},
    {"file": 7},
    {"file_error": "<b>pwned</b>"},
    {READINESS: "pwned"},
    {METHOD_SETTINGS: {"lora.r": "4"}},
    {"methods": "lora"},
    {"methods": {"lora": True}},
    {"methods": None},
    {"lora.r": 4},
    {"lora.r": {"a": 1}},
    {"lora.__class__": "4"},
    {"__proto__": {"a": 1}},
    {"constructor": "x", "settings": {"steps": 3}},
    {"settings.steps": "<script>"},
    {"settings.steps": [1, 2]},
    {"settings.steps": True},
    {"settings.steps": {"a": {"b": {}}}},
    {"settings.gradient_checkpointing": "yes"},
    {"settings.gradient_checkpointing": 1},
    {"settings.report_to": "wandb"},
    {"settings.report_to": ["<script>"]},
    {"settings.report_to": [{"a": 1}]},
    {"settings.schedule": "../../x"},
    {"device": "cuda:99"},
    {"device": ["cpu"]},
    {"metric": "__import__"},
    {"hub.id": 7},
    {"extra": ["lora:r=4"]},
    {"match": {"lora": 1}},
    {"peft_json": {"peft_type": "LORA"}},
    {"model_name": 7},
    {"model": {"a": 1}},
    {"map.prompt": ["a"]},
]


@pytest.mark.hostile("kept forms")
@pytest.mark.parametrize("kept", HOSTILE, ids=str)
def test_a_value_that_no_field_can_hold_changes_nothing(
    kept: dict[str, Any], form: Form, context: AppContext
) -> None:
    values, sentences = values_kept(form, kept, context)
    no_methods = {"methods": []} if "methods" in kept else {}
    assert values == untouched(form) | no_methods
    assert len(sentences) <= 1
    assert "<" not in "".join(sentences)


@pytest.mark.hostile("kept forms")
@pytest.mark.parametrize(
    "kept",
    [
        {"model": "folder", "model_name": "SECRET"},
        {"model": "SECRET"},
        {"model": 7, "model_name": "SECRET"},
        {"model": "hub", "model_name": "../../SECRET"},
        {"task": "hub", "hub.id": "SECRET"},
        {"task": "hub", "hub.id": "../..", "hub.config": "\x00", "hub.split": "<b>"},
        {"task": "file", "map.prompt": 5, "map.completion": "<b>", "map.system": None},
        {"settings.steps": 1e300, "settings.batch_size": -1, "settings.learning_rate": "1e999"},
        {"methods": ["lora"] * 5_000 + [7, None, {}]},
        {"extra": "lora:r=4\n" * 2_000, "match": "9" * 5_000, "peft_json": "[" * 9_000},
        {"lora.r": "9" * 5_000, "lora.learning_rate": "nan", "lora.base": "<b>"},
    ],
    ids=lambda kept: str(kept)[:80],
)  # fmt: skip
def test_what_a_field_can_hold_is_checked_like_typed_input(
    kept: dict[str, Any], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 31_337}))
    kept = {
        name: value.replace("SECRET", str(secret)) if isinstance(value, str) else value
        for name, value in kept.items()
    }
    access = Access(folders=(tmp_path / "listed",))
    context = replace(page_context(tmp_path / "runs"), access=access)
    form = made_form(context)
    values, _ = values_kept(form, kept, context)
    shown: list[Callable[[], Any]] = [
        lambda: experiment.updates(values, list(form.components), access),
        lambda: experiment._say(form, values | {READINESS: READY}, context),
        lambda: experiment_task.model_html(allowed_values(values, access), context.models),
        lambda: experiment_task.preview_html(allowed_values(values, access)),
    ]
    said = "".join(repr(show()) for show in shown)
    assert "31337" not in said.replace(",", "")
    if str(secret) in str(kept):
        assert read_form(values, access).errors


@pytest.mark.parametrize("length", [16, 64])
def test_an_upload_of_an_older_runs_folder_is_found_too(
    length: int, upload: Path, context: AppContext
) -> None:
    older = upload.parent.rename(upload.parent.with_name(upload.parent.name[:length]))
    named = name_upload(older / upload.name, context.runs_folder)
    assert named["digest"] == older.name
    found = find_upload(named["name"], named["digest"], context.runs_folder)
    assert found == older / upload.name


def test_the_columns_that_a_form_brings_stay_until_another_data_set_is_named(
    handlers: dict[str, Any],
) -> None:
    event = handlers["show_columns"]
    given = values_sent(event, **{"f-task": "hub", "f-hub-id": "owner/name"})
    given[0] = ("owner/name", "", "")
    assert all(update == gr.skip() for update in event.fn(*given))
    given[0] = ("owner/other", "", "")
    data, row, prompt, *_ = event.fn(*given)
    assert (data, row["visible"], prompt["value"]) == (("owner/name", "", ""), False, "")
