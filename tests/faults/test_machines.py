"""Two machines share one runs folder: each run is done once, whatever happens to either."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics import files, leases
from ftlab.basics.errors import FtlabError
from ftlab.basics.leases import LEFT, Lease, LeaseWatch, holder_of
from ftlab.jobs import run_worker
from ftlab.jobs.control import control_folder, note_cancel
from ftlab.jobs.dispatcher import Dispatcher
from ftlab.jobs.launch import enqueue_sweep
from ftlab.jobs.launchers.local import LocalLauncher
from ftlab.records.removal import remove_runs
from ftlab.records.result import RunResult
from ftlab.records.resume import ask_to_resume, begin_anew
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore
from tests import another_machine
from tests.training.one_run import queued, spec_of
from tests.waiting import wait_until
from tests.workers import DONE, REQUEST, as_started, statuses, worker

pytestmark = pytest.mark.slow

EXPIRES = 3.0
Machine = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Starts modules on the machine "other", and has leases expire in seconds."""
    monkeypatch.setattr(leases, "EXPIRES_SECONDS", EXPIRES)
    monkeypatch.setattr(leases, "RENEW_SECONDS", EXPIRES / 6)
    leases.watch.cache_clear()
    started: list[subprocess.Popen[bytes]] = []

    def start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
        started.append(another_machine.start("other", module, *arguments, expires=EXPIRES))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait()
    leases.watch.cache_clear()


def queue(folder: Path) -> list[RunDirectory]:
    return [RunDirectory(folder / one.run_id) for one in as_started(enqueue_sweep(REQUEST, folder))]


def held_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Lease:
    """The lease of a machine that does not count up any more."""
    with monkeypatch.context() as patch:
        patch.setattr(leases, "boot_id", lambda: "boot of other")
        patch.setattr(leases.platform, "node", lambda: "other")
        lease = Lease(folder, LeaseWatch())
        folder.mkdir(parents=True, exist_ok=True)
        assert lease.try_acquire()
    return lease


@pytest.mark.fault("another machine dies with the queue")
def test_a_dispatcher_takes_over_the_queue_of_a_machine_that_is_gone(
    tmp_path: Path, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue(tmp_path)
    held_elsewhere(control_folder(tmp_path), monkeypatch)
    began = leases.seconds()
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: DONE))).work()
    assert leases.seconds() - began >= EXPIRES
    assert statuses(tmp_path) == ["done"] * 3
    assert holder_of(control_folder(tmp_path)) is None


@pytest.mark.fault("two machines start one run")
def test_a_worker_leaves_a_run_that_another_machine_is_doing(
    tmp_path: Path, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = queue(tmp_path)
    lease = held_elsewhere(first.path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(leases, "boot_id", lambda: "boot of other")
        late = another_machine.start("third", "ftlab.jobs.run_worker", str(first.path), expires=60)
        for _ in range(40):
            lease._renewed = 0.0  # it is alive
            lease.renew()
            if late.poll() is not None:
                break
            leases.time.sleep(0.5)
    assert late.wait(60) == 2
    assert not first.metrics_file.exists()
    assert first.result() is None


@pytest.mark.fault("two machines start one run")
def test_a_worker_that_waited_for_another_machine_does_not_do_again_what_that_one_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = queue(tmp_path)

    def waited(lease: Lease) -> bool:
        first.metrics_file.write_text('{"event": "start", "pid": 1, "process_started": 1.0}\n')
        first.write_result(RunResult("done", ""))
        return lease.try_acquire()

    monkeypatch.setattr(Lease, "acquire", waited)
    assert run_worker.main([str(first.path)]) == 2
    assert len(first.metrics()) == 1
    assert holder_of(first.path) is None


@pytest.mark.fault("a run of another machine is cancelled")
def test_a_cancelled_run_is_neither_resumed_nor_deleted_while_its_worker_elsewhere_ends(
    tmp_path: Path, other: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = queue(tmp_path)
    lease = held_elsewhere(first.path, monkeypatch)
    note_cancel(tmp_path, [first.run_id])
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: DONE))).step()
    assert first.status() == "cancelled"
    assert first.elsewhere is not None, "its worker still has to find out"
    for act in (ask_to_resume, begin_anew, lambda run: remove_runs(tmp_path, [run.run_id])):
        with pytest.raises(FtlabError, match="on the machine other is still ending"):
            act(first)
    lease._file.unlink()  # type: ignore[union-attr]
    wait_until(lambda: first.elsewhere is None)
    begin_anew(first)
    assert first.status() == "queued"
    assert first.node_file.exists()


