"""What the Playground tab offers and asks, without a page."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.commands.options import add_generation, add_runs_folder, generation_request
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.panes import BASE, all_sources, find_source, uploaded_sources
from ftlab.playground.requests import GenerateRequest, validate_generate
from ftlab.records.store import Run, RunStore
from ftlab.tabs.playground.view import (
    EXAMPLES,
    NO_PANE,
    NOBODY,
    SETTINGS,
    describe_settings,
    engine_html,
    errors_of,
    example_prompts,
    free_place,
    make_request,
    room_choices,
    setup,
    setup_again,
    upload_files,
)
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run, make_sweep
from tests.playground.adapters import adapter_folder, adapter_zip, base_folder
from tests.playground.test_client import FAKE
from tests.tabs.playground.fakes import HELD_OUT, SETTINGS_AT_FIRST, SQL, lora

SHIPPED = ("shipped:sql", "shipped:shakespeare", "shipped:medical")
NOBODY_ELSE = (NOBODY,) * 2


def sweep(folder: Path, *methods: str, **more: Any) -> list[Run]:
    """Every run of the folder after a sweep was added."""
    make_sweep(folder, methods or ("full", "lora", "qlora", "prompt_tuning"), **more)
    return RunStore(folder).runs()


def with_settings(**changes: Any) -> dict[str, Any]:
    return SETTINGS_AT_FIRST | changes


def values(choices: list[tuple[str, str]]) -> list[str]:
    return [value for _, value in choices]


def test_without_a_run_the_base_answers_beside_the_shipped_adapters_with_their_examples(
    tmp_path: Path,
) -> None:
    now = setup([], tmp_path)
    assert not now.has_runs
    assert now.panes == (BASE, *SHIPPED, *NOBODY_ELSE)
    assert now.choices[0] == ("Nobody", NOBODY)
    assert set(values(now.choices)) == {NOBODY, BASE, *SHIPPED}
    assert now.models == [("SmolLM2-135M-Instruct (bundled)", BUNDLED_ID)]
    assert now.model == BUNDLED_ID
    sources = [find_source(tmp_path, name) for name in now.panes if name]
    found = example_prompts(sources, HELD_OUT)
    labels = ["SQL", "Shakespeare", "Medical summary"]
    assert [prompt.label.partition(":")[0] for prompt in found] == labels
    for prompt, source in zip(found, sources[1:], strict=True):
        assert prompt.text in HELD_OUT.prompts(source.task, 1)
        assert len(prompt.label) < 60


def test_base_and_the_first_runs_of_the_newest_sweep_are_chosen(tmp_path: Path) -> None:
    sweep(tmp_path, "lora", sweep_id="20261101-120000-aaaa")
    statuses = ("failed", "queued", "cancelled", "interrupted")
    others = [make_run(tmp_path, "lora", status).run_id for status in statuses]  # type: ignore[arg-type]
    unfinished = [run for run in RunStore(tmp_path).runs() if run.run_id in others]
    assert not setup(unfinished, tmp_path).has_runs
    runs = sweep(tmp_path)
    newest = [
        run.run_id
        for run in runs
        if run.spec.sweep_id.startswith("20261125") and run.spec.variant and run.status == "done"
    ]
    now = setup(runs, tmp_path)
    assert now.has_runs
    assert now.panes == (BASE, *newest[:3], *NOBODY_ELSE)
    assert len(newest) == 4
    assert not {*others} & {*values(now.choices)}, "only runs that are done can be chosen"
    assert [v for v in values(now.choices) if v.endswith("base")] == [BASE], "nor base runs"


def test_a_choice_is_kept_without_deleted_runs_and_replaced_if_all_are_deleted(
    tmp_path: Path,
) -> None:
    runs = sweep(tmp_path)
    first = setup(runs, tmp_path).panes
    now = setup(runs, tmp_path, None, [BASE, first[2], None, "gone", BASE])
    assert now.panes == (BASE, first[2], NOBODY, NOBODY, BASE, NOBODY)
    assert setup(runs, tmp_path, None, [BASE, "gone", "gone too"]).panes == first


def test_the_first_runs_replace_the_shipped_adapters_but_no_choice_of_a_visitor(
    tmp_path: Path,
) -> None:
    at_first = setup([], tmp_path)
    chosen = (SHIPPED[1], NOBODY, BASE)
    assert setup_again([], tmp_path, False, None, chosen).panes[:3] == chosen
    source = upload_files([str(adapter_zip(tmp_path / "mine.zip"))], tmp_path, BUNDLED_ID)
    runs = sweep(tmp_path, "lora")
    assert setup_again(runs, tmp_path, False, None, [BASE, source.name]).panes[1] == source.name
    assert setup_again(runs, tmp_path, True, None, chosen).panes[:3] == chosen
    runs = sweep(tmp_path, "lora", model="someone/other", sweep_id="20261126-120000-bbbb")
    now = setup_again(runs, tmp_path, False, at_first.model, at_first.panes)
    assert now.model == "someone/other"
    assert now.panes[:3] == (BASE, runs[-1].run_id, NOBODY)


def test_another_base_model_brings_its_own_runs(tmp_path: Path) -> None:
    sweep(tmp_path)
    other = make_run(tmp_path, "lora", model="someone/other", sweep_id="20261126-120000-bbbb")
    runs = RunStore(tmp_path).runs()
    newest = setup(runs, tmp_path)
    assert newest.model == "someone/other"
    assert newest.panes[:3] == (BASE, other.run_id, NOBODY)
    assert not set(SHIPPED) & set(values(newest.choices))
    assert newest.models == [
        ("someone/other", "someone/other"),
        ("SmolLM2-135M-Instruct (bundled)", BUNDLED_ID),
    ]
    bundled = setup(runs, tmp_path, "bundled", newest.panes)
    assert bundled.model == BUNDLED_ID
    assert other.run_id not in values(bundled.choices)
    assert bundled.panes[1] not in (other.run_id, NOBODY)
    gone = setup(runs, tmp_path, "someone/gone")
    assert gone.model == newest.model, "a model that no run has gives way"


def test_runs_of_one_variant_are_told_apart_by_task_time_and_number(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", hyperparameters={"r": 4})
    make_run(tmp_path, "lora", hyperparameters={"r": 4}, run_id="my-own-name")
    choices = setup(RunStore(tmp_path).runs(), tmp_path).choices
    own = [title for title, value in choices if title.startswith("LoRA r=4 · SQL · ")]
    assert sorted(title.rpartition(" · ")[2] for title in own) == ["ab12-00", "my-own-name"]


def test_an_uploaded_adapter_can_be_chosen_until_its_record_is_damaged(tmp_path: Path) -> None:
    source = upload_files([str(adapter_zip(tmp_path / "mine.zip"))], tmp_path, BUNDLED_ID)
    now = setup([], tmp_path, None, [BASE, source.name])
    assert now.panes[:3] == (BASE, source.name, NOBODY)
    assert dict(now.choices)["mine · LoRA r=2, uploaded"] == source.name
    assert source.folder is not None
    (source.folder / "pane.json").write_text("{ torn")
    assert source.name not in values(setup([], tmp_path, None, [source.name]).choices)
    shutil.rmtree(source.folder)
    assert source.name not in {known.name for known in all_sources([], tmp_path)}


# ---- uploaded adapters


def test_an_adapter_may_be_its_two_files_of_which_none_may_be_missing(tmp_path: Path) -> None:
    files = [str(file) for file in adapter_folder(tmp_path / "mine").iterdir()]
    for left_out in ("adapter_config.json", "adapter_model.safetensors"):
        with pytest.raises(FtlabError, match=f"{left_out} is not among the files"):
            upload_files([f for f in files if not f.endswith(left_out)], tmp_path, BUNDLED_ID)
    source = upload_files(files, tmp_path, BUNDLED_ID)
    assert source.label == "Uploaded adapter"
    assert uploaded_sources(tmp_path) == [source]


def test_an_adapter_of_another_base_takes_no_pane(tmp_path: Path) -> None:
    files = [str(adapter_zip(tmp_path / "mine.zip"))]
    base = base_folder(tmp_path / "small")
    with pytest.raises(FtlabError, match="names SmolLM2-135M-Instruct: choose that"):
        upload_files(files, tmp_path, str(base))
    assert uploaded_sources(tmp_path) == []
    # Of a base that is not on this machine, the name alone decides.
    with pytest.raises(FtlabError, match="base model of 'mine' is HuggingFaceTB/SmolLM2-135M"):
        upload_files(files, tmp_path, "someone/other")


def test_an_adapter_that_only_names_another_base_can_be_chosen(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "small", 576)
    source = upload_files([str(adapter_zip(tmp_path / "mine.zip"))], tmp_path, str(base))
    make_run(tmp_path, "lora", model=str(base))
    now = setup(RunStore(tmp_path).runs(), tmp_path, str(base), [BASE, source.name])
    assert now.panes[:2] == (BASE, source.name)


@pytest.mark.parametrize(
    ("chosen", "count", "found"),
    [
        ("a----b", 4, (1, 4)),
        ("abcd--", 4, (4, 5)),
        ("a-c---", 1, (1, 2)),
        ("abcdef", 4, (4, 5)),
        ("abcdef", 6, None),
    ],
)
def test_an_uploaded_adapter_gets_an_open_pane_or_none(
    chosen: str, count: int, found: tuple[int, int] | None
) -> None:
    names = [None if name == "-" else name for name in chosen]
    assert free_place(names, count) == found


def test_where_six_panes_are_taken_a_person_chooses_which_makes_room() -> None:
    choices = [("Base", "base"), ("mine · LoRA r=2", "adapter:mine")]
    assert room_choices(["base", "adapter:mine", None], choices) == [
        ("1: Base", 0), ("2: mine", 1), ("3: None", 2), ("None, keep it in the lists", NO_PANE),
    ]  # fmt: skip


# ---- example prompts


def test_panes_of_one_task_get_several_examples_and_panes_without_a_task_plain_prompts(
    tmp_path: Path, task_file: Path
) -> None:
    found = example_prompts([lora("a"), lora("b")], HELD_OUT)
    assert [prompt.text for prompt in found] == HELD_OUT.prompts(SQL, EXAMPLES)
    assert not any(prompt.label.startswith("SQL:") for prompt in found)
    own = example_prompts([lora(task=TaskReference("file", str(task_file)))], HELD_OUT)
    assert len(own) == EXAMPLES
    assert all(prompt.text.startswith("Repeat ") for prompt in own)
    gone = TaskReference("file", str(tmp_path / "gone.csv"))
    for sources in ([], [find_source(tmp_path, BASE)], [lora(task=gone)]):
        assert len(example_prompts(sources, HELD_OUT)) == EXAMPLES


# ---- the request


def test_a_request_takes_what_a_form_gives() -> None:
    asked = make_request("hi", "", "single", with_settings(temperature=0.5, seed=3.0), ["base"])
    assert asked == GenerateRequest(("base",), "hi", None, temperature=0.5, seed=3, top_p=1)
    assert isinstance(asked.max_new_tokens, int)
    assert isinstance(asked.seed, int)
    assert validate_generate(asked) == []


@pytest.mark.parametrize(
    ("mode", "asked"), [("single", "chat"), ("chat", "chat"), ("completion", "completion")]
)
def test_a_single_prompt_is_a_chats_first_turn(mode: str, asked: str) -> None:
    assert make_request("hi", None, mode, with_settings()).mode == asked


def test_every_setting_reaches_the_request_from_the_page_and_the_command_line() -> None:
    changed = dict(zip(SETTINGS, ("nf4", 12, 0.7, 0.9, 1.2, 5, "Be brief."), strict=True))
    asked = make_request("hi", "bundled", "completion", changed)
    assert {name: getattr(asked, name) for name in SETTINGS} == changed
    parser = argparse.ArgumentParser()
    add_generation(parser)
    add_runs_folder(parser)
    words = [f"--{name.replace('_', '-')}={value}" for name, value in changed.items()]
    options = parser.parse_args([*words, "--mode=completion", "--model=bundled"])
    assert generation_request(options, "hi") == replace(asked, panes=("base",))


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("max_new_tokens", None, "New tokens is empty; it must be a whole number."),
        ("max_new_tokens", 0.5, "New tokens is '0.5'; it must be a whole number."),
        ("max_new_tokens", True, "New tokens is 'True'; it must be a whole number."),
        ("temperature", "hot", "Temperature is 'hot'; it must be a number."),
        ("temperature", float("nan"), "Temperature is 'nan'; it must be a number."),
        ("system", ["Be brief."], "System prompt: ['Be brief.'] is no text; put it in quotes."),
    ],
)
def test_a_setting_of_a_wrong_type_is_named(field: str, value: Any, sentence: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_request("hi", None, "single", with_settings(**{field: value}), ["base"])
    assert caught.value.errors == (FieldError(field, sentence),)


def test_bounds_and_choices_are_left_to_the_validation() -> None:
    """So that a mode that does not exist is no silent chat, for example."""
    asked = make_request("hi", None, "essay", with_settings(top_p=0), ["base"])
    assert [error.field for error in validate_generate(asked)] == ["top_p", "mode"]


# ---- what is shown


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "Base in 16 bits, greedy, 96 new tokens"),
        (
            {"temperature": 0.8, "seed": 2.0},
            "Base in 16 bits, temperature 0.8, seed 2, 96 new tokens",
        ),
        (
            {"temperature": 1, "top_p": 0.9, "precision": "nf4"},
            "Base in 4 bits (NF4), temperature 1, top-p 0.9, seed 0, 96 new tokens",
        ),
        (
            {"repetition_penalty": 1.1, "system": "Be brief.", "max_new_tokens": 8},
            "Base in 16 bits, greedy, repetition penalty 1.1, 8 new tokens, own system prompt",
        ),
        ({"top_p": 0.5, "system": "  "}, "Base in 16 bits, greedy, 96 new tokens"),
        (dict.fromkeys(SETTINGS), "Base in ?, greedy, ? new tokens"),
    ],
)
def test_the_folded_settings_are_read_from_their_label(changes: dict[str, Any], label: str) -> None:
    assert describe_settings(with_settings(**changes)) == label


def test_sentences_stand_beside_their_own_fields() -> None:
    errors = [FieldError("prompt", "Empty."), FieldError("seed", "<b>Wrong.</b>")]
    assert "Empty." in errors_of(errors, "prompt")
    assert "Wrong." not in errors_of(errors, "prompt", "system")
    assert "&lt;b&gt;Wrong." in errors_of(errors, *SETTINGS)


def test_the_engines_memory_is_shown_while_it_is_loaded(tmp_path: Path) -> None:
    client = PlaygroundClient(tmp_path, FAKE)
    assert "engine not loaded" in engine_html(client)
    client.generate_all(GenerateRequest(("base",), "hello"))
    assert "engine holds" in engine_html(client)
    assert "MB" in engine_html(client)
    client.close()
    assert "engine not loaded" in engine_html(client)
