"""Resuming a run: which runs can be resumed, and from where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.control import ensure_dispatcher
from ftlab.records.result import Status
from ftlab.records.resume import (
    ask_to_resume,
    begin_again,
    begin_anew,
    newest_checkpoint,
    read_earlier,
)
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore, read_run
from tests.fakes import make_checkpoint, make_run


@pytest.mark.parametrize("status", ["interrupted", "failed", "cancelled", "out_of_memory"])
def test_a_run_that_ended_early_waits_again_and_its_result_is_kept_beside_it(
    tmp_path: Path, status: Status
) -> None:
    directory = make_run(tmp_path, status=status)
    make_checkpoint(directory)
    store = RunStore(tmp_path)
    assert store.runs()[0].resumes_from == 10
    assert store.runs()[0].reason.endswith("Resume goes on from step 10.")
    ended = directory.result()
    ask_to_resume(directory)
    assert store.runs()[0].status == "queued"
    assert store.runs()[0].resumes_from is None
    kept = directory.path / "result.before-resume.json"
    assert kept.exists() == (ended is not None)


@pytest.mark.parametrize("status", ["done", "running", "queued"])
def test_a_run_that_is_done_or_open_is_not_resumed(tmp_path: Path, status: Status) -> None:
    directory = make_run(tmp_path, status=status)
    with pytest.raises(FtlabError, match=f"is {status}; only one that ended early"):
        ask_to_resume(directory)
    assert not directory.resume_file.exists()


def test_a_run_without_a_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    directory = make_run(tmp_path, status="interrupted")
    assert read_run(directory).resumes_from is None
    with pytest.raises(FtlabError, match="has no checkpoint to go on from; run it again"):
        ask_to_resume(directory)


@pytest.mark.parametrize("name", ["optimizer.pt", "another.pt"])
def test_a_checkpoint_with_a_file_that_the_run_did_not_write_is_not_opened(
    tmp_path: Path, name: str
) -> None:
    directory = make_run(tmp_path, status="interrupted")
    (make_checkpoint(directory) / name).write_bytes(b"other")
    with pytest.raises(FtlabError, match=rf"checkpoint-10/{name}.* is not a file as the run wrote"):
        ask_to_resume(directory)
    assert not directory.resume_file.exists()


def test_a_run_that_begins_anew_waits_without_what_it_wrote(tmp_path: Path) -> None:
    directory = make_run(tmp_path, status="failed")
    make_checkpoint(directory)
    begin_anew(directory)
    assert read_run(directory).status == "queued"
    names = {path.name for path in directory.path.iterdir()}
    assert names - {"node"} == {"spec.json", "result.before-resume.json"}


@pytest.mark.parametrize("status", ["done", "running", "queued"])
def test_a_run_that_is_done_or_open_does_not_begin_anew(tmp_path: Path, status: Status) -> None:
    directory = make_run(tmp_path, status=status)
    before = sorted(directory.path.iterdir())
    with pytest.raises(FtlabError, match=f"is {status}; only one that ended early"):
        begin_anew(directory)
    assert sorted(directory.path.iterdir()) == before


def newest_step(directory: RunDirectory) -> int | None:
    found = newest_checkpoint(directory)
    return None if found is None else found.step


def test_the_newest_complete_checkpoint_counts(tmp_path: Path) -> None:
    directory = make_run(tmp_path, status="interrupted")
    make_checkpoint(directory, 10)
    incomplete = make_checkpoint(directory, 12)
    assert newest_step(directory) == 12
    (incomplete / "optimizer.pt").unlink()  # as if the run was killed while it wrote
    assert newest_step(directory) == 10


@pytest.mark.hostile("checkpoint records")
@pytest.mark.parametrize("name", ["../spec.json", "/etc/passwd", "checkpoint-10/../../log.txt", ""])
def test_a_record_that_names_another_place_is_no_checkpoint(tmp_path: Path, name: str) -> None:
    directory = make_run(tmp_path, status="interrupted")
    record = make_checkpoint(directory).with_suffix(".json")
    written = json.loads(record.read_text())
    record.write_text(json.dumps(written | {"files": {name: "0" * 64}}))
    assert newest_checkpoint(directory) is None


@pytest.mark.hostile("checkpoint records")
@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"step": 10}', "\x00"])
def test_a_damaged_record_is_no_checkpoint_and_breaks_nothing(tmp_path: Path, content: str) -> None:
    directory = make_run(tmp_path, status="interrupted")
    make_checkpoint(directory, 12).with_suffix(".json").write_text(content)
    assert newest_step(directory) is None
    make_checkpoint(directory, 10)
    assert newest_step(directory) == 10


def test_a_resumed_run_drops_the_events_after_the_checkpoint(
    tmp_path: Path,
) -> None:
    directory = make_run(tmp_path, status="interrupted", steps=12)  # it got to step 6
    make_checkpoint(directory, 4)
    ask_to_resume(directory)
    earlier = read_earlier(directory)
    assert earlier is not None
    begin_again(directory, earlier, {"event": "start", "pid": 77, "process_started": 5.0})
    events = directory.metrics()
    assert directory.worker() == (77, 5.0)
    assert events[0]["resumed"] == [4]
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4]
    assert events[-1]["event"] == "step"
    assert not directory.resume_file.exists()


def test_a_run_that_waits_to_resume_starts_a_dispatcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr("ftlab.jobs.control.start_dispatcher", started.append)
    directory = make_run(tmp_path, status="failed")
    make_checkpoint(directory)
    ensure_dispatcher(tmp_path)
    assert started == []
    ask_to_resume(directory)
    ensure_dispatcher(tmp_path)
    assert started == [tmp_path]
