"""Who can answer, found by name and without torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.playground import panes
from ftlab.playground.panes import (
    BUNDLED_ID,
    AdapterRecord,
    PaneSource,
    all_sources,
    base_source,
    find_source,
    line_up,
    parse_names,
    read_record,
    run_source,
    same_name,
    uploaded_folder,
    write_record,
    wrong_base,
)
from ftlab.records.result import Status
from ftlab.records.store import RunStore, read_run
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run, make_unreadable

RECORD = AdapterRecord(
    label="LoRA r=8", method="lora", model=BUNDLED_ID, sha256="ab" * 32, detail="poems"
)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of shipped adapters."""
    folder = tmp_path / "assets" / "adapters"
    monkeypatch.setattr(panes, "shipped_folder", lambda: folder)
    return folder


def bring(folder: Path, record: AdapterRecord = RECORD) -> Path:
    folder.mkdir(parents=True)
    write_record(folder, record)
    return folder


def test_the_base_is_always_there(tmp_path: Path) -> None:
    source = find_source(tmp_path, "base")
    assert source == base_source()
    assert (source.label, source.title, source.model) == ("Base", "Base", "")
    assert source.folder is None
    assert not source.is_adapter


def test_a_finished_run_answers_with_what_it_saved(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", hyperparameters={"r": 4})
    source = find_source(tmp_path, run.run_id)
    assert source.label == "LoRA r=4"
    assert source.folder == run.adapter
    assert source.is_adapter
    assert source.model == "bundled"
    assert source.title.startswith("LoRA r=4 · ")
    assert source.title.endswith(" · ab12-00"), "the number tells it from its neighbours"


def test_full_fine_tuning_is_no_adapter_and_qlora_says_its_base(tmp_path: Path) -> None:
    full, qlora = make_run(tmp_path, "full"), make_run(tmp_path, "qlora")
    assert not find_source(tmp_path, full.run_id).is_adapter
    assert find_source(tmp_path, qlora.run_id).base_precision == "nf4"


def test_a_run_with_an_id_of_its_own_is_told_by_the_whole_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", run_id="my-run")
    assert find_source(tmp_path, "my-run").detail.endswith(" · my-run")
    assert run_source(read_run(run)).name == "my-run"


@pytest.mark.parametrize("status", ["queued", "running", "failed", "cancelled", "interrupted"])
def test_only_a_run_that_is_done_can_answer(status: Status, tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", status)
    with pytest.raises(FtlabError, match=f"Run '{run.run_id}' is {status}, so it has no adapter"):
        find_source(tmp_path, run.run_id)


def test_a_base_run_is_refused_with_the_way_out(tmp_path: Path) -> None:
    run = make_run(tmp_path, "base")
    with pytest.raises(FtlabError, match="choose 'base' instead"):
        find_source(tmp_path, run.run_id)


@pytest.mark.parametrize(
    "name",
    [
        "no-such-run", "", "..", "../../etc", "shipped:", "shipped:..", "shipped:../runs",
        "adapter:/etc", "adapter:A", "adapter:a/b", "adapter:a\x00", "adapter:" + "a" * 200,
    ],
)  # fmt: skip
def test_a_name_that_nobody_has_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FtlabError, match=r"There is no run|names no adapter"):
        find_source(tmp_path, name)


def test_adapters_that_came_from_elsewhere_answer_by_their_record(
    tmp_path: Path, shipped: Path
) -> None:
    bring(shipped / "sql", replace(RECORD, task=TaskReference("bundled", "sql")))
    bring(uploaded_folder(tmp_path) / "poems-1")
    ours, theirs = find_source(tmp_path, "shipped:sql"), find_source(tmp_path, "adapter:poems-1")
    assert ours.folder == shipped / "sql"
    assert ours.task == TaskReference("bundled", "sql")
    assert theirs.folder == uploaded_folder(tmp_path) / "poems-1"
    assert (theirs.label, theirs.detail, theirs.method) == ("LoRA r=8", "poems", "lora")
    assert ours.is_adapter
    assert theirs.is_adapter


def test_a_record_comes_back_as_it_was_written_and_passes_over_what_it_does_not_know(
    tmp_path: Path,
) -> None:
    folder = bring(tmp_path / "a")
    assert read_record(folder) == RECORD
    text = (folder / "pane.json").read_text(encoding="utf-8")
    (folder / "pane.json").write_text(text.replace("{", '{"later": 1,', 1), encoding="utf-8")
    assert read_record(folder) == RECORD


def test_a_record_that_is_gone_or_torn_is_said(tmp_path: Path) -> None:
    folder = bring(uploaded_folder(tmp_path) / "torn")
    (folder / "pane.json").write_text("{", encoding="utf-8")
    with pytest.raises(FtlabError, match=r"pane\.json"):
        find_source(tmp_path, "adapter:torn")
    with pytest.raises(FtlabError, match="The adapter 'gone' is not there"):
        find_source(tmp_path, "adapter:gone")


def test_all_who_can_answer_are_listed_newest_run_first(tmp_path: Path, shipped: Path) -> None:
    first, second = make_run(tmp_path, "lora"), make_run(tmp_path, "qlora")
    make_run(tmp_path, "lora", "failed")
    make_run(tmp_path, "base")
    make_unreadable(tmp_path)
    bring(uploaded_folder(tmp_path) / "poems")
    torn = bring(uploaded_folder(tmp_path) / "torn")
    (torn / "pane.json").write_text("{", encoding="utf-8")
    (uploaded_folder(tmp_path) / "half-way").mkdir()
    bring(shipped / "sql")
    found = all_sources(RunStore(tmp_path).runs(), tmp_path)
    assert [source.name for source in found] == [
        "base", second.run_id, first.run_id, "adapter:poems", "shipped:sql",
    ]  # fmt: skip


def test_one_model_written_in_two_ways_is_one_model(tmp_path: Path) -> None:
    assert same_name("bundled") == same_name(BUNDLED_ID) == BUNDLED_ID
    assert same_name("no model at all!") == "no model at all!"
    source = PaneSource("a-run", "LoRA", model="bundled")
    assert wrong_base(source, BUNDLED_ID) == ""


def test_a_run_on_another_base_is_refused_with_both_names() -> None:
    problem = wrong_base(PaneSource("a-run", "LoRA", model="someone/other"), "bundled")
    assert "someone/other" in problem
    assert "that of this prompt is bundled" in problem
    assert wrong_base(base_source(), "someone/other") == ""


def test_an_adapter_from_elsewhere_may_name_a_mirror_but_a_run_may_not() -> None:
    mirror = "mirror/SmolLM2-135M-Instruct"
    for name in ("adapter:x", "shipped:x"):
        assert wrong_base(PaneSource(name, "LORA", model=mirror), "bundled") == ""
        assert wrong_base(PaneSource(name, "LORA", model="mirror/SmolLM2-360M"), "bundled")
    assert wrong_base(PaneSource("a-run", "LoRA", model=mirror), "bundled")


def test_the_base_model_is_that_of_the_first_pane_that_names_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", model="someone/other")
    make_run(tmp_path, "lora", run_id="later", model="bundled")
    panes = ["base", "no-such-run", run.run_id, "later"]
    assert line_up(panes, None, tmp_path).model == "someone/other"
    assert line_up(["base"], None, tmp_path).model == BUNDLED_ID
    assert line_up(["no-such-run"], None, tmp_path).model == BUNDLED_ID


def test_an_adapter_from_elsewhere_does_not_choose_the_base_of_the_others(
    tmp_path: Path, shipped: Path
) -> None:
    foreign = bring(uploaded_folder(tmp_path) / "foreign", replace(RECORD, model="someone/other"))
    mirror = replace(RECORD, model="mirror/SmolLM2-135M-Instruct")
    bring(uploaded_folder(tmp_path) / "mirror", mirror)
    bring(shipped / "sql")
    name = f"adapter:{foreign.name}"
    assert line_up(["base", name, "shipped:sql"], None, tmp_path).model == BUNDLED_ID
    assert line_up(["base", name], None, tmp_path).model == "someone/other"
    assert line_up(["base", "adapter:mirror"], None, tmp_path).model == BUNDLED_ID


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("base, run-1 ,,run-2", ["base", "run-1", "run-2"]),
        (["base", " run-1 ", ""], ["base", "run-1"]),
        ("", []),
        ([1], ["1"]),
    ],
)
def test_names_come_as_text_or_as_a_list(given: object, names: list[str]) -> None:
    assert parse_names(given) == names


