"""The index of a runs folder: fast to open, and never the truth."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from ftlab.records import store as module
from ftlab.records.index import index_file, read_index
from ftlab.records.removal import remove_runs
from ftlab.records.run import Annotations, RunDirectory, make_read_only, write_annotations
from ftlab.records.store import Run, RunStore
from tests.fakes import make_run

METHODS = ("full", "lora", "ia3")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEWEST_RUNS", len(METHODS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Runs that ended a while ago, one with a note."""
    for method in METHODS:
        directory = make_run(tmp_path, method)
    write_annotations(directory, Annotations(note="Look at this."))
    settle(tmp_path)
    return tmp_path


def settle(folder: Path) -> None:
    """As if the runs had been changed a minute ago."""
    past = time.time_ns() - 60 * 10**9
    for run in RunStore(folder).runs():
        os.utime(run.directory.path, ns=(past, past))
    index_file(folder).unlink(missing_ok=True)


def from_files(folder: Path, patch: pytest.MonkeyPatch) -> tuple[list[Run], list[str]]:
    """The runs of a new process, and the ids of those that it read from their own files."""
    names: list[str] = []
    read = module.read_run

    def noting(directory: RunDirectory, *more: object, **others: object) -> Run:
        names.append(directory.run_id)
        return read(directory, *more, **others)  # type: ignore[arg-type]

    with patch.context() as here:
        here.setattr(module, "read_run", noting)
        return RunStore(folder).runs(), names


def test_a_new_process_reads_the_index_and_no_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunStore(folder).runs()
    again, names = from_files(folder, monkeypatch)
    assert names == []
    assert again == first
    assert again[-1].annotations.note or again[0].annotations.note or again[1].annotations.note
    assert [run.row() for run in again] == [run.row() for run in first]


def test_a_run_that_was_changed_is_read_from_its_own_files(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = RunStore(folder).runs()
    write_annotations(first.directory, Annotations(archived=True))
    again, names = from_files(folder, monkeypatch)
    assert names == [first.run_id]
    assert again[0].annotations.archived


def test_a_run_that_is_gone_is_gone_and_is_taken_out(folder: Path) -> None:
    first, *others = RunStore(folder).runs()
    remove_runs(folder, [first.run_id])
    make_run(folder, "dora")
    settled = RunStore(folder)
    assert first.run_id not in {run.run_id for run in settled.runs()}
    remove_runs(folder, [others[0].run_id])
    make_run(folder, "vera")
    assert len(RunStore(folder).runs()) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(os.urandom(5000)),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:4000]),
        lambda file: execute(file, "ALTER TABLE runs ADD COLUMN more"),
        lambda file: execute(file, "DROP TABLE runs"),
        lambda file: execute(file, "UPDATE runs SET result = x'7b'"),
        lambda file: execute(file, "UPDATE runs SET spec = (SELECT max(spec) FROM runs)"),
        lambda file: file.unlink(),
    ],
    ids=["noise", "empty", "torn", "another version", "no table", "damaged rows",
         "rows of another run", "missing"],
)  # fmt: skip
def test_a_damaged_index_changes_nothing_and_is_made_anew(
    damage: object, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunStore(folder).runs()
    damage(index_file(folder))  # type: ignore[operator]
    assert RunStore(folder).runs() == first
    assert from_files(folder, monkeypatch) == (first, [])


def execute(file: Path, statement: str) -> None:
    with sqlite3.connect(file) as database:
        database.execute(statement)
    database.close()


def test_neither_a_small_folder_nor_that_of_a_demo_gets_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_read_only(folder, "This is a demo.")
    RunStore(folder).runs()
    assert not index_file(folder).exists()
    monkeypatch.setattr(module, "FEWEST_RUNS", 500)
    RunStore(folder).runs()
    assert not index_file(folder).exists()


def test_only_runs_that_have_ended_are_in_it(folder: Path) -> None:
    waiting = make_run(folder, "dora", "queued")
    going = make_run(folder, "vera", "running")
    settle(folder)
    RunStore(folder).runs()
    assert len(read_index(folder)) == len(METHODS)
    assert not {waiting.run_id, going.run_id} & read_index(folder).keys()


def test_a_run_that_has_just_ended_waits_until_its_folder_is_at_rest(folder: Path) -> None:
    make_run(folder, "dora")
    store = RunStore(folder)
    store.runs()
    assert len(read_index(folder)) == len(METHODS)
