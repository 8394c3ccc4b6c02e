"""The store: status and rows of runs, sweeps, unreadable folders, recorded runs, and notes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.people import Person, asked_by
from ftlab.methods.registry import PEFT
from ftlab.records.result import Status
from ftlab.records.store import RunStore, notes_of_runs, read_run, sweep_data
from ftlab.records.table import ROW_KEYS
from tests.fakes import SWEEP, make_run, make_sweep, make_unreadable


def column(folder: Path, name: str) -> list[Any]:
    return RunStore(folder).table()[name].tolist()


@pytest.mark.parametrize(
    "status", ["queued", "running", "done", "cancelled", "out_of_memory", "failed", "interrupted"]
)
def test_a_status_is_derived_from_the_files_and_the_process_table(
    tmp_path: Path, status: Status
) -> None:
    make_run(tmp_path, status=status)
    assert column(tmp_path, "status") == [status]


def test_a_run_whose_process_id_now_belongs_to_another_process_is_interrupted(
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path, status="running")
    start, *rest = run.metrics_file.read_text().splitlines(keepends=True)
    stale = json.dumps(json.loads(start) | {"process_started": 1.0}) + "\n"
    assert json.loads(start)["pid"] == os.getpid()
    run.metrics_file.write_text("".join([stale, *rest]))
    assert column(tmp_path, "status") == ["interrupted"]
    assert "log" in read_run(run).reason


def test_a_status_is_read_again_while_a_run_is_open(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    run = make_run(tmp_path, status="running")
    assert list(store.table()["status"]) == ["running"]
    done = make_run(tmp_path / "other", run_id=run.run_id)
    os.replace(done.result_file, run.result_file)
    assert list(store.table()["status"]) == ["done"]


def test_a_row_has_the_fixed_keys_and_only_measured_numbers(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", measures={"score_after": 0.5})
    make_run(tmp_path, status="queued")
    table = RunStore(tmp_path).table()
    assert tuple(table.columns) == ROW_KEYS
    done, queued = table.iloc[0], table.iloc[1]
    assert (done["variant"], done["score_after"], done["learning_rate"]) == ("LoRA", 0.5, 2e-3)
    assert done["trainable_share"] == done["trainable_params"] / done["total_params"]
    assert queued[["trainable_params", "trainable_share", "score_after"]].isna().all()


def test_a_run_of_a_peft_config_by_hand_is_read_like_that_of_a_method(tmp_path: Path) -> None:
    directory = make_run(tmp_path)
    said = directory.spec_file.read_text().replace('"lora"', f'"{PEFT.id}"', 1)
    directory.spec_file.write_text(said)
    assert read_run(directory).spec.method == PEFT.id


@pytest.mark.parametrize(
    ("parts", "columns"),
    [
        ({"weights": 7, "gathered": 2}, {"weights": 7, "gathered": 2, "communication": 0}),
        ({"weights": 7}, {"weights": 7, "gathered": 0, "communication": 0, "gradients": None}),
        ({"a part of a later version": 7}, {"weights": None, "gathered": None}),
        ({"weights": 0}, {"weights": None, "gathered": None}),
        ({}, {"weights": None, "gathered": None}),
    ],
)
def test_a_breakdown_has_the_parts_that_were_measured_and_a_run_on_one_gpu_gathers_nothing(
    tmp_path: Path, parts: dict[str, int], columns: dict[str, int | None]
) -> None:
    directory = make_run(tmp_path)
    file = directory.path / "result.json"
    said = json.loads(file.read_text()) | {"anatomy": parts, "predicted_anatomy": parts}
    file.write_text(json.dumps(said))
    row = read_run(directory).row()
    for name in ("anatomy", "predicted"):
        assert {part: row[f"{name}_{part}_bytes"] for part in columns} == columns


def test_the_newest_sweep_comes_first_and_its_runs_in_the_order_of_the_queue(
    tmp_path: Path,
) -> None:
    make_sweep(tmp_path, methods=("full", "lora"), sweep_id="20261101-000000-aaaa")
    make_sweep(tmp_path, methods=("qlora", "lora"), sweep_id="20261102-000000-bbbb")
    assert column(tmp_path, "variant") == ["QLoRA", "LoRA", "Full fine-tuning", "LoRA"]
    assert list(RunStore(tmp_path).table(with_base=True)["method"]).count("base") == 3


def test_a_sweep_has_its_own_runs_alone_and_its_base_runs_beside_the_table(tmp_path: Path) -> None:
    make_sweep(tmp_path)
    make_sweep(tmp_path, methods=("lora",), sweep_id="20261101-000000-aaaa")
    data = sweep_data(RunStore(tmp_path), SWEEP)
    assert (data.origin, {run.spec.sweep_id for run in data.runs}) == ("measured", {SWEEP})
    assert data.table["run_id"].tolist() == [run.run_id for run in data.own_runs]
    assert len(data.runs) == len(data.own_runs) + len(data.base_runs) > len(data.own_runs)
    with pytest.raises(FtlabError, match="There is no sweep 'gone'"):
        sweep_data(RunStore(tmp_path), "gone")


@pytest.mark.parametrize(
    ("file", "torn", "reason"),
    [
        ("spec.json", "{ torn", "spec.json cannot be read"),
        ("result.json", '{"status": "do', "result.json cannot be read"),
        ("annotations.json", "{", "annotations.json cannot be read"),
        ("spec.json", ('"lora"', '"of_the_future"'), "has the method 'of_the_future', which ftlab"),
        ("spec.json", ('"device"', '"planner": 1, "device"'), "has 'planner', which ftlab"),
        ("spec.json", ('"steps"', '"hops": 1, "steps"'), "has 'settings.hops', which ftlab"),
    ],
)
def test_a_folder_that_cannot_be_read_is_named_and_breaks_nothing(
    tmp_path: Path, file: str, torn: str | tuple[str, str], reason: str
) -> None:
    whole, broken = make_run(tmp_path), make_run(tmp_path)
    newer = torn if isinstance(torn, str) else broken.spec_file.read_text().replace(*torn, 1)
    (broken.path / file).write_text(newer)
    store = RunStore(tmp_path)
    assert store.table()["run_id"].tolist() == [whole.run_id]
    (unreadable,) = store.unreadable
    assert unreadable.run_id == broken.run_id
    assert reason in unreadable.reason


def test_folders_that_do_not_exist_are_an_empty_table(tmp_path: Path) -> None:
    table = RunStore(tmp_path / "none", tmp_path / "none recorded").table()
    assert table.empty
    assert tuple(table.columns) == ROW_KEYS


def test_recorded_runs_are_shown_and_found_but_are_no_part_of_the_folder(tmp_path: Path) -> None:
    own, shipped = tmp_path / "runs", tmp_path / "recorded"
    make_run(own, "lora")
    recorded = make_sweep(shipped / "sample", sweep_id="20260101-000000-aaaa")
    store = RunStore(own, shipped)
    assert len(store.runs()) == 1
    assert store.table()["origin"].tolist() == ["measured", *["recorded"] * 4]
    assert {run.origin for run in store.sweep("20260101-000000-aaaa")} == {"recorded"}
    assert store.find(recorded[0].run_id).origin == "recorded"


def test_a_sweep_of_ones_own_that_was_also_recorded_is_there_once(tmp_path: Path) -> None:
    make_sweep(tmp_path / "runs")
    make_sweep(tmp_path / "recorded" / "sample")
    store = RunStore(tmp_path / "runs", tmp_path / "recorded")
    assert {run.origin for run in store.sweep(SWEEP)} == {"measured"}
    assert set(store.table()["origin"]) == {"measured"}
    assert store.find(store.runs()[0].run_id).origin == "measured"


def test_one_who_does_not_see_all_sees_the_own_runs_alone(tmp_path: Path) -> None:
    made = {}
    for owner in ("ada", "bob"):
        with asked_by(Person(owner)):
            made[owner] = make_run(tmp_path).run_id
    make_unreadable(tmp_path)
    store = RunStore(tmp_path)
    assert (len(store.runs()), len(store.unreadable)) == (2, 1)
    with asked_by(Person("bob", sees_all=False)):
        assert [run.run_id for run in store.runs()] == [made["bob"]]
        assert store.table()["run_id"].tolist() == [made["bob"]]
        assert len(store.runs_of_all()) == 2
        assert store.unreadable == ()


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([("base", 0, "N."), ("full", 0, "N."), ("lora", 0, "N.")], ["N."]),
        ([("full", 0, ""), ("lora", 0, "N.")], ["LoRA: N."]),
        (
            [("full", 0, ""), ("lora", 0, "N."), ("lora", 1, "N. M.")],
            ["LoRA: N.", "LoRA seed 1: M."],
        ),
        ([("base", 0, "N."), ("lora", 0, "")], ["N."]),
    ],
    ids=["all runs", "one variant", "one seed", "base runs alone"],
)
def test_a_note_is_shown_once_with_the_variants_that_have_it_unless_all_do(
    tmp_path: Path, runs: list[tuple[str, int, str]], said: list[str]
) -> None:
    for method, seed, notes in runs:
        make_run(tmp_path, method, seed=seed, notes=notes.split())
    assert notes_of_runs(RunStore(tmp_path).runs()) == said
