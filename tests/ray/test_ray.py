"""Runs on a Ray cluster: a sweep survives the loss of a node and of the head."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest

from ftlab.jobs.control import start_dispatcher
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

METHODS = ("full", "lora", "dora", "ia3", "vera", "oft", "loha", "lokr")


@pytest.fixture
def request_of_24(tiny_model: Path, task_file: Path) -> SweepRequest:
    """A base run and 23 that train."""
    variants = [Variant(method) for method in METHODS]
    settings = TrainingSettings(
        steps=6, batch_size=2, eval_examples=2, eval_answers=False, checkpoint_every=2
    )
    return SweepRequest(
        model=str(tiny_model),
        task=parse_task(str(task_file)),
        variants=tuple(variants),
        settings=settings,
        seeds=(0, 1, 2),
        device="cpu",
    )


def learned(folder: Path) -> dict[str, tuple[list[float], dict[str, bytes]]]:
    """By label and seed: the losses of all steps, and the files of the adapter."""
    found = {}
    for run in RunStore(folder).runs():
        steps = [e["loss"] for e in run.directory.metrics() if e["event"] == "step"]
        adapter = run.directory.adapter
        files = {path.name: path.read_bytes() for path in sorted(adapter.glob("*.safetensors"))}
        found[f"{run.spec.label} {run.spec.seed}"] = steps, files
    return found


def test_24_runs_survive_a_killed_node_and_a_new_head_and_equal_the_local_ones(
    cluster: Cluster, on: str, request_of_24: SweepRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    folder = tmp_path / "runs"
    runs = queue(request_of_24, folder)
    assert len(runs) >= 24
    node = cluster.add_node()
    start_dispatcher(folder)
    wait_until(lambda: _done(runs) >= 2 and _at_work_on(runs, node), 120)
    cluster.kill(node)
    other = cluster.add_node()
    done = _done(runs)
    wait_until(lambda: _done(runs) >= done + 4, 120)
    cluster.kill(cluster.nodes[0])
    cluster.kill(other)  # it belongs to that head
    time.sleep(2)
    before = _ended_at(runs)
    cluster.start_head()
    cluster.add_node()
    wait_until(lambda: _done(runs) == len(runs), 240)
    assert {run.status() for run in runs} == {"done"}
    assert before.items() <= _ended_at(runs).items(), "nothing ran twice"
    started = {run.run_id: read_job(run).number for run in runs}  # type: ignore[union-attr]
    assert any(number > 1 for number in started.values()), "something was lost, and went on"

    monkeypatch.delenv(ON_VARIABLE)
    monkeypatch.setenv(IDLE_VARIABLE, "30")  # forked workers, which are faster
    local = tmp_path / "local"
    queue(request_of_24, local)
    start_dispatcher(local)
    wait_until(lambda: all(not run.is_open for run in RunStore(local).runs()), 240)
    assert learned(folder) == learned(local)


def _ended_at(runs: list[RunDirectory]) -> dict[str, float]:
    """By run; a result itself is completed when the base run ends."""
    return {run.run_id: result.finished_at for run in runs if (result := run.result()) is not None}


def _done(runs: list[RunDirectory]) -> int:
    return sum(run.result_file.exists() for run in runs)


def _at_work_on(runs: list[RunDirectory], node: subprocess.Popen[bytes]) -> bool:
    """Whether a worker trains on that node."""
    family = {process.pid for process in psutil.Process(node.pid).children(recursive=True)}
    at_work = [run.worker() for run in runs if any(e["event"] == "step" for e in run.metrics())]
    return any(worker is not None and worker[0] in family for worker in at_work)
