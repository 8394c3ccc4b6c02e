"""The Experiment tab without a browser: form to request, previews, queue."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.basics.recent import Recent
from ftlab.jobs import inputs
from ftlab.jobs.control import request_cancel, requested_cancels
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant
from ftlab.playground.client import PlaygroundClient
from ftlab.records.store import RunStore
from ftlab.settings.schema import fields_of
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.tabs.context import AppContext
from ftlab.tabs.experiment import fields, method_view, queue, request
from ftlab.tabs.experiment import tab as experiment
from ftlab.tabs.experiment import task as experiment_task
from ftlab.tabs.experiment.fields import Form, element_id
from ftlab.tabs.experiment.queue import (
    NEWEST,
    SweepView,
    queue_heading,
    queue_html,
    sweep_choices,
    view_sweep,
)
from ftlab.tasks.files import ColumnMapping
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run, make_sweep
from tests.tabs.page_fakes import page_context

SQL = TaskReference("bundled", "sql")
NUMBERS = [
    PREFIX + name
    for name, described in fields_of(TrainingSettings).items()
    if described.kind in ("whole", "real") and not described.setting.empty
]
WHOLE = [
    name
    for name in NUMBERS
    if fields_of(TrainingSettings)[name.removeprefix(PREFIX)].kind == "whole"
]


def read(methods: list[str] | None = None, **values: Any) -> request.Reading:
    named = {name.replace("__", "."): value for name, value in values.items()}
    return request.read_request("bundled", SQL, methods or ["lora"], named)


# ---------------------------------------------------------------- form to request


def test_an_untouched_form_is_a_valid_request() -> None:
    reading = request.read_form({"methods": list(METHODS), "task": "sql"})
    assert reading.errors == ()
    assert [variant.method for variant in reading.checked().variants] == list(METHODS)


@pytest.mark.parametrize("field", NUMBERS)
@pytest.mark.parametrize("value", [None, "", "many", math.nan, math.inf, -1, True])
def test_a_wrong_number_is_told_at_its_field(field: str, value: Any) -> None:
    errors = request.read_request("bundled", SQL, ["lora"], {field: value}).errors
    assert [error.field for error in errors] == [field]
    assert errors[0].message.endswith(".")


@pytest.mark.parametrize("field", WHOLE)
def test_half_a_step_is_refused(field: str) -> None:
    errors = request.read_request("bundled", SQL, ["lora"], {field: 2.5}).errors
    assert "whole number" in errors[0].message


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", (0,)), ("0,1,2", (0, 1, 2)), (" 3 4 ", (3, 4)), (7, (7,))]
)
def test_seeds_are_read_from_text(text: Any, seeds: tuple[int, ...]) -> None:
    assert read(seeds=text).checked().seeds == seeds


@pytest.mark.parametrize("text", ["", None, "a", "1,1", "-1", "1.5", "nan", str(2**32)])
def test_wrong_seeds_are_told_at_their_field(text: Any) -> None:
    assert {error.field for error in read(seeds=text).errors} == {"seeds"}


@pytest.mark.parametrize("value", ["x", 0, -1, 99, "nan"])
def test_a_wrong_learning_rate_of_a_method(value: Any) -> None:
    assert [error.field for error in read(lora__learning_rate=value).errors] == [
        "lora.learning_rate"
    ]


@pytest.mark.parametrize("value", [None, "", "  "])
def test_an_empty_learning_rate_is_the_methods_own(value: Any) -> None:
    reading = read(lora__learning_rate=value, settings__learning_rate=value)
    assert reading.checked().variants == (Variant("lora"),)
    assert reading.request.settings.learning_rate is None


@pytest.mark.parametrize(
    ("given", "every"), [(None, None), ("", None), (" ", None), ("0", 0), ("50", 50), (50, 50)]
)
def test_how_often_a_run_is_kept_is_left_to_its_steps_where_nothing_is_said(
    given: Any, every: int | None
) -> None:
    assert read(settings__checkpoint_every=given).checked().settings.checkpoint_every == every


@pytest.mark.parametrize("given", ["often", "1.5", "-1", "nan", "1e9"])
def test_a_wrong_number_of_steps_between_checkpoints_is_told_at_its_field(given: str) -> None:
    errors = read(settings__checkpoint_every=given).errors
    assert [error.field for error in errors] == ["settings.checkpoint_every"]
    assert "Steps between checkpoints" in errors[0].message


def test_a_hyperparameter_that_is_its_default_leaves_no_trace() -> None:
    variants = read(lora__r=4, lora__alpha=16).checked().variants
    assert variants == (Variant("lora", {"r": 4}),)


@pytest.mark.parametrize("value", [None, 0, 9999, 2.5, "x"])
def test_a_wrong_rank_is_told_at_its_field(value: Any) -> None:
    assert [error.field for error in read(lora__r=value).errors] == ["lora.r"]


def test_a_method_that_is_not_ticked_is_not_checked() -> None:
    assert read(["full"], lora__r=0).errors == ()


def test_further_variants_are_read_line_by_line() -> None:
    variants = read(extra="lora:r=4\n\n lora:r=32,alpha=64 ").checked().variants
    assert [variant.label for variant in variants] == ["LoRA", "LoRA r=4", "LoRA alpha=64 r=32"]


@pytest.mark.parametrize("line", ["lorra", "lora:q=4", "lora:r=x", "lora:r=0", "lora:r"])
def test_a_wrong_variant_is_told_at_the_field_it_was_typed_in(line: str) -> None:
    assert [error.field for error in read(extra=line).errors] == ["extra"]


def test_a_variant_that_is_there_twice_is_refused() -> None:
    assert "twice" in read(extra="lora").errors[0].message


def test_no_method_is_one_sentence() -> None:
    reading = request.read_request("bundled", SQL, [], {})
    with pytest.raises(InvalidRequest, match="No method is chosen"):
        reading.checked()


def test_all_wrong_fields_are_told_at_once() -> None:
    errors = read(settings__steps=0, seeds="a", lora__r=0, device="tpu").errors
    assert {error.field for error in errors} == {"settings.steps", "seeds", "lora.r", "device"}
    assert request.one_sentence(errors).endswith("(3 more fields to put right.)")


@pytest.mark.parametrize(
    ("values", "model"),
    [
        ({"model": "bundled", "model_name": "ignored"}, "bundled"),
        ({"model": "folder", "model_name": " models/mine "}, "./models/mine"),
        ({"model": "folder", "model_name": "/models/mine"}, "/models/mine"),
        ({"model": "hub", "model_name": "owner/name"}, "owner/name"),
    ],
)
def test_the_models_name(values: dict[str, Any], model: str) -> None:
    assert request.read_model(values) == model


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "hub"}, "No model is named"),
        ({"task": "file"}, "No file is chosen"),
        ({"task": "file", "file_error": "bad.csv is empty."}, "bad.csv is empty."),
        ({"task": "hub"}, "No data set is named"),
        ({"task": "hub", "hub.id": "../x"}, "no data set id"),
    ],
)
def test_a_form_says_what_it_waits_for(values: dict[str, Any], words: str) -> None:
    errors = request.read_form({"methods": ["lora"], "task": "sql"} | values).errors
    assert len(errors) == 1
    assert words in errors[0].message


# ---------------------------------------------------------------- errors beside fields


@pytest.fixture(scope="module")
def form(tmp_path_factory: pytest.TempPathFactory) -> Form:
    """The form as the page has it."""
    made, context = Form(), page_context(tmp_path_factory.mktemp("runs"))
    with gr.Blocks():
        experiment_task.build_model_and_task(made, context)
        experiment_task.build_settings(made)
        experiment._build_methods(made)
    return made


PLACES = {
    PREFIX + name: described.setting.place == "main"
    for name, described in fields_of(TrainingSettings).items()
    if described.setting.is_on_form
}


@pytest.mark.parametrize(
    ("field", "slot"),
    [
        ("model", "model"),
        ("task.id", "task"),
        ("settings.steps", "settings"),
        ("seeds", "settings"),
        ("settings.learning_rate", "advanced"),
        ("device", "advanced"),
        ("variants", "methods"),
        ("lora.r", "methods"),
        ("extra", "extra"),
        ("match", "match"),
        ("peft_json", "peft_json"),
        ("peft.config", "peft_json"),
        ("peft.learning_rate", "peft_json"),
        *((name, "settings" if is_main else "advanced") for name, is_main in PLACES.items()),
    ],
)
def test_each_field_has_a_slot(field: str, slot: str, form: Form) -> None:
    assert form.slot_of(field) == slot


def test_an_error_stands_in_its_slot_and_frames_its_field(form: Form) -> None:
    slots = dict(zip(form.slots, form.slot_html(read(settings__steps=-3).errors), strict=True))
    assert "Steps is -3" in slots["settings"]
    assert f"#{element_id('settings.steps')} " in slots["settings"]
    assert slots["extra"] == ""


def test_text_of_a_field_is_escaped_in_its_error(form: Form) -> None:
    html = "".join(form.slot_html(read(extra="</style><script>").errors))
    assert "&lt;script&gt;" in html
    assert "<script>" not in html


# ---------------------------------------------------------------- launch bar


def test_the_launch_bar_repeats_what_the_press_will_do() -> None:
    reading = read(
        ["full", "lora", "qlora"], seeds="0,1", settings__steps=5, settings__batch_size=8
    )
    line = fields.launch_line(reading.checked(), ())
    assert "6 runs + 2 base runs" in line
    assert "5 steps of 8 examples" in line
    assert "not applicable" not in line
    assert fields.launch_button(reading.request, ()) == "Launch 6 runs"


def test_the_launch_bar_counts_what_does_not_go_with_the_model() -> None:
    line = fields.launch_line(
        read(["lora", "bitfit"]).request, (), {"bitfit": "No biases.", "ia3": "Not here."}
    )
    assert "1 not applicable here" in line


def test_the_launch_bar_shows_no_more_colours_than_it_has_room_for() -> None:
    reading = read(list(METHODS))
    line = fields.launch_line(reading.request, ())
    assert line.count('class="sw"') == 12
    assert f" +{len(METHODS) - 12}<" in line


def test_the_launch_bar_names_the_first_wrong_field() -> None:
    reading = read(settings__steps=-3)
    assert "Steps is -3" in fields.launch_line(reading.request, reading.errors)


def test_the_folded_settings_say_their_values() -> None:
    assert "linear" in fields.advanced_summary(read(settings__schedule="linear").request)


def test_a_press_says_itself_what_is_chosen() -> None:
    pressed = '{"on": ["lora", "evil"], "settings": {"lora.r": "4", "seeds": "9"}}'
    assert experiment.chosen_as_pressed(pressed) == {"methods": ["lora"], "lora.r": "4"}


@pytest.mark.parametrize("pressed", ["", "no JSON", "[]", "null"])
def test_a_press_from_elsewhere_leaves_what_was_told_before(pressed: str) -> None:
    assert experiment.chosen_as_pressed(pressed) == {}


# ---------------------------------------------------------------- preview and upload


def test_the_preview_without_a_model_shows_prompt_and_completion(tmp_path: Path) -> None:
    html = method_view.task_preview("owner/never-fetched", SQL)
    assert html.count("<mark>") == 1 + method_view.EXAMPLES
    assert "2,400 to train" in html


def test_an_uploaded_file_fills_the_column_fields(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("question,answer\n" + "".join(f"q{i},<b>{i}\n" for i in range(20)))
    kept, error, _, prompt, completion, chat, _ = experiment_task.read_upload(
        str(file), tmp_path / "runs"
    )
    assert error == ""
    assert (prompt["value"], completion["value"], chat["value"]) == ("question", "answer", "")
    file.unlink()
    html = experiment_task.preview_html({"task": "file", "file": kept})
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


def test_a_broken_file_is_one_sentence_and_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("question,answer\na,b,c\n")
    kept, error, *_ = experiment_task.read_upload(str(file), tmp_path / "runs")
    assert kept is None
    assert "3 cells" in error
    assert not (tmp_path / "runs").exists()


def test_a_hub_task_is_read_only_when_asked() -> None:
    html = experiment_task.preview_html({"task": "hub", "hub.id": "owner/name"})
    assert "Read its first rows" in html


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A Hub with data sets of one shape; the list holds what was asked of it."""
    asked: list[tuple[Any, ...]] = []

    def load(*wanted: Any) -> list[dict[str, Any]]:
        asked.append(wanted)
        if "gone" in wanted[0]:
            raise FtlabError("Could not read <it>.")
        return [{"alpha": f"t{i}", "beta": f"<b>{i}", "gamma": f"n{i}"} for i in range(30)]

    monkeypatch.setattr(inputs, "load_hub_rows", load)
    monkeypatch.setattr(inputs, "_keep_torch_out", lambda: None)
    monkeypatch.setattr(inputs, "_HUB_ROWS", Recent(2))
    return asked


