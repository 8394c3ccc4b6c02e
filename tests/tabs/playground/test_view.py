"""What the Playground tab offers and asks, without a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FieldError, FtlabError
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import BASE, all_sources, find_source, uploaded_sources
from ftlab.playground.requests import GenerateRequest, validate_generate
from ftlab.records.store import Run, RunStore
from ftlab.tabs.playground.view import (
    EXAMPLES,
    NO_PANE,
    NOBODY,
    SETTINGS,
    bring_files,
    describe_settings,
    engine_html,
    errors_of,
    example_prompts,
    free_place,
    make_request,
    room_choices,
    setup,
    setup_again,
)
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run, make_sweep
from tests.playground.adapters import adapter_folder, adapter_zip, base_folder
from tests.playground.test_client import FAKE
from tests.tabs.playground.fakes import SETTINGS_AT_FIRST, SQL, lora

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


def test_without_a_run_the_base_answers_beside_the_adapters_that_ship(tmp_path: Path) -> None:
    now = setup([], tmp_path)
    assert not now.has_runs
    assert now.panes == (BASE, *SHIPPED, *NOBODY_ELSE)
    assert now.choices[0] == ("Nobody", NOBODY)
    assert set(values(now.choices)) == {NOBODY, BASE, *SHIPPED}
    assert (now.models, now.model) == (
        [("SmolLM2-135M-Instruct (bundled)", BUNDLED_ID)],
        BUNDLED_ID,
    )


def test_the_shipped_adapters_have_an_example_prompt_each(tmp_path: Path) -> None:
    sources = [find_source(tmp_path, name) for name in setup([], tmp_path).panes if name]
    found = example_prompts(sources, HeldOut())
    assert [prompt.label.partition(":")[0] for prompt in found] == [
        "SQL",
        "Shakespeare",
        "Medical summary",
    ]
    for prompt, source in zip(found, sources[1:], strict=True):
        assert prompt.text in HeldOut().prompts(source.task, 1)
        assert len(prompt.label) < 60


def test_base_and_the_newest_sweeps_first_runs_are_chosen(tmp_path: Path) -> None:
    sweep(tmp_path, "lora", sweep_id="20261101-120000-aaaa")
    runs = sweep(tmp_path)
    newest = [r.run_id for r in runs if r.spec.sweep_id.startswith("20261125") and r.spec.variant]
    now = setup(runs, tmp_path)
    assert now.has_runs
    assert now.panes == (BASE, *newest[:3], *NOBODY_ELSE)
    assert len(newest) == 4


def test_a_base_run_is_no_choice_of_its_own(tmp_path: Path) -> None:
    runs = sweep(tmp_path, "lora")
    assert [v for v in values(setup(runs, tmp_path).choices) if v.endswith("base")] == [BASE]


@pytest.mark.parametrize("status", ["failed", "queued", "cancelled", "interrupted"])
def test_only_runs_that_are_done_can_be_chosen(tmp_path: Path, status: Any) -> None:
    run = make_run(tmp_path, "lora", status)
    now = setup(RunStore(tmp_path).runs(), tmp_path)
    assert not now.has_runs
    assert run.run_id not in values(now.choices)


def test_a_choice_is_kept_and_a_deleted_run_makes_room(tmp_path: Path) -> None:
    runs = sweep(tmp_path)
    kept = setup(runs, tmp_path).panes[2]
    now = setup(runs, tmp_path, None, [BASE, kept, None, "gone", BASE])
    assert now.panes == (BASE, kept, NOBODY, NOBODY, BASE, NOBODY)


def test_where_every_chosen_run_was_deleted_others_take_their_places(tmp_path: Path) -> None:
    runs = sweep(tmp_path, "lora")
    now = setup(runs, tmp_path, None, [BASE, "gone", "gone too"])
    assert now.panes[:3] == (BASE, runs[-1].run_id, NOBODY)


def test_the_first_runs_take_the_place_of_the_adapters_that_ship(tmp_path: Path) -> None:
    at_first = setup([], tmp_path)
    runs = sweep(tmp_path, "lora", model="someone/other")
    now = setup_again(runs, tmp_path, False, at_first.model, at_first.panes)
    assert now.model == "someone/other"
    assert now.panes[:3] == (BASE, runs[-1].run_id, NOBODY)


def test_an_adapter_that_ships_is_kept_by_who_chose_it_beside_runs(tmp_path: Path) -> None:
    runs = sweep(tmp_path, "lora")
    chosen = [BASE, SHIPPED[0], NOBODY]
    assert setup_again(runs, tmp_path, True, None, chosen).panes[:3] == tuple(chosen)


def test_while_there_is_no_run_a_choice_among_those_that_ship_is_kept(tmp_path: Path) -> None:
    chosen = (SHIPPED[1], NOBODY, BASE)
    assert setup_again([], tmp_path, False, None, chosen).panes[:3] == chosen


def test_an_adapter_brought_along_is_not_put_away_for_a_first_run(tmp_path: Path) -> None:
    source = bring_files([str(adapter_zip(tmp_path / "mine.zip"))], tmp_path, BUNDLED_ID)
    runs = sweep(tmp_path, "lora")
    assert setup_again(runs, tmp_path, False, None, [BASE, source.name]).panes[1] == source.name


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


def test_a_model_that_no_run_has_any_more_gives_way_to_one_that_is_there(tmp_path: Path) -> None:
    assert setup(sweep(tmp_path), tmp_path, "someone/gone").model == BUNDLED_ID


def test_runs_of_one_variant_are_told_apart_by_task_time_and_number(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", hyperparameters={"r": 4})
    make_run(tmp_path, "lora", hyperparameters={"r": 4}, run_id="my-own-name")
    choices = setup(RunStore(tmp_path).runs(), tmp_path).choices
    own = [title for title, value in choices if title.startswith("LoRA r=4 · SQL · ")]
    assert sorted(title.rpartition(" · ")[2] for title in own) == ["ab12-00", "my-own-name"]


def test_an_adapter_brought_along_can_be_chosen_and_is_kept(tmp_path: Path) -> None:
    source = bring_files([str(adapter_zip(tmp_path / "mine.zip"))], tmp_path, BUNDLED_ID)
    now = setup([], tmp_path, None, [BASE, source.name])
    assert now.panes[:3] == (BASE, source.name, NOBODY)
    assert dict(now.choices)["mine · LoRA r=2, uploaded"] == source.name


# ---- bringing adapters


def test_an_adapter_may_be_its_two_files(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "mine")
    files = [str(file) for file in folder.iterdir()]
    source = bring_files(files, tmp_path, BUNDLED_ID)
    assert source.label == "Adapter brought along"
    assert uploaded_sources(tmp_path) == [source]


@pytest.mark.parametrize("left_out", ["adapter_config.json", "adapter_model.safetensors"])
def test_one_file_of_two_is_asked_for_by_name(tmp_path: Path, left_out: str) -> None:
    folder = adapter_folder(tmp_path / "mine")
    (folder / left_out).unlink()
    with pytest.raises(FtlabError, match=f"{left_out} is not among the files"):
        bring_files([str(file) for file in folder.iterdir()], tmp_path, BUNDLED_ID)


def test_an_adapter_of_another_base_takes_no_pane(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "small")
    with pytest.raises(FtlabError, match="names SmolLM2-135M-Instruct: choose that"):
        bring_files([str(adapter_zip(tmp_path / "mine.zip"))], tmp_path, str(base))
    assert uploaded_sources(tmp_path) == []


def test_of_a_base_that_is_not_here_the_name_alone_decides(tmp_path: Path) -> None:
    adapter = adapter_zip(tmp_path / "mine.zip")
    with pytest.raises(FtlabError, match="base model of 'mine' is HuggingFaceTB/SmolLM2-135M"):
        bring_files([str(adapter)], tmp_path, "someone/other")


def test_an_adapter_that_only_names_another_base_can_be_chosen(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "small", 576)
    source = bring_files([str(adapter_zip(tmp_path / "mine.zip"))], tmp_path, str(base))
    runs = [make_run(tmp_path, "lora", model=str(base))]
    now = setup(RunStore(tmp_path).runs(), tmp_path, str(base), [BASE, source.name])
    assert len(runs) == 1
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
def test_a_newcomer_gets_a_pane_that_is_seen_or_none_by_itself(
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


def test_several_examples_are_offered_where_the_panes_share_a_task(tmp_path: Path) -> None:
    sources = [lora("a"), lora("b")]
    found = example_prompts(sources, HeldOut())
    assert [prompt.text for prompt in found] == HeldOut().prompts(SQL, EXAMPLES)
    assert not any(prompt.label.startswith("SQL:") for prompt in found)


def test_without_a_task_there_are_plain_prompts(tmp_path: Path) -> None:
    gone = TaskReference("file", str(tmp_path / "gone.csv"))
    for sources in ([], [find_source(tmp_path, BASE)], [lora(task=gone)]):
        assert len(example_prompts(sources, HeldOut())) == EXAMPLES


def test_a_runs_own_file_gives_its_examples(tmp_path: Path, task_file: Path) -> None:
    own = TaskReference("file", str(task_file))
    found = example_prompts([lora(task=own)], HeldOut())
    assert len(found) == EXAMPLES
    assert all(prompt.text.startswith("Repeat ") for prompt in found)


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


def test_every_setting_reaches_the_request() -> None:
    changed = dict(
        zip(SETTINGS, ("nf4", 12, 0.7, 0.9, 1.2, 5, "Be brief."), strict=True)
    )  # fmt: skip
    asked = make_request("hi", "bundled", "chat", changed)
    assert {name: getattr(asked, name) for name in SETTINGS} == changed


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("precision", "int3", "Base held in: 'int3' is none of"),
        ("max_new_tokens", None, "New tokens: None is no whole number"),
        ("max_new_tokens", 0.5, "New tokens: 0.5 is no whole number"),
        ("max_new_tokens", 1e6, "New tokens: 1000000 is no whole number between 1 and 1024"),
        ("temperature", "hot", "Temperature: hot is no number"),
        ("temperature", float("nan"), "Temperature: nan is no number"),
        ("top_p", 0, "Top-p: 0 is no number between 0.01 and 1"),
        ("repetition_penalty", 0.5, "Repetition penalty: 0.5"),
        ("seed", -1.0, "Seed: -1"),
        ("system", "x" * 100_001, "The system prompt has 100,001 characters"),
    ],
)
def test_a_wrong_setting_is_left_to_the_validation_which_says_it(
    field: str, value: Any, sentence: str
) -> None:
    asked = make_request("hi", None, "single", with_settings(**{field: value}), ["base"])
    (error,) = validate_generate(asked)
    assert error.field == field
    assert error.message.startswith(sentence)


def test_a_mode_that_there_is_not_is_no_silent_chat() -> None:
    (error,) = validate_generate(make_request("hi", None, "essay", with_settings(), ["base"]))
    assert error.message == "Mode: 'essay' is none of: chat, completion."


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
    ],
)
def test_the_folded_settings_are_read_from_their_label(changes: dict[str, Any], label: str) -> None:
    assert describe_settings(with_settings(**changes)) == label


def test_the_label_of_emptied_fields_can_still_be_read() -> None:
    empty = dict.fromkeys(SETTINGS)
    assert describe_settings(empty) == "Base in ?, greedy, None new tokens"


def test_sentences_stand_beside_their_own_fields() -> None:
    errors = [FieldError("prompt", "Empty."), FieldError("seed", "<b>Wrong.</b>")]
    assert "Empty." in errors_of(errors, "prompt")
    assert "Wrong." not in errors_of(errors, "prompt", "system")
    assert "&lt;b&gt;Wrong." in errors_of(errors, *SETTINGS)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[PlaygroundClient]:
    client = PlaygroundClient(tmp_path, FAKE)
    yield client
    client.close()


def test_the_engines_memory_is_shown_while_it_is_there(client: PlaygroundClient) -> None:
    assert "engine not loaded" in engine_html(client)
    client.generate_all(GenerateRequest(("base",), "hello"))
    assert "engine holds" in engine_html(client)
    assert "MB" in engine_html(client)
    client.close()
    assert "engine not loaded" in engine_html(client)


def test_a_damaged_record_of_an_adapter_is_no_choice(tmp_path: Path) -> None:
    source = bring_files([str(adapter_zip(tmp_path / "mine.zip"))], tmp_path, BUNDLED_ID)
    assert source.folder is not None
    (source.folder / "pane.json").write_text("{ torn")
    assert source.name not in values(setup([], tmp_path, None, [source.name]).choices)
    shutil.rmtree(source.folder)
    assert source.name not in {known.name for known in all_sources([], tmp_path)}
