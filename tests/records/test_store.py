import json
import os

import pytest

from ftlab.records.store import RunStore, read_run
from ftlab.records.table import ROW_KEYS
from tests.fakes import SWEEP, make_run, make_sweep, make_unreadable


def statuses(folder):
    return list(RunStore(folder).table()["status"])


@pytest.mark.parametrize(
    "status", ["queued", "running", "done", "cancelled", "out_of_memory", "failed", "interrupted"]
)
def test_a_status_is_derived_from_the_files_and_the_process_table(tmp_path, status):
    make_run(tmp_path, status=status)
    assert statuses(tmp_path) == [status]


def test_a_run_whose_process_id_now_belongs_to_another_process_is_interrupted(tmp_path):
    run = make_run(tmp_path, status="running")
    start, *rest = run.metrics_file.read_text().splitlines(keepends=True)
    stale = json.dumps(json.loads(start) | {"process_started": 1.0}) + "\n"
    assert json.loads(start)["pid"] == os.getpid()
    run.metrics_file.write_text("".join([stale, *rest]))
    assert statuses(tmp_path) == ["interrupted"]


def test_a_status_is_read_anew_while_a_run_is_open(tmp_path):
    store = RunStore(tmp_path)
    run = make_run(tmp_path, status="running")
    assert list(store.table()["status"]) == ["running"]
    done = make_run(tmp_path / "other", run_id=run.run_id)
    os.replace(done.result_file, run.result_file)
    assert list(store.table()["status"]) == ["done"]


def test_a_row_has_the_fixed_keys_and_the_measured_numbers(tmp_path):
    make_run(tmp_path, "lora", measures={"score_after": 0.5})
    table = RunStore(tmp_path).table()
    assert tuple(table.columns) == ROW_KEYS
    row = table.iloc[0]
    assert (row["variant"], row["score_after"], row["learning_rate"]) == ("LoRA", 0.5, 2e-3)
    assert row["trainable_share"] == row["trainable_params"] / row["total_params"]


def test_what_was_not_measured_is_missing_not_zero(tmp_path):
    make_run(tmp_path, status="queued")
    row = RunStore(tmp_path).table().iloc[0]
    assert row[["trainable_params", "trainable_share", "score_after"]].isna().all()


def test_base_runs_are_in_the_table_only_on_request(tmp_path):
    make_sweep(tmp_path, methods=("lora", "qlora"))
    store = RunStore(tmp_path)
    assert set(store.table()["method"]) == {"lora", "qlora"}
    assert list(store.table(with_base=True)["method"]).count("base") == 2


def test_the_newest_sweep_comes_first_and_its_runs_in_the_order_of_the_queue(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"), sweep_id="20261101-000000-aaaa")
    make_sweep(tmp_path, methods=("qlora", "lora"), sweep_id="20261102-000000-bbbb")
    table = RunStore(tmp_path).table()
    assert list(table["variant"]) == ["QLoRA", "LoRA", "Full fine-tuning", "LoRA"]


def test_a_sweep_holds_its_own_runs_alone(tmp_path):
    make_sweep(tmp_path, methods=("lora",))
    make_sweep(tmp_path, methods=("lora",), sweep_id="20261101-000000-aaaa")
    assert {run.spec.sweep_id for run in RunStore(tmp_path).sweep(SWEEP)} == {SWEEP}


def test_a_folder_that_cannot_be_read_is_named_and_breaks_nothing(tmp_path):
    make_run(tmp_path)
    broken = make_unreadable(tmp_path)
    store = RunStore(tmp_path)
    assert len(store.table()) == 1
    (unreadable,) = store.unreadable
    assert unreadable.run_id == broken.name
    assert "spec.json cannot be read" in unreadable.reason


def test_a_torn_result_is_named_too(tmp_path):
    make_run(tmp_path).result_file.write_text('{"status": "do')
    store = RunStore(tmp_path)
    assert store.table().empty
    assert "result.json cannot be read" in store.unreadable[0].reason


def test_a_run_of_a_method_that_is_not_known_breaks_nothing(tmp_path):
    make_run(tmp_path)
    unknown = make_run(tmp_path)
    spec = json.loads(unknown.spec_file.read_text())
    spec["variant"]["method"] = "of_the_future"
    unknown.spec_file.write_text(json.dumps(spec))
    store = RunStore(tmp_path)
    assert len(store.table()) == 1
    assert "There is no method 'of_the_future'" in store.unreadable[0].reason


def test_a_folder_that_is_not_there_is_an_empty_table(tmp_path):
    table = RunStore(tmp_path / "none").table()
    assert table.empty
    assert tuple(table.columns) == ROW_KEYS


def test_the_reason_of_an_interrupted_run_points_to_its_log(tmp_path):
    run = read_run(make_run(tmp_path, status="interrupted"))
    assert "log" in run.reason


def test_recorded_runs_are_looked_at_but_are_no_part_of_the_folder(tmp_path):
    own, shipped = tmp_path / "runs", tmp_path / "recorded"
    own.mkdir()
    make_run(own, "lora")
    make_sweep(shipped / "sample", sweep_id="20260101-000000-aaaa")
    store = RunStore(own, shipped)
    assert len(store.runs()) == 1
    table = store.table()
    assert table["origin"].tolist() == ["measured", *["recorded"] * (len(table) - 1)]
    assert {run.origin for run in store.sweep("20260101-000000-aaaa")} == {"recorded"}


def test_a_recorded_run_is_found_by_its_id(tmp_path):
    directory = make_run(tmp_path / "recorded" / "sample", "lora")
    store = RunStore(tmp_path / "runs", tmp_path / "recorded")
    assert store.find(directory.run_id).origin == "recorded"


def test_a_recorded_folder_that_is_not_there_is_no_run(tmp_path):
    assert RunStore(tmp_path, tmp_path / "none").table().empty


def test_a_sweep_of_ones_own_that_was_also_recorded_is_there_once(tmp_path):
    make_sweep(tmp_path / "runs")
    make_sweep(tmp_path / "recorded" / "sample")
    store = RunStore(tmp_path / "runs", tmp_path / "recorded")
    assert {run.origin for run in store.sweep(SWEEP)} == {"measured"}
    assert set(store.table()["origin"]) == {"measured"}
    assert store.find(store.runs()[0].run_id).origin == "measured"