HUB = {"task": "hub", "hub.id": "owner/name", "methods": ["lora"]}


def test_reading_the_first_rows_fills_the_column_fields(hub: list[tuple[Any, ...]]) -> None:
    html, row, prompt, completion, *_ = experiment_task.read_hub(HUB | {"hub.split": "test"})
    assert hub == [("owner/name", None, "test")]
    assert row["visible"]
    assert [value for _, value in prompt["choices"]] == ["", "alpha", "beta", "gamma"]
    assert (prompt["value"], completion["value"]) == ("", "")  # nothing in the names says it
    assert "No column is set for the prompt" in html


def test_columns_of_a_hub_task_are_chosen_without_asking_again(hub: list[tuple[Any, ...]]) -> None:
    experiment_task.read_hub(HUB)
    chosen = HUB | {"map.prompt": "alpha", "map.completion": "beta", "map.system": ""}
    html = experiment_task.preview_html(chosen)
    assert "24 to train" in html
    assert "&lt;b&gt;" in html
    assert len(hub) == 1
    task = request.read_form(chosen | {"metric": "exact_match"}).checked().task
    assert task.mapping == ColumnMapping(prompt="alpha", completion="beta")
    assert task.metric == "exact_match"


def test_reading_again_keeps_the_columns_that_the_rows_have(hub: list[tuple[Any, ...]]) -> None:
    chosen = HUB | {"map.prompt": "alpha", "map.completion": "beta"}
    html, _, prompt, completion, *_ = experiment_task.read_hub(chosen)
    assert (prompt["value"], completion["value"]) == ("alpha", "beta")
    assert "to train" in html
    _, _, prompt, *_ = experiment_task.read_hub(chosen | {"map.prompt": "of another file"})
    assert prompt["value"] == ""
    assert len(hub) == 2


