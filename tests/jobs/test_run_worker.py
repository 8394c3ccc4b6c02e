"""The worker as a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ftlab.basics.locks import DeviceLock
from ftlab.basics.processes import is_alive
from ftlab.models.libraries import CPU_SETTINGS
from ftlab.records.run import RunDirectory
from tests.training import one_run
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CPU_SETTINGS:
        monkeypatch.delenv(name, raising=False)


def work(directory: RunDirectory) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ftlab.jobs.run_worker", str(directory.path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def queued(tiny_model: Path, task_file: Path, tmp_path: Path) -> RunDirectory:
    settings = {"steps": 2, "batch_size": 2, "eval_examples": 2}
    spec = one_run.spec_of(tiny_model, task_file, policy="bf16", **settings)
    return one_run.queued(spec, tmp_path / "runs")


@pytest.mark.slow
def test_a_run_leaves_exactly_the_files_of_the_record_and_is_never_done_twice(
    queued: RunDirectory,
) -> None:
    done = work(queued)
    assert done.returncode == 0, queued.log_tail()
    assert {entry.name for entry in queued.path.iterdir()} == {
        "spec.json", "node", "metrics.jsonl", "log.txt", "result.json", "samples.jsonl", "adapter",
    }  # fmt: skip
    events = queued.metrics()
    assert events[0]["event"] == "start"
    assert [e["phase"] for e in events if e["event"] == "phase"] == [
        "load", "train", "save", "evaluate",
    ]  # fmt: skip
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == [1, 2]
    for event in steps:
        assert event.keys() >= {"loss", "learning_rate", "tokens", "seconds", "memory_bytes"}
        assert event["memory_bytes"] > 100_000_000
    assert not is_alive(*queued.worker())  # type: ignore[misc]
    result = queued.result()
    assert result is not None
    assert result.environment["settings"].items() >= CPU_SETTINGS.items()
    again = work(queued)
    assert again.returncode == 2
    assert "never done twice" in again.stderr
    assert queued.status() == "done"


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path: Path) -> None:
    done = work(RunDirectory(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "no run directory" in done.stderr


def test_a_run_that_waits_for_its_device_stands_in_line_and_says_so(queued: RunDirectory) -> None:
    """Whoever has the device and can step back sees it and gives way."""
    prompt = DeviceLock("cpu")
    assert prompt.try_acquire()
    process = subprocess.Popen(
        [sys.executable, "-m", "ftlab.jobs.run_worker", str(queued.path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: any(event.get("phase") == "wait" for event in queued.metrics()))

        def is_in_line() -> bool:  # a moment after it said so
            if not prompt._line.try_acquire():
                return True
            prompt._line.release()
            return False

        wait_until(is_in_line)
        process.kill()  # it need not train for this
        process.wait()
        assert prompt.give_way() is False, "its place ends with the process"
    finally:
        process.kill()
        prompt.release()
