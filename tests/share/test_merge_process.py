"""The merge as a process: its turn on the device, its cancel, and the command around it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from ftlab.__main__ import main
from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import DeviceLock, holding
from ftlab.basics.processes import STUCK_STATUS, is_alive
from ftlab.commands import merge as merge_command
from ftlab.records.merge import MergeDirectory, MergeRecord
from ftlab.records.removal import remove_runs
from ftlab.records.result import OPEN
from ftlab.records.run import read_json_lines
from ftlab.records.store import Run, read_run
from ftlab.share.merge_control import checked_target, start_merge
from tests.fakes import make_run
from tests.share.conftest import Train
from tests.waiting import wait_until


def with_adapter(folder: Path) -> Run:
    """A finished run with files that look like an adapter's."""
    directory = make_run(folder)
    directory.adapter.mkdir()
    (directory.adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (directory.adapter / "adapter_model.safetensors").write_bytes(b"")
    return read_run(directory)


@pytest.mark.slow
def test_the_command_merges_shows_both_scores_and_deleting_the_run_takes_it_all(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train("lora")
    runs = tmp_path / "runs"
    target = tmp_path / "mine"
    assert main(["merge", run.run_id, "-o", str(target), "--runs-dir", str(runs)]) == 0
    said = capsys.readouterr()
    assert "before merging" in said.out
    assert str(target) in said.out
    assert "starting\n" in said.err
    assert (target / "model.safetensors").is_file()
    merge = MergeDirectory(run.directory)
    assert merge.status() == "done"
    events = read_json_lines(merge.events_file)
    phases = [event["phase"] for event in events if event["event"] == "phase"]
    assert phases == ["load", "merge", "save", "evaluate"]
    assert main(["merge", run.run_id, "-o", str(target), "--runs-dir", str(runs)]) == 2
    assert "is there already" in capsys.readouterr().err
    run.directory.merged.mkdir()
    remove_runs(runs, [run.run_id])
    assert not run.directory.path.exists()
    assert (target / "model.safetensors").is_file(), "a folder that was named is the person's"


def test_a_merge_waits_for_its_device_is_not_begun_twice_and_can_be_cancelled(
    tmp_path: Path,
) -> None:
    run = with_adapter(tmp_path)
    with holding(DeviceLock("cpu")):
        merge = start_merge(run)
        assert merge.status() in OPEN
        with pytest.raises(FtlabError, match="is being merged"):
            start_merge(run)
        with pytest.raises(FtlabError, match="is being merged"):
            remove_runs(tmp_path, [run.run_id])
        wait_until(lambda: merge.progress() == "waiting for the device")
        merge.partial.mkdir()
        worker = merge.worker()
        assert worker is not None
        merge.cancel()
        assert not is_alive(*worker)
    assert merge.status() == "cancelled"
    assert merge.reason == "Cancelled by the person."
    assert not merge.partial.exists()
    merge.cancel()  # nothing happens to one that has ended


def test_ctrl_c_cancels_the_merge_and_says_that_nothing_was_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = with_adapter(tmp_path)

    def interrupted(merge: MergeDirectory, _: object) -> None:
        wait_until(lambda: merge.progress() == "waiting for the device")
        raise KeyboardInterrupt

    monkeypatch.setattr(merge_command, "follow", interrupted)
    with holding(DeviceLock("cpu")):
        assert main(["merge", run.run_id, "--runs-dir", str(tmp_path)]) == 2
    assert "Not merged: Cancelled by the person." in capsys.readouterr().err
    assert MergeDirectory(run.directory).status() == "cancelled"


def test_json_is_the_record_of_the_merge_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = with_adapter(tmp_path)
    merge = MergeDirectory(run.directory)
    merge.folder.mkdir()
    record = MergeRecord("bf16", 5, 1.5, 2.0)
    merge.write_record(record)
    merge.end("done")
    monkeypatch.setattr(merge_command, "start_merge", lambda *_: merge)
    assert main(["merge", run.run_id, "--json", "--runs-dir", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == json.loads(json.dumps(asdict(record)))
    assert printed.err == ""


def test_the_progress_of_a_merge_is_its_last_phase(tmp_path: Path) -> None:
    merge = MergeDirectory(with_adapter(tmp_path).directory)
    merge.folder.mkdir()
    assert merge.progress() == "starting"
    merge.report({"event": "phase", "phase": "evaluate"})
    merge.report({"event": "evaluate", "done": 3, "total": 8})
    assert merge.progress() == "evaluating, 3 of 8"


def test_a_record_is_read_as_it_was_written_and_a_torn_one_is_named(tmp_path: Path) -> None:
    merge = MergeDirectory(with_adapter(tmp_path).directory)
    assert merge.record() is None
    record = MergeRecord("bf16", 5, 1.5, 2.0, score_gain=(0.1, 0.0, 0.2))
    merge.write_record(record)
    assert merge.record() == record
    keys = json.loads(merge.record_file.read_text())
    assert {"score_before_merge", "score_after_merge", "seconds", "bytes", "dtype"} <= keys.keys()
    merge.record_file.write_text("{")
    with pytest.raises(FtlabError, match=r"merged\.json cannot be read"):
        merge.record()


def test_a_target_must_be_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(FtlabError, match="there already"):
        checked_target(tmp_path / "full")
    with pytest.raises(FtlabError, match="does not exist"):
        checked_target(tmp_path / "no" / "where")
    (tmp_path / "empty").mkdir()
    assert checked_target(tmp_path / "empty") == tmp_path / "empty"


STUCK = """
import sys, time
from ftlab.share import merge_worker
merge_worker.PHASE_SECONDS = 0.5

def stuck(merge, device):
    merge.partial.mkdir()
    merge.report({"event": "phase", "phase": "save"})
    time.sleep(60)

merge_worker._work = stuck
sys.exit(merge_worker.main(sys.argv[1:]))
"""


@pytest.mark.fault("merge that hangs")
def test_a_merge_without_progress_fails_with_a_sentence_and_leaves_nothing_half(
    tmp_path: Path,
) -> None:
    merge = MergeDirectory(with_adapter(tmp_path).directory)
    merge.folder.mkdir()
    merge.write_request(merge.run.merged)
    command = [sys.executable, "-c", STUCK, str(merge.run.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == STUCK_STATUS, done.stderr
    assert merge.status() == "failed"
    assert merge.reason == "It showed no progress for 0 seconds and was ended."
    assert not merge.partial.exists()