def test_a_pane_is_wrong_by_its_place_and_the_others_are_not(tmp_path: Path) -> None:
    done, failed = make_run(tmp_path, "lora"), make_run(tmp_path, "lora", "failed")
    other = make_run(tmp_path, "lora", model="someone/other")
    names = ("base", done.run_id, failed.run_id, "../../etc", other.run_id, done.run_id)
    problems = line_up(names, None, tmp_path).problems
    assert list(problems) == [2, 3, 4]
    assert "is failed, so it has no adapter" in problems[2]
    assert "There is no run '../../etc'" in problems[3]
    assert "The base model of 'LoRA" in problems[4]


def test_the_model_that_is_asked_for_is_the_one_panes_must_fit(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", model="someone/other")
    panes = ("base", run.run_id)
    assert line_up(panes, None, tmp_path).problems == {}
    assert list(line_up(panes, "bundled", tmp_path).problems) == [1]
    assert line_up(panes, "bundled", tmp_path).label(1, run.run_id) == "LoRA"


def test_a_run_whose_record_is_torn_is_said_in_its_pane(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora")
    (run.path / "spec.json").write_text("{", encoding="utf-8")
    problems = line_up(("base", run.run_id), None, tmp_path).problems
    assert list(problems) == [1]
    assert "spec.json" in problems[1]
