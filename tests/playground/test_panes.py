"""The sources that can answer, found by name without torch."""

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


def store(folder: Path, record: AdapterRecord = RECORD) -> Path:
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
    assert (source.label, source.folder, source.model) == ("LoRA r=4", run.adapter, "bundled")
    assert source.is_adapter
    assert source.title.startswith("LoRA r=4 · ")
    assert source.title.endswith(" · ab12-00"), "the number distinguishes it from similar runs"
    own = make_run(tmp_path, "lora", run_id="my-run")
    assert find_source(tmp_path, "my-run").detail.endswith(" · my-run")
    assert run_source(read_run(own)).name == "my-run"
    assert not find_source(tmp_path, make_run(tmp_path, "full").run_id).is_adapter
    qlora = make_run(tmp_path, "qlora").run_id
    assert find_source(tmp_path, qlora).base_precision == "nf4"


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
def test_an_unknown_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FtlabError, match=r"There is no run|names no adapter"):
        find_source(tmp_path, name)


def test_shipped_and_uploaded_adapters_are_described_by_their_record(
    tmp_path: Path, shipped: Path
) -> None:
    store(shipped / "sql", replace(RECORD, task=TaskReference("bundled", "sql")))
    store(uploaded_folder(tmp_path) / "poems-1")
    ours, theirs = find_source(tmp_path, "shipped:sql"), find_source(tmp_path, "adapter:poems-1")
    assert ours.folder == shipped / "sql"
    assert ours.task == TaskReference("bundled", "sql")
    assert theirs.folder == uploaded_folder(tmp_path) / "poems-1"
    assert (theirs.label, theirs.detail, theirs.method) == ("LoRA r=8", "poems", "lora")
    assert ours.is_adapter
    assert theirs.is_adapter


def test_a_record_is_read_as_written_and_unknown_keys_are_ignored(
    tmp_path: Path,
) -> None:
    folder = store(tmp_path / "a")
    assert read_record(folder) == RECORD
    text = (folder / "pane.json").read_text(encoding="utf-8")
    (folder / "pane.json").write_text(text.replace("{", '{"later": 1,', 1), encoding="utf-8")
    assert read_record(folder) == RECORD


def test_a_missing_or_damaged_record_is_refused(tmp_path: Path) -> None:
    folder = store(uploaded_folder(tmp_path) / "torn")
    (folder / "pane.json").write_text("{", encoding="utf-8")
    with pytest.raises(FtlabError, match=r"pane\.json"):
        find_source(tmp_path, "adapter:torn")
    with pytest.raises(FtlabError, match="The adapter 'gone' cannot be read"):
        find_source(tmp_path, "adapter:gone")


def test_all_sources_are_listed_newest_run_first(tmp_path: Path, shipped: Path) -> None:
    first, second = make_run(tmp_path, "lora"), make_run(tmp_path, "qlora")
    make_run(tmp_path, "lora", "failed")
    make_run(tmp_path, "base")
    make_unreadable(tmp_path)
    store(uploaded_folder(tmp_path) / "poems")
    torn = store(uploaded_folder(tmp_path) / "torn")
    (torn / "pane.json").write_text("{", encoding="utf-8")
    (uploaded_folder(tmp_path) / "half-way").mkdir()
    store(shipped / "sql")
    found = all_sources(RunStore(tmp_path).runs(), tmp_path)
    assert [source.name for source in found] == [
        "base", second.run_id, first.run_id, "adapter:poems", "shipped:sql",
    ]  # fmt: skip


MIRROR = "mirror/SmolLM2-135M-Instruct"


@pytest.mark.parametrize(
    ("name", "model", "base", "fits"),
    [
        ("a-run", "bundled", BUNDLED_ID, True),
        ("a-run", "someone/other", "bundled", False),
        ("a-run", MIRROR, "bundled", False),
        ("base", "", "someone/other", True),
        ("adapter:x", MIRROR, "bundled", True),
        ("shipped:x", MIRROR, "bundled", True),
        ("adapter:x", "mirror/SmolLM2-360M", "bundled", False),
        ("shipped:x", "mirror/SmolLM2-360M", "bundled", False),
    ],
)
def test_a_run_must_name_the_same_base_and_an_adapter_may_name_a_mirror(
    name: str, model: str, base: str, fits: bool
) -> None:
    problem = wrong_base(PaneSource(name, "LoRA", model=model), base)
    assert (problem == "") == fits
    assert fits or (model in problem and f"that of this prompt is {base}" in problem)


def test_the_names_of_one_model_are_normalised() -> None:
    assert same_name("bundled") == same_name(BUNDLED_ID) == BUNDLED_ID
    assert same_name("no model at all!") == "no model at all!"


def test_the_base_model_is_that_of_the_first_run(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", model="someone/other")
    make_run(tmp_path, "lora", run_id="later", model="bundled")
    panes = ["base", "no-such-run", run.run_id, "later"]
    assert line_up(panes, None, tmp_path).model == "someone/other"
    assert line_up(["base"], None, tmp_path).model == BUNDLED_ID
    assert line_up(["no-such-run"], None, tmp_path).model == BUNDLED_ID


def test_an_uploaded_adapter_does_not_choose_the_base_of_the_others(
    tmp_path: Path, shipped: Path
) -> None:
    foreign = store(uploaded_folder(tmp_path) / "foreign", replace(RECORD, model="someone/other"))
    store(uploaded_folder(tmp_path) / "mirror", replace(RECORD, model=MIRROR))
    store(shipped / "sql")
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


def test_each_problem_is_reported_for_its_pane_only(tmp_path: Path) -> None:
    done, failed, torn = (make_run(tmp_path, "lora", s) for s in ("done", "failed", "done"))
    other = make_run(tmp_path, "lora", model="someone/other")
    (torn.path / "spec.json").write_text("{", encoding="utf-8")
    runs = (done, failed, other, torn)
    names = ("base", "../../etc", *(run.run_id for run in runs), done.run_id)
    problems = line_up(names, None, tmp_path).problems
    parts = {1: "There is no run '../../etc'", 3: "is failed, so it has no adapter",
             4: "The base model of 'LoRA", 5: "spec.json"}  # fmt: skip
    assert set(problems) == set(parts)
    assert all(part in problems[place] for place, part in parts.items())


def test_the_requested_model_is_the_one_panes_must_fit(tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora", model="someone/other")
    panes = ("base", run.run_id)
    assert line_up(panes, None, tmp_path).problems == {}
    assert list(line_up(panes, "bundled", tmp_path).problems) == [1]
    assert line_up(panes, "bundled", tmp_path).label(1, run.run_id) == "LoRA"
