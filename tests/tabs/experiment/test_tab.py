"""The form's fields and error slots, the launch bar, the previews of the task."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from ftlab.basics.errors import FieldError, FtlabError
from ftlab.basics.recent import Recent
from ftlab.jobs import inputs
from ftlab.methods.registry import METHODS
from ftlab.settings.schema import fields_of
from ftlab.settings.training import PREFIX, TrainingSettings
from ftlab.tabs.experiment import fields, method_view
from ftlab.tabs.experiment import tab as experiment
from ftlab.tabs.experiment import task as experiment_task
from ftlab.tabs.experiment.fields import Form, element_id
from ftlab.tabs.experiment.request import read_form
from ftlab.tasks.files import ColumnMapping
from tests.tabs.experiment.test_request import SQL, read
from tests.tabs.page_fakes import page_context

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


def test_the_launch_bar_counts_methods_that_are_not_applicable() -> None:
    line = fields.launch_line(
        read(["lora", "bitfit"]).request, (), {"bitfit": "No biases.", "ia3": "Not here."}
    )
    assert "1 not applicable here" in line


def test_a_sweep_without_full_fine_tuning_says_once_what_compare_will_lack() -> None:
    line = fields.launch_line(read(["lora", "qlora"]).request, ())
    assert line.count("Compare and the card cannot say what is saved") == 2  # shown, and kept
    assert 'data-add="full"' in line
    for ticked in (["full", "lora"], ["full"]):
        assert "what is saved" not in fields.launch_line(read(ticked).request, ())
    wrong = read(["lora"], settings__steps=-3)
    assert "what is saved" not in fields.launch_line(wrong.request, wrong.errors)


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


def test_a_press_sends_the_choice() -> None:
    pressed = '{"on": ["lora", "evil"], "settings": {"lora.r": "4", "seeds": "9"}}'
    assert experiment.chosen_as_pressed(pressed) == {"methods": ["lora"], "lora.r": "4"}


@pytest.mark.parametrize("pressed", ["", "no JSON", "[]", "null"])
def test_a_press_without_a_choice_leaves_the_last_one(pressed: str) -> None:
    assert experiment.chosen_as_pressed(pressed) == {}


# ---------------------------------------------------------------- preview and upload


def test_the_preview_without_a_model_shows_prompt_and_completion() -> None:
    html = method_view.task_preview("owner/never-fetched", SQL)
    assert html.count("<mark>") == 1 + method_view.EXAMPLES
    assert "2,400 to train" in html


def test_the_preview_with_a_model_shows_its_chat_template_once_and_counts_tokens(
    tiny_model: Path,
) -> None:
    html = method_view.task_preview(str(tiny_model), SQL)
    assert html.count("Around each: the chat template") == 1
    assert len(re.findall(r">\d+ tokens<", html)) == method_view.EXAMPLES


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
    task = read_form(chosen | {"metric": "exact_match"}).checked().task
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


def test_an_error_without_a_field_leaves_launch_enabled() -> None:
    assert not fields.blocks_launch([FieldError("", "The disk is full.")])
    assert fields.blocks_launch([FieldError("settings.steps", "Steps is 0.")])