@pytest.mark.parametrize("name", ["owner/gone", "../x", ""])
def test_a_hub_task_that_cannot_be_read_has_no_columns(
    hub: list[tuple[Any, ...]], name: str
) -> None:
    html, row, *fields = experiment_task.read_hub(HUB | {"hub.id": name})
    assert ("Could not read &lt;it&gt;." in html) == (name == "owner/gone")
    assert not row["visible"]
    assert all(field["value"] == "" for field in fields)


def test_columns_are_those_of_the_task_that_is_chosen(
    hub: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(20)))
    experiment_task.read_hub(HUB)
    both = HUB | {"file": str(file)}

    def columns(values: dict[str, Any]) -> set[str]:
        return {name for row in experiment_task.rows_at_hand(values) for name in row}

    assert columns(both) == {"alpha", "beta", "gamma"}
    assert columns(both | {"hub.id": "owner/other"}) == set()
    assert columns(both | {"task": "file"}) == {"question", "answer"}
    assert columns(both | {"task": "sql"}) == set()
    file.unlink()
    assert columns(both | {"task": "file"}) == set()


# ---------------------------------------------------------------- queue


def view(folder: Path, wanted: str = NEWEST, **kw: Any) -> SweepView:
    found = view_sweep(RunStore(folder).runs(), wanted, **kw)
    assert found is not None
    return found


