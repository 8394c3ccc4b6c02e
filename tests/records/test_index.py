"""The index of a runs folder: fast to open, and never the truth."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.records import index
from ftlab.records import store as module
from ftlab.records.index import index_file, read_index
from ftlab.records.removal import remove_runs
from ftlab.records.resume import begin_anew
from ftlab.records.run import (
    NO_FILE,
    Annotations,
    Changes,
    RunDirectory,
    make_read_only,
    write_annotations,
)
from ftlab.records.store import Run, RunStore
from tests.fakes import make_run

METHODS = ("full", "lora", "ia3")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEWEST_RUNS", len(METHODS))
    monkeypatch.setattr(module, "FEWEST_NEW", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Runs that have ended, the first of which has a note."""
    first, *_ = [make_run(tmp_path, method) for method in METHODS]
    write_annotations(first, Annotations(note="Look\tat this.\n"))
    return tmp_path


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
    assert again[0].annotations.note == "Look\tat this.\n"
    assert [run.row() for run in again] == [run.row() for run in first]


@pytest.mark.parametrize(
    ("name", "before", "after", "column"),
    [
        ("annotations.json", b"Look", b"Hark", "note"),
        ("result.json", b'"done"', b'"failed"', "status"),
        ("spec.json", b'"seed": 0', b'"seed": 7', "seed"),
    ],
)
def test_a_run_that_was_changed_is_read_from_its_own_files_by_whatever_program(
    name: str, before: bytes, after: bytes, column: str, folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store = RunStore(folder)
    first, *_ = store.runs()
    was = first.row()[column]
    file = first.directory.path / name
    assert before in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(before, after))  # in place, as editors do
    again, names = from_files(folder, monkeypatch)
    assert names == [first.run_id]
    assert again[0].row()[column] != was
    assert store.runs() == again
    assert RunStore(folder).runs() == again


def test_what_is_deleted_is_deleted_from_the_index(folder: Path) -> None:
    first, *_ = RunStore(folder).runs()
    assert b"Look" in index_file(folder).read_bytes()
    remove_runs(folder, [first.run_id])
    assert b"Look" not in index_file(folder).read_bytes()
    assert len(read_index(folder)) == len(METHODS) - 1
    assert first.run_id not in {run.run_id for run in RunStore(folder).runs()}


def test_what_is_deleted_before_a_deletion_fails_is_deleted_from_the_index_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, _ = RunStore(folder).runs()
    rename = os.rename

    def failing(source: Path, target: Path) -> None:
        if source.name == second.run_id:
            raise PermissionError(13, "Permission denied")
        rename(source, target)

    monkeypatch.setattr("ftlab.records.removal.os.rename", failing)
    with pytest.raises(FtlabError, match="cannot be deleted"):
        remove_runs(folder, [first.run_id, second.run_id])
    assert first.run_id not in read_index(folder)
    assert second.run_id in read_index(folder)


def test_a_result_that_appears_while_the_run_is_read_hides_no_later_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The times are looked at before the files are read: such a run has no time of its end."""
    run = make_run(folder, "dora", "failed")
    of, late = Changes.of, [run.run_id]

    def early(directory: RunDirectory, has_ended: bool = False) -> Changes:
        found = of(directory, has_ended)
        if directory.run_id in late:
            late.clear()
            return Changes((*found.records[:2], NO_FILE), found.waiting)
        return found

    monkeypatch.setattr(Changes, "of", early)
    RunStore(folder).runs()
    assert run.run_id not in read_index(folder)
    begin_anew(run)
    assert {one.status for one in RunStore(folder).runs()} == {"done", "queued"}


def noise(file: Path) -> None:
    file.write_bytes(os.urandom(5000))


def tear(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def edit(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
    """Changes the cells of each line."""

    def act(file: Path) -> None:
        lines = [change(line.split(b"\t")) for line in file.read_bytes().splitlines()]
        file.write_bytes(b"\n".join(map(b"\t".join, lines)))

    return act


@pytest.mark.parametrize(
    "damage",
    [
        noise,
        tear,
        lambda file: file.write_bytes(b""),
        lambda file: file.unlink(),
        edit(lambda cells: [*cells, b"{}"]),
        edit(lambda cells: cells[:3]),
        edit(lambda cells: [cells[0], b"", *cells[2:]]),
        edit(lambda cells: [*cells[:-1], b"{"]),
        edit(lambda cells: [*cells[:4], cells[4].replace(b"-lora", b"-full"), *cells[5:]]),
    ],
    ids=["noise", "torn", "empty", "missing", "another version", "fewer cells", "no time",
         "a damaged record", "the record of another run"],
)  # fmt: skip
def test_a_damaged_index_changes_nothing_and_is_mended(
    damage: Callable[[Path], object], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunStore(folder).runs()
    damage(index_file(folder))
    assert RunStore(folder).runs() == first
    assert from_files(folder, monkeypatch) == (first, [])


@pytest.mark.parametrize("is_there", [True, False])
def test_a_link_in_place_of_the_index_is_not_followed(
    is_there: bool, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "file"
    if is_there:
        elsewhere.write_text("mine", encoding="utf-8")
    index_file(folder).parent.mkdir(exist_ok=True)
    index_file(folder).symlink_to(elsewhere)
    for _ in range(2):
        assert len(RunStore(folder).runs()) == len(METHODS)
    assert elsewhere.exists() == is_there
    assert not is_there or elsewhere.read_text(encoding="utf-8") == "mine"


def test_a_link_in_place_of_its_folder_is_not_followed(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / ".ftlab").symlink_to(elsewhere)
    RunStore(folder).runs()
    assert not list(elsewhere.iterdir())


def test_an_index_that_is_too_large_is_not_read_and_none_that_would_be_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunStore(folder).runs()
    monkeypatch.setattr(index, "MOST_BYTES", index_file(folder).stat().st_size - 1)
    again, names = from_files(folder, monkeypatch)
    assert again == first
    assert len(names) == len(METHODS)
    assert not index_file(folder).exists()


def test_neither_a_small_folder_nor_that_of_a_demo_gets_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_read_only(folder, "This is a demo.")
    RunStore(folder).runs()
    assert not index_file(folder).exists()
    (folder / ".ftlab" / "closed").unlink()
    monkeypatch.setattr(module, "FEWEST_RUNS", 500)
    RunStore(folder).runs()
    assert not index_file(folder).exists()


def test_only_runs_that_have_ended_are_in_it(folder: Path) -> None:
    waiting, going = make_run(folder, "dora", "queued"), make_run(folder, "vera", "running")
    RunStore(folder).runs()
    assert len(read_index(folder)) == len(METHODS)
    assert not {waiting.run_id, going.run_id} & read_index(folder).keys()


def test_few_new_runs_wait_for_more(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(folder)
    store.runs()
    monkeypatch.setattr(module, "FEWEST_NEW", 2)
    for method, count in (("dora", len(METHODS)), ("vera", len(METHODS) + 2)):
        make_run(folder, method)
        store.runs()
        assert len(read_index(folder)) == count
