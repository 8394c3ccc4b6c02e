"""A run that was cut off goes on from its checkpoint, and ends where it would have ended."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from ftlab.basics.errors import FtlabError
from ftlab.jobs.launch import checkpoint_bytes
from ftlab.records.result import RunResult
from ftlab.records.resume import (
    ask_to_resume,
    begin_again,
    checkpoint_interval,
    newest_checkpoint,
    read_earlier,
)
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec
from ftlab.records.store import read_run
from ftlab.settings.training import TrainingSettings
from ftlab.training.run import RunRecord, execute
from tests.slow import slow
from tests.training import one_run
from tests.training.one_run import queued
from tests.waiting import wait_until

WAYS = [
    "lora:dropout=0.1",
    "qlora",
    *slow(["full", "lora_fa", "adalora", "pissa", "prompt_tuning"]),
]
"""One for each way in which something learns, is initialised, or is kept beside the weights."""


class CutOffError(Exception):
    """The plug is pulled."""


def spec_of(model: Path, task_file: Path, way: str, **settings: Any) -> RunSpec:
    usual: dict[str, Any] = {
        "steps": 8, "batch_size": 2, "max_length": 128, "checkpoint_every": 3,
        "eval_examples": 2, "eval_answers": False,
    }  # fmt: skip
    return one_run.spec_of(model, task_file, way, **(usual | settings))


def do(
    directory: RunDirectory, cut_after: int | None = None, cut_in: str | None = None
) -> RunResult:
    """What the worker does, in this process; cut off after a step or as a phase begins."""
    earlier = read_earlier(directory)
    start = {"event": "start", "pid": 1, "process_started": 0.0}
    record = RunRecord(earlier=earlier)
    if earlier is None:
        directory.metrics_file.write_text(json.dumps(start) + "\n")
    else:
        begin_again(directory, earlier, start)

    def report(line: dict[str, Any]) -> None:
        with directory.metrics_file.open("a") as file:
            file.write(json.dumps(line | {"elapsed": 1.0}) + "\n")
        if line["event"] == "step" and line["step"] == cut_after:
            raise CutOffError
        if line["event"] == "phase" and line["phase"] == cut_in:
            raise CutOffError

    execute(directory.spec(), directory, record, report)
    result = record.completed()
    directory.write_result(result)
    return result


def losses(directory: RunDirectory) -> list[float]:
    return [event["loss"] for event in directory.metrics() if event["event"] == "step"]


@pytest.mark.fault("a run cut off between two checkpoints and resumed")
@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_is_bit_for_bit_the_one_that_was_not_cut_off(
    way: str, tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    spec = spec_of(tiny_model, task_file, way)
    whole, parts = queued(spec, tmp_path / "whole"), queued(spec, tmp_path / "parts")
    expected = do(whole)
    with pytest.raises(CutOffError):
        do(parts, cut_after=5)
    ask_to_resume(parts)
    result = do(parts)

    assert result.resumed == (3,)
    assert any("resumed after step 3" in note for note in result.notes)
    assert losses(parts) == losses(whole)
    assert result.measures.eval_loss_after == expected.measures.eval_loss_after
    assert result.measures.train_tokens == expected.measures.train_tokens
    assert result.measures.padding_share == expected.measures.padding_share
    saved = sorted(path.name for path in whole.adapter.glob("*.safetensors"))
    assert saved
    for name in saved:
        ours, theirs = load_file(parts.adapter / name), load_file(whole.adapter / name)
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours)


def test_a_run_may_be_cut_off_more_than_once_and_after_its_last_step(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    spec = spec_of(tiny_model, task_file, "lora")
    whole, parts = queued(spec, tmp_path / "whole"), queued(spec, tmp_path / "parts")
    do(whole)
    for cut_after in (4, 7):
        with pytest.raises(CutOffError):
            do(parts, cut_after)
        ask_to_resume(parts)
    result = do(parts)
    assert result.resumed == (3, 6)
    assert losses(parts) == losses(whole)
    assert [event["step"] for event in parts.metrics() if event["event"] == "step"] == list(
        range(1, 9)
    )
    parts.result_file.unlink()  # as if it had been killed as it evaluated
    ask_to_resume(parts)
    again = do(parts)
    assert again.resumed == (3, 6, 8)
    assert again.measures.eval_loss_after == result.measures.eval_loss_after


@pytest.mark.parametrize("way", ["lora:dropout=0.1", *slow(["full", "adalora"])])
def test_a_paused_run_is_evaluated_and_goes_on_bit_for_bit(
    way: str, tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    spec = spec_of(tiny_model, task_file, way, checkpoint_every=0, schedule="constant")
    whole, parts = queued(spec, tmp_path / "whole"), queued(spec, tmp_path / "parts")
    expected = do(whole)
    parts.pause_after(2)
    paused = do(parts)
    assert (paused.status, paused.measures.steps_done) == ("cancelled", 2)
    assert paused.reason == "Paused after step 2, as asked."
    assert all(row["loss_after"] > 0 for row in parts.samples())
    assert losses(parts) == losses(whole)[:2]
    assert not parts.adapter.exists()  # its weights are in the checkpoint

    parts.pause_after(5)
    ask_to_resume(parts)
    again = do(parts)
    assert (again.status, again.resumed, again.measures.steps_done) == ("cancelled", (2,), 5)

    ask_to_resume(parts)  # a pause that lies behind a run does not end it
    result = do(parts)
    assert (result.status, result.resumed) == ("done", (2, 5))
    assert losses(parts) == losses(whole)
    assert result.measures.eval_loss_after == expected.measures.eval_loss_after


def test_a_checkpoint_takes_no_more_room_than_was_asked_of_the_disk(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    for way, policy in (("lora", "fp32"), ("full", "fp32"), ("full", "bf16")):
        spec = replace(spec_of(tiny_model, task_file, way, steps=3), dtype_policy=policy)
        directory = queued(spec, tmp_path / way / policy)
        with pytest.raises(CutOffError):
            do(directory, cut_in="evaluate")
        files = directory.checkpoints.glob("checkpoint-3/*")
        taken = sum(path.stat().st_size for path in files)
        room = checkpoint_bytes(spec) / 3
        assert room * 0.9 < taken < room + 100_000, (way, policy, taken, room)


@pytest.fixture(scope="module")
def cut_off(tiny_model: Path, task_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was cut off after its first checkpoint."""
    spec = spec_of(tiny_model, task_file, "lora", steps=4)
    directory = queued(spec, tmp_path_factory.mktemp("cut off"))
    with pytest.raises(CutOffError):
        do(directory, cut_after=4)
    return directory.path


