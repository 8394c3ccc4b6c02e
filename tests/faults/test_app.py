"""The app is stopped and killed while runs are queued; real processes throughout."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ftlab.basics.locks import DeviceLock
from ftlab.basics.processes import start_time
from ftlab.jobs.control import dispatcher_lock, note_cancel
from ftlab.jobs.launch import enqueue_sweep
from ftlab.records.run import RunDirectory
from tests import processes
from tests.faults.conftest import until
from tests.workers import REQUEST, statuses


def start_app(folder: Path) -> subprocess.Popen[bytes]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    app = processes.start_app(
        *("--port", str(port), "--runs-dir", str(folder)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def answers() -> bool:
        assert app.poll() is None
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    until(answers)
    return app


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[RunDirectory]]:
    """Three queued runs, whose workers wait for the device as long as the test goes."""
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    turn = DeviceLock("cpu")
    assert turn.try_acquire()
    folder = tmp_path / "runs"
    queued = [RunDirectory(folder / spec.run_id) for spec in enqueue_sweep(REQUEST, folder)]
    yield queued
    note_cancel(folder, [run.run_id for run in queued])
    until(lambda: statuses(folder) == ["cancelled"] * 3)
    turn.release()


@pytest.mark.parametrize(
    ("how", "code"),
    [
        pytest.param(
            signal.SIGINT, 0, marks=pytest.mark.fault("app stopped with Ctrl-C, runs queued")
        ),
        pytest.param(
            signal.SIGTERM,
            0,
            marks=pytest.mark.fault("app stopped with SIGTERM, runs queued"),
        ),
    ],
)
def test_runs_go_on_when_the_app_is_stopped(
    runs: list[RunDirectory], how: signal.Signals, code: int
) -> None:
    app = start_app(runs[0].path.parent)
    until(lambda: runs[0].worker())
    children = [child.pid for child in psutil.Process(app.pid).children(recursive=True)]
    app.send_signal(how)
    assert app.wait(30) == code
    assert runs[0].status() == "running"
    assert runs[0].worker()[0] in children, "started by the app's dispatcher"  # type: ignore[index]
    assert not dispatcher_lock(runs[0].path.parent).try_acquire(), "the dispatcher is at work"


@pytest.mark.fault("app and dispatcher killed with SIGKILL while a run goes")
def test_an_app_that_is_started_again_takes_up_the_queue_and_starts_nothing_twice(
    runs: list[RunDirectory],
) -> None:
    folder = runs[0].path.parent
    app = start_app(folder)
    until(lambda: runs[0].worker())
    worker = runs[0].worker()
    dispatchers = [
        child
        for child in psutil.Process(app.pid).children(recursive=True)
        if "ftlab.jobs.dispatcher" in " ".join(child.cmdline())
    ]
    assert len(dispatchers) == 1
    os.kill(app.pid, signal.SIGKILL)
    app.wait()
    dispatchers[0].kill()
    until(lambda: start_time(dispatchers[0].pid) is None)
    again = start_app(folder)
    try:
        note_cancel(folder, [runs[1].run_id])
        until(lambda: runs[1].status() == "cancelled")  # by a new dispatcher: nobody else does it
        assert statuses(folder) == ["running", "cancelled", "queued"]
        assert runs[0].worker() == worker
        assert [event["event"] for event in runs[0].metrics()].count("start") == 1
    finally:
        again.send_signal(signal.SIGINT)
        again.wait(30)
