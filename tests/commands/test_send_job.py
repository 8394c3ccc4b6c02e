"""The job of a sent sweep: over a Hub of the tests' own it runs, and its results come back.

What costs money, what is refused and what is left is in `tests/commands/test_send.py`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.commands import send_job
from ftlab.records.opened import opened_sweeps
from ftlab.records.store import RunStore
from tests.fakes import make_sweep
from tests.hub_jobs import TOKEN, JobsHub
from tests.hub_server import Hub, publish, serving

pytestmark = pytest.mark.slow

Sent = dict[str, list[str]]


@pytest.fixture
def jobs(tmp_path: Path, tiny_model: Path) -> Iterator[JobsHub]:
    model = publish(tiny_model, tmp_path / "published")
    with serving(Hub({"tiny/llama": model})) as hub:
        jobs = JobsHub(tmp_path / "jobs", hub)
        yield jobs
        jobs.close()


def test_a_sweep_on_a_users_file_runs_as_a_job_and_comes_back(
    jobs: JobsHub, tmp_path: Path
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("prompt,completion\n" + "".join(f"say {n},word {n}\n" for n in range(60)))
    command = [
        sys.executable, "-m", "ftlab", "send", "--flavor", "cpu-basic", "--yes", "--model",
        "tiny/llama", "--task", str(file), "--methods", "lora", "--steps", "1", "--batch-size", "2",
        "--eval-examples", "1", "--runs-dir", str(tmp_path / "runs"),
    ]  # fmt: skip
    own = {"HF_TOKEN": TOKEN, "FTLAB_HOME": str(tmp_path / "home")}
    environment = {**os.environ, **jobs.hub.environment(tmp_path / "hf"), **own}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (asked,) = jobs.jobs.values()
    assert asked["timeoutSeconds"] == 4 * 3600
    assert asked.pop("secrets") == {"HF_TOKEN": TOKEN}
    assert TOKEN not in str(asked) + done.stdout + done.stderr
    assert [made["visibility"] for made in jobs.made] == ["private"]
    assert jobs.files == ["sweep.tar.gz", "results.zip"]
    assert not jobs.repos, "nothing is left on the Hub"
    (opened,) = opened_sweeps(tmp_path / "runs")
    runs = RunStore(tmp_path / "runs").sweep(opened.name)
    assert [run.spec.method for run in runs if not run.spec.is_base] == ["lora"]
    assert {(run.origin, run.status) for run in runs} == {("opened", "done")}
    assert "1 run and 1 adapter from another machine opened" in done.stdout


@pytest.fixture
def execute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[Path], Any], float], tuple[int, Sent]]]:
    """Executes a job here, whose sweep is that function of the runs folder."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(send_job, "read_sent", lambda folder: None)
    monkeypatch.setattr(send_job, "checked_with_inputs", lambda request: (None, None))
    monkeypatch.setattr(send_job, "_SECONDS_BETWEEN", 0.0)
    sent: Sent = {}

    def upload(path_or_fileobj: str, path_in_repo: str, **options: Any) -> None:
        if len(sent) < 1:
            sent["a lost upload"] = []
            raise OSError("cut off")
        sent[path_in_repo] = zipfile.ZipFile(path_or_fileobj).namelist()

    monkeypatch.setattr(send_job, "hub_api", lambda token: SimpleNamespace(upload_file=upload))

    def execute(sweep: Callable[[Path], Any], seconds: float = 60) -> tuple[int, Sent]:
        monkeypatch.setattr(send_job, "run_sweep", lambda valid, found, folder: sweep(folder))
        return send_job.main(["me/repo", str(time.time() + seconds)]), sent

    yield execute
    signal.alarm(0)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_what_is_done_is_sent_when_the_job_is_cancelled_or_its_time_is_over(
    execute: Callable[..., tuple[int, Sent]], capfd: pytest.CaptureFixture[str]
) -> None:
    def cancelled(folder: Path) -> None:
        make_sweep(folder)
        signal.raise_signal(signal.SIGTERM)

    code, sent = execute(cancelled)
    assert code == 0
    assert "manifest.json" in sent.pop("results.zip")
    assert "The job is cancelled." in capfd.readouterr().err
    code, sent = execute(lambda folder: time.sleep(30), seconds=1)
    assert code == 0
    assert "manifest.json" in sent["results.zip"]
    assert "The time of this job is over." in capfd.readouterr().err


def test_a_sweep_that_is_refused_there_fails_the_job_with_the_reason(
    execute: Callable[..., tuple[int, Sent]], capfd: pytest.CaptureFixture[str]
) -> None:
    def refused(folder: Path) -> None:
        raise FtlabError("The model is gone.")

    code, sent = execute(refused)
    assert (code, sent) == (2, {})
    said = capfd.readouterr().err
    assert "The model is gone." in said
    assert "No run was started, so there is nothing to send back." in said