@pytest.mark.fault("two machines end one run")
def test_a_result_that_appears_as_another_is_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = queue(tmp_path)
    whole = files._move_once

    def late(temporary: str, path: Path) -> None:
        path.write_bytes(b'{"status": "done"}')
        whole(temporary, path)

    monkeypatch.setattr(files, "_move_once", late)
    first.write_result(RunResult("cancelled", "Late."))
    assert first.status() == "done"
    assert not list(first.path.glob(".result*"))


@pytest.mark.fault("a run for a device that another machine has")
def test_a_run_for_a_device_that_only_the_machine_has_which_queued_it_is_left_to_that_one(
    tmp_path: Path,
) -> None:
    runs = queue(tmp_path)
    away = runs[0]
    spec = away.spec()
    away.complete_spec(spec.__class__(**{**vars(spec), "device": "cuda:7"}))
    away.node_file.write_text("other")
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: DONE))).work()
    assert [run.status() for run in runs] == ["queued", "done", "done"]


@pytest.mark.fault("a machine is suspended and another goes on with its run")
@pytest.mark.model
def test_a_suspended_machine_that_wakes_up_writes_nothing_and_the_run_is_the_same_bit_for_bit(
    tiny_model: Path, task_file: Path, tmp_path: Path, other: Machine
) -> None:
    steps = 120
    alone = trained(tmp_path / "alone", tiny_model, task_file, steps)
    there = other("ftlab.jobs.run_worker", str(alone.path))
    assert there.wait(90) == 0
    run = trained(tmp_path / "runs", tiny_model, task_file, steps)
    suspended = other("ftlab.jobs.run_worker", str(run.path))
    wait_until(lambda: list(run.checkpoints.glob("checkpoint-*.json")) != [], 120)
    os.kill(suspended.pid, signal.SIGSTOP)
    wait_until(lambda: RunStore(run.path.parent).runs()[0].status == "interrupted", 6 * EXPIRES)
    ask_to_resume(run)
    third = another_machine.start("third", "ftlab.jobs.run_worker", str(run.path), expires=EXPIRES)
    assert third.wait(90) == 0
    before = content(run)
    os.kill(suspended.pid, signal.SIGCONT)
    assert suspended.wait(60) == LEFT
    assert {name: data for name, data in content(run).items() if name != "log.txt"} == {
        name: data for name, data in before.items() if name != "log.txt"
    }
    assert run.node == "third"
    assert losses(run) == losses(alone)
    assert [event["event"] for event in run.metrics()].count("start") == 1


def trained(folder: Path, model: Path, task_file: Path, steps: int) -> RunDirectory:
    """A queued run of the tiny model that writes checkpoints."""
    more = {"steps": steps, "checkpoint_every": 20, "eval_examples": 2, "eval_answers": False}
    return queued(spec_of(model, task_file, **more), folder)


def steps_of(run: RunDirectory) -> int:
    return sum(event.get("event") == "step" for event in run.metrics())


def losses(run: RunDirectory) -> list[Any]:
    return [event["loss"] for event in run.metrics() if event.get("event") == "step"]


def content(run: RunDirectory) -> dict[str, bytes]:
    return {
        str(path.relative_to(run.path)): path.read_bytes()
        for path in sorted(run.path.rglob("*"))
        if path.is_file()
    }
