"""A run is cancelled in each of its phases: the real worker, held in the midst of the phase."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil
import pytest

from ftlab.basics.locks import DeviceLock
from ftlab.jobs.control import note_cancel
from ftlab.jobs.dispatcher import Dispatcher
from ftlab.jobs.launchers.local import LocalLauncher
from ftlab.records.run import RunDirectory
from tests.faults.conftest import Enqueue, patched_worker
from tests.workers import step_until

_HOLD = """
import pathlib, time
from {module} import {owner} as owner
whole = owner.{name}
def held(*given, **named):
    whole(*given, **named)
    pathlib.Path(sys.argv[1], ".held").touch()
    time.sleep(120)
owner.{name} = held
"""
HOLDS = {
    "train": ("ftlab.training.trainer", "FairTrainer", "compute_loss"),
    "evaluate": ("ftlab.training", "run", "evaluate"),
}


@pytest.fixture
def run(enqueue: Enqueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """One queued LoRA run, and a device of the test's own."""
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    base, lora = enqueue()
    shutil.rmtree(base.path)
    return lora


def cancel(run: RunDirectory, dispatcher: Dispatcher, saved: bool = False) -> None:
    """Cancels it, and looks that nothing is left of its process nor half done on the disk.

    `saved`: what it trained was saved before, and stays.
    """
    pid = run.worker()[0]  # type: ignore[index]
    note_cancel(run.path.parent, [run.run_id])
    step_until(dispatcher, lambda: run.result() is not None)
    assert run.status() == "cancelled"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert (run.adapter / "adapter_model.safetensors").exists() == saved
    assert not any(path.exists() for path in run.left_overs())
    assert {path.name for path in run.path.iterdir()} <= {
        "spec.json", "node", "metrics.jsonl", "log.txt", "result.json", "samples.jsonl", ".held",
        *(["adapter"] if saved else []),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "phase",
    [
        pytest.param(phase, marks=pytest.mark.fault(f"cancel in the {phase} phase"))
        for phase in HOLDS
    ],
)
def test_a_cancel_in_the_midst_of_a_phase_leaves_nothing_behind(
    run: RunDirectory, phase: str
) -> None:
    module, owner, name = HOLDS[phase]
    start = patched_worker(_HOLD.format(module=module, owner=owner, name=name))
    dispatcher = Dispatcher(run.path.parent, LocalLauncher(start))
    step_until(dispatcher, (run.path / ".held").exists, seconds=90)
    phases = [event["phase"] for event in run.metrics() if event["event"] == "phase"]
    assert phases[-1] == phase
    cancel(run, dispatcher, saved=phase == "evaluate")
    assert DeviceLock("cpu").try_acquire(), "the next run may start"


@pytest.mark.slow
@pytest.mark.fault("cancel while it waits for its device")
def test_a_cancel_while_another_has_the_device_ends_the_wait(run: RunDirectory) -> None:
    other = DeviceLock("cpu")
    assert other.try_acquire()
    dispatcher = Dispatcher(run.path.parent)
    step_until(dispatcher, lambda: any(e.get("phase") == "wait" for e in run.metrics()))
    cancel(run, dispatcher)
    other.release()
    assert DeviceLock("cpu").try_acquire(), "nobody stands in line any more"
