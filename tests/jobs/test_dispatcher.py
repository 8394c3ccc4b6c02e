"""The dispatcher on real processes that stand in for workers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ftlab.basics.processes import GRACE_SECONDS
from ftlab.jobs.control import dispatcher_lock, ensure_dispatcher, note_cancel
from ftlab.jobs.dispatcher import Dispatcher, in_starting_order
from ftlab.jobs.launch import enqueue_sweep
from ftlab.jobs.launchers.local import LocalLauncher
from ftlab.methods.variant import Variant
from ftlab.records.result import RunResult
from ftlab.records.resume import begin_anew
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore
from tests.waiting import wait_until
from tests.workers import (
    CRASHES,
    DIES,
    DONE,
    PRELUDE,
    REQUEST,
    SLOW,
    STUBBORN,
    Start,
    as_started,
    statuses,
    step_until,
    worker,
)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 * GRACE_SECONDS < 10, "a cancelled worker ends within ten seconds"
    monkeypatch.setattr("ftlab.jobs.dispatcher.POLL_SECONDS", 0.05)
    monkeypatch.setattr("ftlab.basics.processes.GRACE_SECONDS", 0.5)


@pytest.fixture
def started() -> list[str]:
    """The runs that a `noting` worker was started for."""
    return []


@pytest.fixture
def noting(started: list[str]) -> Start:
    """A worker that is done at once."""

    def script(run_id: str) -> str:
        started.append(run_id)
        return DONE

    return worker(script)


def test_the_queue_is_worked_in_order_one_at_a_time(tmp_path: Path) -> None:
    specs = as_started(enqueue_sweep(REQUEST, tmp_path))
    started: list[str] = []

    def script(run_id: str) -> str:
        assert "running" not in statuses(tmp_path)
        started.append(run_id)
        return DONE

    Dispatcher(tmp_path, LocalLauncher(worker(script))).work()
    assert started == [spec.run_id for spec in specs]
    assert set(statuses(tmp_path)) == {"done"}


def test_the_next_run_starts_as_soon_as_a_worker_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.jobs.dispatcher.POLL_SECONDS", 30)
    enqueue_sweep(REQUEST, tmp_path)
    began = time.monotonic()
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run_id: DONE))).work()
    assert set(statuses(tmp_path)) == {"done"}
    assert time.monotonic() - began < 30, "it waited for its next look"


@pytest.mark.fault("a worker that dies while the dispatcher looks")
def test_the_last_worker_that_dies_between_two_glances_of_one_look_is_still_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue_sweep(REQUEST, tmp_path)
    launcher = LocalLauncher(worker(lambda run_id: DIES if "lora" in run_id else DONE))
    dispatcher = Dispatcher(tmp_path, launcher)
    reap, looked = dispatcher._reap, False

    def blink() -> None:
        nonlocal looked
        dying = [
            child for child in dispatcher._children.values() if "lora" in child.directory.run_id
        ]
        if dying and not looked:  # as if it died right after it was seen alive
            launcher._started[dying[0].job][0].wait()  # type: ignore[attr-defined]
            looked = True
        else:
            reap()

    monkeypatch.setattr(dispatcher, "_reap", blink)
    dispatcher.work()
    assert statuses(tmp_path)[-1] == "failed"


def test_the_first_trained_run_starts_before_the_base_runs_unless_one_was_started_before(
    tmp_path: Path,
) -> None:
    request = replace(REQUEST, variants=(Variant("qlora"), Variant("lora")))
    base, base_nf4, qlora, lora = enqueue_sweep(request, tmp_path)
    order = [spec.run_id for spec in (qlora, base, base_nf4, lora)]

    def starting() -> list[str]:
        return [run.run_id for run in in_starting_order(RunStore(tmp_path).runs())]

    assert starting() == order
    RunDirectory(tmp_path / qlora.run_id).write_result(RunResult("failed", "No."))
    assert starting() == order[1:]


def test_a_second_dispatcher_leaves_at_once(tmp_path: Path) -> None:
    enqueue_sweep(REQUEST, tmp_path)
    lock = dispatcher_lock(tmp_path)
    assert lock.try_acquire()
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run_id: DONE))).work()
    assert set(statuses(tmp_path)) == {"queued"}


@pytest.mark.fault("worker killed or crashed")
@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (DIES, "killed from outside (SIGKILL)"),
        (CRASHES, "status 3 and no result. Its last line: the last words"),
    ],
)
def test_a_worker_that_dies_is_a_row_with_its_reason_and_the_next_runs(
    tmp_path: Path, script: str, reason: str
) -> None:
    specs = as_started(enqueue_sweep(REQUEST, tmp_path))
    first = specs[0].run_id
    Dispatcher(
        tmp_path, LocalLauncher(worker(lambda run_id: script if run_id == first else DONE))
    ).work()
    runs = as_started(RunStore(tmp_path).runs())
    assert [run.status for run in runs] == ["failed", "done", "done"]
    assert reason in runs[0].reason


def resume(directory: RunDirectory) -> None:
    """As `ask_to_resume`, without a checkpoint."""
    directory.resume_file.touch()
    directory.result_file.replace(directory.earlier_result_file)


@pytest.mark.parametrize("again", [resume, begin_anew])
def test_a_run_that_is_asked_again_before_its_process_has_ended_is_no_crash(
    again: Callable[[RunDirectory], None], tmp_path: Path
) -> None:
    first = RunDirectory(tmp_path / as_started(enqueue_sweep(REQUEST, tmp_path))[0].run_id)
    ends_late = (
        PRELUDE
        + "finish(status='cancelled')\n"
        + ("while (run / 'result.json').exists(): time.sleep(0.02)\nsys.exit(1)")
    )
    scripts = iter([ends_late])
    dispatcher = Dispatcher(tmp_path, LocalLauncher(worker(lambda run_id: next(scripts, DONE))))
    step_until(dispatcher, first.result_file.exists)
    again(first)
    dispatcher.work()
    assert statuses(tmp_path) == ["done", "done", "done"]


@pytest.mark.fault("worker that ignores SIGTERM")
@pytest.mark.parametrize("script", [SLOW, STUBBORN], ids=["polite", "stubborn"])
def test_cancel_ends_the_process_and_records_its_memory(tmp_path: Path, script: str) -> None:
    specs = as_started(enqueue_sweep(REQUEST, tmp_path))
    first = RunDirectory(tmp_path / specs[0].run_id)
    dispatcher = Dispatcher(
        tmp_path, LocalLauncher(worker(lambda r: script if r == specs[0].run_id else DONE))
    )
    step_until(dispatcher, lambda: first.worker() is not None)
    pid = first.worker()[0]  # type: ignore[index]
    note_cancel(tmp_path, [specs[0].run_id])
    dispatcher.step()
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    result = first.result()
    assert result is not None
    assert result.status == "cancelled"
    assert (result.memory_at_end["before"] or 0) > 1_000_000
    assert result.memory_at_end["after"] == 0
    step_until(dispatcher, lambda: statuses(tmp_path) == ["cancelled", "done", "done"])


def test_a_queued_run_is_cancelled_without_ever_starting_and_a_finished_one_is_not_harmed(
    tmp_path: Path, started: list[str], noting: Start
) -> None:
    specs = as_started(enqueue_sweep(REQUEST, tmp_path))
    note_cancel(tmp_path, [specs[1].run_id])
    Dispatcher(tmp_path, LocalLauncher(noting)).work()
    runs = as_started(RunStore(tmp_path).runs())
    assert [run.status for run in runs] == ["done", "cancelled", "done"]
    assert runs[1].reason == "Cancelled before it started."
    assert specs[1].run_id not in started
    note_cancel(tmp_path, [specs[0].run_id])
    Dispatcher(tmp_path, LocalLauncher(noting)).step()
    assert statuses(tmp_path) == ["done", "cancelled", "done"]


@pytest.mark.fault("dispatcher gone while a run goes")
def test_a_new_dispatcher_takes_over_a_run_that_is_still_going(
    tmp_path: Path, started: list[str], noting: Start
) -> None:
    specs = as_started(enqueue_sweep(REQUEST, tmp_path))
    first = RunDirectory(tmp_path / specs[0].run_id)
    script = PRELUDE + "while not (run / 'end').exists(): time.sleep(0.02)\nfinish()"
    step_until(
        Dispatcher(tmp_path, LocalLauncher(worker(lambda _: script))),
        lambda: first.status() == "running",
    )
    dispatcher = Dispatcher(tmp_path, LocalLauncher(noting))
    dispatcher.step()
    assert started == []
    (first.path / "end").touch()
    dispatcher.work()
    assert started == [spec.run_id for spec in specs[1:]]


@pytest.mark.fault("process number given to another process")
def test_a_run_whose_process_number_was_given_to_another_is_interrupted(tmp_path: Path) -> None:
    specs = as_started(enqueue_sweep(REQUEST, tmp_path))
    first = RunDirectory(tmp_path / specs[0].run_id)
    line = {"event": "start", "pid": os.getpid(), "process_started": 12345.0}
    first.metrics_file.write_text(json.dumps(line) + "\n")
    assert first.status() == "interrupted"
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run_id: DONE))).work()
    assert statuses(tmp_path) == ["interrupted", "done", "done"]


@pytest.mark.fault("disk full as a result is written")
def test_a_run_whose_result_the_disk_refuses_is_tried_once_and_shows_as_interrupted(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue_sweep(REQUEST, tmp_path)

    def script(run_id: str) -> str:
        started.append(run_id)
        return "import sys, pathlib; (pathlib.Path(sys.argv[1]) / 'metrics.jsonl').touch()"

    def full(self: RunDirectory, result: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(RunDirectory, "write_result", full)
    monkeypatch.setattr("ftlab.records.run._FIRST_WORD_SECONDS", 0.2)
    Dispatcher(tmp_path, LocalLauncher(worker(script))).work()
    assert len(started) == len(set(started)) == 3
    wait_until(lambda: set(statuses(tmp_path)) == {"interrupted"})


@pytest.mark.fault("cancel while the adapter is saved")
def test_a_cancel_during_the_save_leaves_no_half_an_adapter(tmp_path: Path) -> None:
    specs = as_started(enqueue_sweep(REQUEST, tmp_path))
    first = RunDirectory(tmp_path / specs[0].run_id)
    half = PRELUDE + "(run / '.adapter.partial').mkdir(); time.sleep(60)"
    dispatcher = Dispatcher(
        tmp_path, LocalLauncher(worker(lambda r: half if r == specs[0].run_id else DONE))
    )
    step_until(dispatcher, lambda: first.partial_adapter.exists())
    note_cancel(tmp_path, [specs[0].run_id])
    dispatcher.step()
    assert first.status() == "cancelled"
    assert not first.partial_adapter.exists()


def test_a_dispatcher_is_brought_back_only_when_a_run_waits_and_none_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Path] = []
    monkeypatch.setattr("ftlab.jobs.control.start_dispatcher", started.append)
    ensure_dispatcher(tmp_path / "nothing")
    assert started == []
    enqueue_sweep(REQUEST, tmp_path)
    lock = dispatcher_lock(tmp_path)
    assert lock.try_acquire()
    ensure_dispatcher(tmp_path)
    assert started == []
    lock.release()
    ensure_dispatcher(tmp_path)
    assert started == [tmp_path]
