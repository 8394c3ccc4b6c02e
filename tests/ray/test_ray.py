"""Runs on a Ray cluster: they survive the loss of a node and of the head."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psutil
import pytest

from ftlab.jobs.control import note_cancel, start_dispatcher
from ftlab.jobs.launchers.launcher import ON_VARIABLE, read_job
from ftlab.jobs.ready import IDLE_VARIABLE
from ftlab.methods.variant import Variant
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from tests.ray.conftest import Cluster, queue
from tests.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def two_runs(tiny_model: Path, task_file: Path) -> SweepRequest:
    """Runs that train for seconds, with a base run that these tests cancel."""
    settings = TrainingSettings(
        steps=100, batch_size=2, eval_examples=2, eval_answers=False, checkpoint_every=5
    )
    return SweepRequest(
        model=str(tiny_model),
        task=parse_task(str(task_file)),
        variants=(Variant("lora"), Variant("full")),
        settings=settings,
        device="cpu",
    )


def started(request: SweepRequest, folder: Path) -> list[RunDirectory]:
    base, *runs = queue(request, folder)
    note_cancel(folder, [base.run_id])
    start_dispatcher(folder)
    return runs


def learned(folder: Path) -> dict[str, tuple[list[float], dict[str, bytes]]]:
    """By label and seed: the losses of all steps, and the files of the adapter."""
    found = {}
    for run in RunStore(folder).runs():
        steps = [e["loss"] for e in run.directory.metrics() if e["event"] == "step"]
        adapter = run.directory.adapter
        files = {path.name: path.read_bytes() for path in sorted(adapter.glob("*.safetensors"))}
        found[f"{run.spec.label} {run.spec.seed}"] = steps, files
    return found


def test_runs_survive_a_killed_node_and_a_new_head_and_equal_the_local_ones(
    cluster: Cluster, on: str, two_runs: SweepRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Head and node take one run each."""
    folder = tmp_path / "runs"
    node = cluster.add_node()
    runs = started(two_runs, folder)
    wait_until(lambda: _at_work_on(runs, node))
    cluster.kill(node)
    head = cluster.nodes[0]
    wait_until(lambda: _at_work_on(runs, head))
    cluster.kill(head)
    before = _ended_at(runs)
    cluster.nodes[0] = cluster.start_head()
    wait_until(lambda: all(run.result() is not None for run in runs), 240)
    assert {run.status() for run in runs} == {"done"}
    assert before.items() <= _ended_at(runs).items(), "nothing ran twice"
    started_how_often = [read_job(run).number for run in runs]  # type: ignore[union-attr]
    assert max(started_how_often) > 1, "something was lost, and went on"

    monkeypatch.delenv(ON_VARIABLE)
    monkeypatch.setenv(IDLE_VARIABLE, "30")  # forked workers, which are faster
    local = tmp_path / "local"
    started(two_runs, local)
    wait_until(lambda: all(not run.is_open for run in RunStore(local).runs()), 240)
    assert learned(folder) == learned(local)


def _ended_at(runs: list[RunDirectory]) -> dict[str, float]:
    """By run; a result itself is completed when the base run ends."""
    return {run.run_id: result.finished_at for run in runs if (result := run.result()) is not None}


def _at_work_on(runs: list[RunDirectory], node: subprocess.Popen[bytes]) -> bool:
    """Whether a worker trains on that node."""
    family = {process.pid for process in psutil.Process(node.pid).children(recursive=True)}
    at_work = [run.worker() for run in runs if any(e["event"] == "step" for e in run.metrics())]
    return any(worker is not None and worker[0] in family for worker in at_work)