def test_the_newest_sweep_is_shown_unless_another_is_chosen(tmp_path: Path) -> None:
    make_sweep(tmp_path, ["lora"], sweep_id="20260101-000000-aaaa")
    make_sweep(tmp_path, ["full"], sweep_id="20260102-000000-bbbb")
    assert view(tmp_path).sweep_id.endswith("bbbb")
    assert view(tmp_path, "20260101-000000-aaaa").sweep_id.endswith("aaaa")
    assert view(tmp_path, "deleted").sweep_id.endswith("bbbb")
    values = [value for _, value in sweep_choices(RunStore(tmp_path).runs())]
    assert values == [NEWEST, "20260102-000000-bbbb", "20260101-000000-aaaa"]


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    assert view_sweep([], NEWEST) is None
    assert "press Launch" in queue_html(None)


def test_a_running_run_shows_phase_step_loss_and_what_is_left(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "running", losses=[3.0, 2.0, 1.5])
    html = queue_html(view(tmp_path))
    assert ">training<" in html
    assert "<b>3</b>/30" in html
    assert "<b>1.50</b>" in html
    assert '<span class="pred">54 s</span> left' in html
    assert 'role="progressbar"' in html
    assert 'aria-valuenow="8"' in html
    assert ">Cancel<" in html


def test_a_finished_run_shows_peak_and_total_and_no_cancel(tmp_path: Path) -> None:
    make_run(tmp_path, "lora")
    shown = view(tmp_path)
    html = queue_html(shown)
    assert re.search(r"net of the process[^>]*1.79 GB with it[^>]*><b>1.29 GB</b>", html)
    assert "1 min 21 s" in html
    assert "data-run" not in html + queue_heading(shown)


