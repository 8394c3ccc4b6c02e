"""Runs folders that somebody else filled: nothing in one leads out, or is waited for in vain."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.control import note_cancel, requested_cancels
from ftlab.jobs.launch import enqueue_again
from ftlab.playground.grid import find_grid
from ftlab.playground.panes import find_source
from ftlab.playground.uploaded import forget_adapter
from ftlab.playground.votes import read_votes
from ftlab.records.merge import MergeDirectory
from ftlab.records.progress import read_progress
from ftlab.records.removal import remove_runs
from ftlab.records.run import (
    RunDirectory,
    find_run,
    read_annotations,
    run_directories,
    write_atomically,
)
from ftlab.records.store import RunStore, read_run
from ftlab.share.bundle import run_bundle, write_zip
from ftlab.share.weights import why_no_weights
from ftlab.tabs.results.actions import use_view
from ftlab.tabs.results.panel import find as find_opened
from ftlab.tabs.results.panel import panel
from tests.fakes import make_run

RECORDS = ("spec.json", "result.json", "metrics.jsonl", "samples.jsonl", "log.txt")
ODD_FILES: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a folder": lambda path: path.mkdir(),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a link to nothing": lambda path: path.symlink_to("/nowhere/at/all"),
    "a link to itself": lambda path: path.symlink_to(path),
    "5 GB of nothing": lambda path: (path.touch(), os.truncate(path, 5 * 2**30)),
    "a secret": lambda path: path.symlink_to("/etc/passwd"),
}


@pytest.mark.hostile("files of a runs folder")
@pytest.mark.parametrize("odd", ODD_FILES)
@pytest.mark.parametrize("name", [*RECORDS, "annotations.json"])
def test_a_record_that_is_no_file_is_said_and_its_neighbour_is_shown(
    tmp_path: Path, name: str, odd: str
) -> None:
    make_run(tmp_path, "full")
    directory = make_run(tmp_path)
    (directory.path / name).unlink(missing_ok=True)
    ODD_FILES[odd](directory.path / name)
    store = RunStore(tmp_path)
    shown = set(store.table()["run_id"])
    assert len(shown) + len(store.unreadable) in (1, 2)  # without a spec it is no run at all
    assert any(run_id.endswith("full") for run_id in shown)
    if directory.run_id in shown:
        run = read_run(directory)
        read_progress(run)
        text = "".join(str(part) for part in vars(panel(run)).values())
        assert "root:" not in text
    directory.log_tail()
    directory.worker()


@pytest.mark.hostile("files of a runs folder")
@pytest.mark.parametrize("odd", ODD_FILES)
def test_a_merge_or_annotation_that_is_no_file_is_refused_without_waiting(
    tmp_path: Path, odd: str
) -> None:
    directory = make_run(tmp_path)
    merge = MergeDirectory(directory)
    merge.folder.mkdir(parents=True, exist_ok=True)
    for file in (merge.request_file, merge.record_file, directory.annotations_file):
        ODD_FILES[odd](file)
    assert merge.target == directory.merged
    for read in (merge.record, lambda: read_annotations(directory)):
        try:
            read()
        except (FtlabError, OSError):
            continue


IDS = [
    "..", "../x", "../../etc", "/etc", "/etc/passwd", "a/../../b", "a/b", "a\\b", "..\\x", "C:\\x",
    "a\x00b", "", ".", ".ftlab", "~", "~root", "-rf", "--help", "a" * 200, "ａｂｃｄ", "run\nid",
    "run id", "%2e%2e%2f", "....//", "\ud800abc", "abcd/", "abcd.", "CON", "*", "$HOME", "`id`",
]  # fmt: skip


@pytest.mark.hostile("ids")
@pytest.mark.parametrize("wrong", IDS)
def test_an_id_from_outside_that_is_not_ours_reaches_no_file(tmp_path: Path, wrong: str) -> None:
    runs = tmp_path / "runs"
    make_run(runs)
    for name in ("x", "abcd", "etc"):
        shutil.copytree(next(runs.iterdir()), tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    store = RunStore(runs)
    for use in (
        lambda: find_run(runs, wrong),
        lambda: remove_runs(runs, [wrong]),
        lambda: note_cancel(runs, [wrong]),
        lambda: find_source(runs, wrong),
        lambda: find_source(runs, f"adapter:{wrong}"),
        lambda: find_source(runs, f"shipped:{wrong}"),
        lambda: forget_adapter(runs, f"adapter:{wrong}"),
        lambda: find_grid(runs, wrong),
        lambda: store.find(wrong),
        lambda: read_votes(runs, [wrong]) if wrong else find_run(runs, wrong),
    ):
        with pytest.raises(FtlabError):
            use()
    assert isinstance(find_opened(store, wrong), str)
    use_view(store, wrong)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.hostile("ids")
@pytest.mark.parametrize("name", ["..", "a b", "x/../y", "A", "a\nb"])
def test_a_name_in_the_folder_of_cancels_that_is_no_run_is_passed_over(
    tmp_path: Path, name: str
) -> None:
    folder = tmp_path / ".ftlab" / "cancel"
    folder.mkdir(parents=True)
    try:
        (folder / name).touch()
    except OSError:
        assert "/" in name
    assert requested_cancels(tmp_path) == set()


@pytest.mark.hostile("ids")
@pytest.mark.parametrize("field", ["run_id", "sweep_id", "base_run_id"])
@pytest.mark.parametrize("wrong", ["../../x", "/etc/passwd", "x\x00", "a/b", "A b", "x" * 200, ""])
def test_a_spec_cannot_name_a_file_elsewhere(tmp_path: Path, field: str, wrong: str) -> None:
    import json

    directory = make_run(tmp_path)
    spec = json.loads(directory.spec_file.read_bytes()) | {field: wrong}
    write_atomically(directory.spec_file, json.dumps(spec).encode())
    with pytest.raises(FtlabError, match=r"spec\.json"):
        directory.spec()
    with pytest.raises(FtlabError):
        remove_runs(tmp_path, [directory.run_id])
    assert RunStore(tmp_path).runs() == []


@pytest.mark.hostile("links")
def test_a_run_that_is_a_link_is_no_run(tmp_path: Path) -> None:
    elsewhere = make_run(tmp_path / "elsewhere")
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / elsewhere.run_id).symlink_to(elsewhere.path)
    assert run_directories(runs) == []
    with pytest.raises(FtlabError, match="There is no run"):
        find_run(runs, elsewhere.run_id)


def _with_weights(folder: Path) -> RunDirectory:
    directory = make_run(folder)
    directory.adapter.mkdir()
    (directory.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (directory.adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    return directory


@pytest.mark.hostile("links")
def test_weights_that_are_a_link_are_neither_exported_nor_worn(tmp_path: Path) -> None:
    directory = _with_weights(tmp_path / "runs")
    directory.adapter.rename(tmp_path / "outside")
    directory.adapter.symlink_to(tmp_path / "outside")
    run = read_run(directory)
    assert "are links" in why_no_weights(run)
    with pytest.raises(FtlabError, match="are links"):
        run_bundle(run)
    with pytest.raises(FtlabError, match="are a link"):
        find_source(tmp_path / "runs", directory.run_id)


@pytest.mark.hostile("links")
@pytest.mark.parametrize("name", ["secrets.json", "extra.safetensors", "adapter_config.json"])
def test_a_link_among_the_weights_is_not_exported(tmp_path: Path, name: str) -> None:
    directory = _with_weights(tmp_path / "runs")
    (tmp_path / "secret").write_text('{"key": "s3cret"}', encoding="utf-8")
    (directory.adapter / name).unlink(missing_ok=True)
    (directory.adapter / name).symlink_to(tmp_path / "secret")
    with pytest.raises(FtlabError, match="are links"):
        write_zip(run_bundle(read_run(directory)), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


@pytest.mark.hostile("links")
def test_a_merged_model_that_is_a_link_is_not_exported(tmp_path: Path) -> None:
    directory = _with_weights(tmp_path / "runs")
    directory.merged.symlink_to(directory.adapter)
    with pytest.raises(FtlabError):
        run_bundle(read_run(directory), merged=True)


@pytest.mark.hostile("links")
def test_a_run_is_never_queued_again_under_a_name_that_its_spec_gives(tmp_path: Path) -> None:
    directory = make_run(tmp_path / "runs")
    enqueue_again([directory.spec()], tmp_path / "runs")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    assert all(path.parent == tmp_path / "runs" for path in (tmp_path / "runs").iterdir())
