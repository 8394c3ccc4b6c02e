"""The app is stopped and killed while runs are queued; real processes throughout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ftlab.basics.locks import DeviceLock
from ftlab.basics.processes import start_time
from ftlab.jobs.control import dispatcher_lock, note_cancel
from ftlab.jobs.launch import enqueue_sweep
from ftlab.records.run import RunDirectory
from tests.processes import App
from tests.waiting import wait_until
from tests.workers import REQUEST, as_started, statuses


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RunDirectory]]:
    """Three queued runs, whose workers wait for the device as long as the test goes."""
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    turn = DeviceLock("cpu")
    assert turn.try_acquire()
    folder = tmp_path / "runs"
    specs = as_started(enqueue_sweep(REQUEST, folder))
    queued = [RunDirectory(folder / spec.run_id) for spec in specs]
    yield queued
    note_cancel(folder, [run.run_id for run in queued])
    wait_until(lambda: statuses(folder) == ["cancelled"] * 3)
    turn.release()


@pytest.mark.slow
@pytest.mark.fault("app and dispatcher killed with SIGKILL while a run goes")
@pytest.mark.fault("app stopped with SIGTERM, runs queued")
def test_an_app_that_is_started_again_takes_up_the_queue_and_starts_nothing_twice(
    runs: list[RunDirectory],
) -> None:
    """Nor does a run end with the app that is stopped."""
    folder = runs[0].path.parent
    app = App(folder)
    app.start()
    wait_until(lambda: runs[0].worker() is not None)
    worker = runs[0].worker()
    (dispatcher,) = app.children("ftlab.jobs.dispatcher")
    app.kill()
    dispatcher.kill()
    wait_until(lambda: start_time(dispatcher.pid) is None)
    app.start()
    try:
        note_cancel(folder, [runs[1].run_id])
        wait_until(lambda: runs[1].status() == "cancelled")  # only a dispatcher does it
        assert statuses(folder) == ["running", "cancelled", "queued"]
        assert runs[0].worker() == worker
        assert [event["event"] for event in runs[0].metrics()].count("start") == 1
        assert app.process is not None
        app.process.terminate()
        assert app.process.wait(60) == 0
        assert runs[0].status() == "running"
        assert not dispatcher_lock(folder).try_acquire(), "the dispatcher is at work"
    finally:
        app.stop()