def test_the_reason_of_a_failed_run_is_text(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "failed", reason="<b>torn</b> file")
    html = queue_html(view(tmp_path))
    assert "&lt;b&gt;torn&lt;/b&gt; file" in html
    assert "failed" in html


def test_a_run_that_is_being_ended_cannot_be_cancelled_again(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", "running")
    html = queue_html(view(tmp_path, cancelling={run.run_id}))
    assert "Ending …" in html
    assert "data-run" not in html


def test_seeds_are_named_where_there_are_several(tmp_path: Path) -> None:
    make_sweep(tmp_path, ["lora"], seeds=(0, 1))
    html = queue_html(view(tmp_path))
    assert "seed 0" in html
    assert "seed 1" in html


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppContext:
    monkeypatch.setattr("ftlab.jobs.control.start_dispatcher", lambda folder: None)
    return AppContext(tmp_path, RunStore(tmp_path), PlaygroundClient(tmp_path))


def test_cancel_all_ends_the_open_runs_of_the_shown_sweep(context: AppContext) -> None:
    make_run(context.runs_folder, "full")
    queued = make_run(context.runs_folder, "lora", "queued")
    other = make_run(context.runs_folder, "lora", "queued", sweep_id="20250101-000000-aaaa")
    queue.cancel_runs(context, "all", queued.spec().sweep_id)
    assert requested_cancels(context.runs_folder) == {queued.run_id}
    assert other.run_id not in requested_cancels(context.runs_folder)


@pytest.mark.parametrize("run_id", ["unknown-run", "../../etc", ""])
def test_a_run_that_is_not_there_cannot_be_cancelled(context: AppContext, run_id: str) -> None:
    with pytest.raises(FtlabError, match="There is no run"):
        queue.cancel_runs(context, run_id, NEWEST)


def test_the_page_brings_the_dispatcher_back_while_a_run_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(queue, "ensure_dispatcher", asked.append)
    keeper = queue.Keeper(tmp_path)
    make_run(tmp_path, "full")
    make_run(tmp_path, "lora", "running")
    assert keeper.keep(RunStore(tmp_path).runs()) == ""
    assert asked == []
    make_run(tmp_path, "lora", "queued")
    for _ in range(3):  # ticks of several visitors
        keeper.keep(RunStore(tmp_path).runs())
    assert asked == [tmp_path]


def test_a_dispatcher_that_cannot_be_started_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise FtlabError("No space is left.")

    monkeypatch.setattr(queue, "ensure_dispatcher", refuse)
    make_run(tmp_path, "lora", "queued")
    keeper = queue.Keeper(tmp_path)
    runs = RunStore(tmp_path).runs()
    assert [keeper.keep(runs), keeper.keep(runs)] == ["No space is left."] * 2


def test_a_cancel_of_an_ended_run_is_no_error(context: AppContext) -> None:
    run = make_run(context.runs_folder, "lora")
    request_cancel(context.runs_folder, [run.run_id])
