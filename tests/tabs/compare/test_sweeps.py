from ftlab.records.store import RunStore
from ftlab.tabs.compare.view import default_sweep, sweep_options
from tests.fakes import SWEEP, make_run, make_sweep

OLD = "20261101-093000-cd34"
NEW = "20261130-093000-ef56"


def test_the_newest_finished_sweep_is_shown_first(tmp_path):
    make_sweep(tmp_path, sweep_id=OLD)
    make_sweep(tmp_path)
    make_sweep(tmp_path, methods=("full",), sweep_id=NEW)
    make_run(tmp_path, "lora", status="running", sweep_id=NEW)
    assert default_sweep(RunStore(tmp_path).table()) == SWEEP


def test_a_sweep_with_nothing_done_is_shown_only_if_there_is_no_other(tmp_path):
    assert default_sweep(RunStore(tmp_path).table()) is None
    make_sweep(tmp_path, sweep_id=NEW, status="failed")
    assert default_sweep(RunStore(tmp_path).table()) == NEW
    make_sweep(tmp_path, methods=("full",), sweep_id=OLD)
    make_run(tmp_path, "lora", status="running", sweep_id=OLD)
    assert default_sweep(RunStore(tmp_path).table()) == OLD, "none has ended"


def test_the_recorded_sweep_is_shown_until_an_own_one_has_a_run_done(tmp_path):
    own, recorded = tmp_path / "own", tmp_path / "recorded"
    make_sweep(recorded / "sample", sweep_id=NEW)
    make_sweep(own, sweep_id=OLD, status="failed")
    store = RunStore(own, recorded)
    assert default_sweep(store.table()) == NEW
    make_run(own, "lora", sweep_id=OLD)
    assert default_sweep(store.table()) == OLD


def test_of_two_recorded_sweeps_the_one_of_fewer_methods_is_shown(tmp_path):
    recorded = tmp_path / "recorded"
    make_sweep(recorded / "few", sweep_id=OLD, methods=("full", "lora"))
    make_sweep(recorded / "many", sweep_id=NEW)
    store = RunStore(tmp_path / "own", recorded)
    assert [sweep for _, sweep in sweep_options(store.table())] == [NEW, OLD]
    assert default_sweep(store.table()) == OLD


def test_imported_results_are_shown_of_themselves_only_if_there_is_nothing_else(tmp_path):
    make_sweep(tmp_path)
    table = RunStore(tmp_path).table()
    imported = table.assign(origin="imported", sweep_id="imported-theirs")
    assert default_sweep(imported) == "imported-theirs"


def test_own_sweeps_come_first_and_others_are_marked(tmp_path):
    own, recorded = tmp_path / "own", tmp_path / "recorded"
    make_sweep(own, sweep_id=OLD)
    make_sweep(recorded / "sample", sweep_id=NEW)
    options = sweep_options(RunStore(own, recorded).table())
    assert [sweep for _, sweep in options] == [OLD, NEW]
    assert options[0][0].startswith("1 Nov 09:30 cd34, SQL")
    assert options[1][0].startswith("Recorded: 30 Nov 09:30 ef56, SQL")


def test_a_sweep_is_named_by_time_task_and_methods(tmp_path):
    make_sweep(tmp_path, methods=("full", "lora"))
    make_run(tmp_path, "qlora", status="failed")
    ((label, value),) = sweep_options(RunStore(tmp_path).table())
    assert value == SWEEP
    assert label.startswith("25 Nov 12:00 ab12, SQL, ")
    assert label.endswith("Full fine-tuning, LoRA and QLoRA, 2 of 3 done")
