from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.people import Person, asked_by
from ftlab.records.removal import remove_runs
from ftlab.records.resume import ask_to_resume
from ftlab.records.run import Annotations, read_annotations, run_directories, write_annotations
from tests.fakes import make_checkpoint, make_run, make_sweep, make_unreadable


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_is_deleted_with_its_whole_folder_and_no_other_is(tmp_path: Path) -> None:
    base, full, lora = make_sweep(tmp_path, ("full", "lora"))
    lora.adapter.mkdir()
    (lora.adapter / "adapter_model.safetensors").write_bytes(b"x")
    assert remove_runs(tmp_path, [lora.run_id]) == [lora.run_id]
    assert names(tmp_path) == [base.run_id, full.run_id]


def test_the_last_run_of_a_sweep_takes_its_base_runs_along(tmp_path: Path) -> None:
    runs = make_sweep(tmp_path, ("lora", "qlora"))
    other = make_run(tmp_path, "lora", sweep_id="20261126-120000-cd34")
    own = [run.run_id for run in runs if "base" not in run.run_id]
    gone = remove_runs(tmp_path, own)
    assert sorted(gone) == sorted(run.run_id for run in runs)
    assert names(tmp_path) == [other.run_id]


@pytest.mark.parametrize(
    ("runs", "asked", "reason"),
    [
        ([("full", "done"), ("lora", "queued")], "full lora", "still queued; cancel it first"),
        ([("full", "done"), ("lora", "running")], "full lora", "still running; cancel it first"),
        ([("base", "running"), ("lora", "cancelled")], "lora", "base' is still running"),
        ([("base", "done"), ("full", "done")], "base", "is a base run"),
    ],
    ids=["queued", "running", "its base run is running", "base run that another run needs"],
)
def test_a_run_in_use_is_refused_and_nothing_else_is_deleted(
    tmp_path: Path, runs: list[tuple[str, Any]], asked: str, reason: str
) -> None:
    made = {method: make_run(tmp_path, method, status).run_id for method, status in runs}
    with pytest.raises(FtlabError, match=reason):
        remove_runs(tmp_path, [made[method] for method in asked.split()])
    assert names(tmp_path) == sorted(made.values())


def test_a_run_of_somebody_else_is_not_changed_by_one_who_may_not(tmp_path: Path) -> None:
    with asked_by(Person("ada")):
        run = make_run(tmp_path, status="failed")
        make_checkpoint(run)
    changes = [
        lambda: remove_runs(tmp_path, [run.run_id]),
        lambda: write_annotations(run, Annotations(note="x")),
        lambda: ask_to_resume(run),
    ]
    for change in changes:
        with asked_by(Person("bob", changes_all=False)), pytest.raises(FtlabError, match="ada"):
            change()
    assert names(tmp_path) == [run.run_id]
    assert read_annotations(run) == Annotations()
    assert run.status() == "failed"
    with asked_by(Person("ada", changes_all=False)):
        assert remove_runs(tmp_path, [run.run_id]) == [run.run_id]


@pytest.mark.parametrize("wrong", ["../x", "", "/etc", "20261125-120000-ab12-99-lora", ".ftlab"])
def test_an_id_is_never_taken_for_a_path(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "spec.json").write_text("{}")
    runs = tmp_path / "runs"
    kept = make_run(runs)
    with pytest.raises(FtlabError, match="There is no run"):
        remove_runs(runs, [kept.run_id, wrong])
    assert names(runs) == [kept.run_id]
    assert (tmp_path / "x").exists()


def test_folders_left_by_a_killed_app_are_no_runs_and_are_deleted_next_time(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    left = tmp_path / f".removed.{run.run_id}.0badf00d"
    make_run(tmp_path, "full").path.rename(left)
    assert [directory.run_id for directory in run_directories(tmp_path)] == [run.run_id]
    remove_runs(tmp_path, [run.run_id])
    assert names(tmp_path) == []


@pytest.mark.hostile("links")
def test_a_folder_that_is_a_link_is_no_run_and_its_target_stays(tmp_path: Path) -> None:
    elsewhere = make_run(tmp_path / "elsewhere")
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / elsewhere.run_id).symlink_to(elsewhere.path)
    with pytest.raises(FtlabError, match="There is no run"):
        remove_runs(runs, [elsewhere.run_id])
    assert run_directories(runs) == []
    assert elsewhere.result_file.exists()


def test_an_unreadable_run_is_refused_with_its_reason_and_hinders_no_other(tmp_path: Path) -> None:
    broken, run = make_unreadable(tmp_path), make_run(tmp_path)
    with pytest.raises(FtlabError, match=r"spec\.json cannot be read"):
        remove_runs(tmp_path, [broken.name])
    remove_runs(tmp_path, [run.run_id])
    assert names(tmp_path) == [broken.name]
