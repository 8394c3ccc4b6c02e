"""Ray says no, is not there, or something of it dies: one sentence, and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from ftlab.jobs.control import note_cancel, start_dispatcher
from ftlab.jobs.launchers.launcher import read_job
from ftlab.methods.variant import Variant
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from tests.ray.conftest import Cluster, queue
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


def doctor(cluster: Cluster, folder: Path, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "ftlab", "doctor", "--on", cluster.on, "--runs-dir", folder],
        env=cluster.environment | {"RAY_AUTH_MODE": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_doctor_checks_every_node(cluster: Cluster, tmp_path: Path) -> None:
    code, said = doctor(cluster, tmp_path)
    assert code == 0, said
    assert f"Ray at {cluster.on}: " in said
    assert "ok    node" in said or "the bundled model is not there" in said
    assert list((tmp_path / ".ftlab" / "nodes").iterdir()) == [], "a check leaves nothing behind"


@pytest.mark.fault("Ray refuses the token")
def test_a_token_that_the_cluster_refuses_is_said_so(cluster: Cluster, tmp_path: Path) -> None:
    code, said = doctor(cluster, tmp_path, RAY_AUTH_TOKEN="0" * 64)
    assert code == 1
    assert f"The Ray cluster at {cluster.on} refuses this token" in said


@pytest.fixture
def long_runs(tiny_model: Path, task_file: Path, tmp_path: Path, on: str) -> list[RunDirectory]:
    """Two runs that train for a minute; the cluster has room for one at a time."""
    settings = TrainingSettings(
        steps=3000, batch_size=2, eval_examples=2, eval_answers=False, checkpoint_every=10
    )
    request = SweepRequest(
        model=str(tiny_model),
        task=parse_task(str(task_file)),
        variants=(Variant("lora"),),
        settings=settings,
        seeds=(0, 1),
        device="cpu",
    )
    folder = tmp_path / "runs"
    base, *runs = queue(request, folder)
    note_cancel(folder, [base.run_id])
    start_dispatcher(folder)
    return runs


def wait_until_it_trains(run: RunDirectory) -> int:
    """Returns the number of its process."""
    wait_until(lambda: any(event["event"] == "step" for event in run.metrics()))
    pid, _ = run.worker()  # type: ignore[misc]
    return pid


@pytest.mark.fault("dispatcher killed while a run is at work on Ray")
def test_a_new_dispatcher_finds_the_jobs_of_a_killed_one(long_runs: list[RunDirectory]) -> None:
    """It tells of a killed worker, starts the next run, and cancels that."""
    first, second = long_runs
    folder = first.path.parent
    pid = wait_until_it_trains(first)
    (dispatcher,) = [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] and process.info["cmdline"][-1] == str(folder)
    ]
    os.kill(dispatcher.pid, signal.SIGKILL)
    dispatcher.wait(120)
    start_dispatcher(folder)
    os.kill(pid, signal.SIGKILL)  # the worker alone, which the node's own process tells
    wait_until(lambda: first.status() == "failed")
    result = first.result()
    assert result is not None
    assert "killed from outside (SIGKILL)" in result.reason
    assert read_job(first).number == 1  # type: ignore[union-attr]
    pid = wait_until_it_trains(second)
    note_cancel(folder, [second.run_id])
    wait_until(lambda: second.status() == "cancelled")
    wait_until(lambda: not psutil.pid_exists(pid))