@pytest.mark.fault("a checkpoint changed by somebody else")
@pytest.mark.parametrize("change", ["content", "another file", "a link"])
def test_a_checkpoint_that_the_run_did_not_write_is_never_opened(
    change: str, cut_off: Path, tmp_path: Path
) -> None:
    directory = RunDirectory(shutil.copytree(cut_off, tmp_path / cut_off.name))
    optimizer = directory.checkpoints / "checkpoint-3" / "optimizer.pt"
    if change == "content":
        optimizer.write_bytes(optimizer.read_bytes() + b"more")
    elif change == "another file":
        (optimizer.parent / "scaler.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    else:
        same = tmp_path / "same.pt"
        optimizer.rename(same)
        optimizer.symlink_to(same)
    with pytest.raises(FtlabError, match=r"not a file as the run wrote it|no checkpoint"):
        ask_to_resume(directory)
    assert not directory.resume_file.exists()


@pytest.mark.fault("a checkpoint that cannot be written")
def test_a_run_goes_on_where_a_checkpoint_cannot_be_written(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    directory = queued(spec_of(tiny_model, task_file, "lora"), tmp_path)
    directory.checkpoints.mkdir()
    (directory.checkpoints / "checkpoint-3").write_text("in the way")
    result = do(directory)
    assert result.status == "done"
    assert any("checkpoint could not be written" in note for note in result.notes)
    assert len(losses(directory)) == 8


def test_only_longer_runs_are_kept_of_themselves() -> None:
    assert checkpoint_interval(TrainingSettings(steps=299)) == 0
    assert checkpoint_interval(TrainingSettings(steps=300)) == 100
    assert checkpoint_interval(TrainingSettings(steps=300, checkpoint_every=0)) == 0
    assert checkpoint_interval(TrainingSettings(steps=20, checkpoint_every=5)) == 5


@pytest.mark.slow
@pytest.mark.fault("a worker killed with SIGKILL and its run resumed by another")
def test_a_killed_worker_is_followed_by_another_that_goes_on(
    tiny_model: Path, task_file: Path, tmp_path: Path
) -> None:
    spec = spec_of(tiny_model, task_file, "lora", steps=60, checkpoint_every=5)
    directory = queued(spec, tmp_path)
    command = [sys.executable, "-m", "ftlab.jobs.run_worker", str(directory.path)]
    worker = subprocess.Popen(command)
    wait_until(lambda: newest_checkpoint(directory) is not None)
    worker.kill()
    worker.wait()
    run = read_run(directory)
    assert run.status == "interrupted"
    assert run.resumes_from
    assert f"Resume goes on from step {run.resumes_from}" in run.reason
    reached = losses(directory)

    ask_to_resume(directory)
    assert directory.status() == "queued"
    assert subprocess.run(command, check=False, timeout=90).returncode == 0, directory.log_tail()
    run = read_run(directory)
    assert run.status == "done"
    assert run.result is not None
    assert run.result.resumed[0] % 5 == 0
    assert losses(directory)[: len(reached)] == reached
    assert len(losses(directory)) == 60
    assert not directory.checkpoints.exists()
    assert not directory.resume_file.exists()
