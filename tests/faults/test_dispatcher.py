"""The dispatcher dies, is started several times, and gets workers that do what they should not."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ftlab.basics.locks import DeviceLock, FileLock
from ftlab.jobs import dispatcher
from ftlab.jobs.control import note_cancel
from ftlab.jobs.dispatcher import Dispatcher
from ftlab.jobs.launch import enqueue_sweep
from ftlab.jobs.launchers.local import LocalLauncher
from ftlab.records import job
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore
from tests.waiting import wait_until
from tests.workers import DONE, PRELUDE, REQUEST, SLOW, as_started, statuses, step_until, worker

FLOODS = (
    PRELUDE
    + "print('x' * 99, flush=True)\nwhile True: os.write(1, b'flood\\n' * 1000); time.sleep(0.001)"
)


def queue(folder: Path) -> list[RunDirectory]:
    specs = as_started(enqueue_sweep(REQUEST, folder))
    return [RunDirectory(folder / spec.run_id) for spec in specs]


def start_dispatcher(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "ftlab.jobs.dispatcher", str(folder)])


@pytest.fixture
def busy_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DeviceLock]:
    """Real workers wait for it, and import nothing large meanwhile."""
    monkeypatch.setenv("FTLAB_LOCKS", str(tmp_path / "locks"))
    turn = DeviceLock("cpu")
    assert turn.try_acquire()
    yield turn
    turn.release()


@pytest.mark.slow
@pytest.mark.fault("several dispatchers started at once")
def test_of_several_dispatchers_one_works_and_each_run_is_started_once(
    tmp_path: Path, busy_device: DeviceLock
) -> None:
    folder = tmp_path / "runs"
    runs = queue(folder)
    started = [start_dispatcher(folder) for _ in range(5)]
    wait_until(lambda: sum(process.poll() is None for process in started) == 1)
    wait_until(lambda: runs[0].worker() is not None)
    note_cancel(folder, [run.run_id for run in runs])
    wait_until(lambda: all(process.poll() is not None for process in started))
    assert statuses(folder) == ["cancelled"] * 3
    assert [event["event"] for event in runs[0].metrics()].count("start") == 1
    assert not any(run.metrics_file.exists() for run in runs[1:])


@pytest.mark.fault("worker killed while its dispatcher is dead")
def test_a_worker_that_dies_alone_leaves_an_interrupted_row_and_the_queue_goes_on(
    tmp_path: Path,
) -> None:
    first, *_ = queue(tmp_path)
    step_until(
        Dispatcher(tmp_path, LocalLauncher(worker(lambda run: SLOW))),
        lambda: first.worker() is not None,
    )
    os.kill(first.worker()[0], signal.SIGKILL)  # type: ignore[index]
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: DONE))).work()
    assert statuses(tmp_path) == ["interrupted", "done", "done"]
    assert "without a result" in as_started(RunStore(tmp_path).runs())[0].reason


@pytest.mark.slow
@pytest.mark.fault("worker stopped with SIGSTOP and cancelled")
def test_a_worker_that_is_stopped_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.basics.processes.GRACE_SECONDS", 0.5)
    first, *_ = queue(tmp_path)
    at_work = Dispatcher(
        tmp_path, LocalLauncher(worker(lambda run: SLOW if run == first.run_id else DONE))
    )
    step_until(at_work, lambda: first.worker() is not None)
    pid = first.worker()[0]  # type: ignore[index]
    os.kill(pid, signal.SIGSTOP)
    note_cancel(tmp_path, [first.run_id])
    step_until(at_work, lambda: statuses(tmp_path) == ["cancelled", "done", "done"])
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.fault("worker hangs before its first line")
def test_a_worker_that_says_nothing_is_ended_and_so_is_that_of_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "FIRST_WORD_SECONDS", 0.5)
    first, *_ = queue(tmp_path)
    hangs = "import time; time.sleep(60)"
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: hangs))).work()
    assert statuses(tmp_path) == ["failed"] * 3
    assert "reported nothing" in first.result().reason  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.fault("worker hangs before its first line")
def test_a_worker_that_hangs_with_the_lock_of_its_run_is_not_called_dead_by_another_dispatcher(
    tmp_path: Path,
) -> None:
    """The dispatcher that started it is dead; the next one starts no second worker."""
    first, *_ = queue(tmp_path)
    holds = (
        "import sys, time, pathlib; from ftlab.basics.locks import FileLock;"
        "from ftlab.records.run import RunDirectory as Run;"
        "lock = FileLock(Run(pathlib.Path(sys.argv[1])).lock_file); assert lock.try_acquire();"
        "print('held', flush=True); time.sleep(60)"
    )
    held = worker(lambda run: holds)(first, "cpu")
    try:
        wait_until(lambda: "held" in first.log_tail())
        started: list[str] = []
        again = Dispatcher(tmp_path, LocalLauncher(worker(lambda run: started.append(run) or DONE)))  # type: ignore[func-returns-value]
        for _ in range(8):
            again.step()
        assert first.result() is None
        assert started == []
    finally:
        held.kill()
        held.wait()


@pytest.mark.fault("worker hangs before its first line")
def test_a_worker_that_finds_the_lock_of_its_run_taken_leaves_the_run_to_the_other(
    tmp_path: Path,
) -> None:
    """Somebody starts the run by hand, between the dispatcher's look and its start."""
    first, *_ = queue(tmp_path)
    lock = FileLock(first.lock_file)

    def start(directory: RunDirectory, device: str) -> subprocess.Popen[bytes]:
        assert lock.try_acquire()
        return worker(lambda run: "raise SystemExit(2)")(directory, device)

    dispatcher = Dispatcher(tmp_path, LocalLauncher(start))
    dispatcher.step()

    def has_left() -> bool:
        dispatcher._reap()
        return not dispatcher._children

    wait_until(has_left)
    assert first.result() is None
    lock.release()


@pytest.mark.slow
@pytest.mark.fault("worker floods its log")
def test_a_log_that_grows_without_end_is_cut_while_its_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job.bound_log, "__defaults__", (1_000_000, 10_000))
    first, *_ = queue(tmp_path)

    def content() -> bytes:
        return first.log_file.read_bytes() if first.log_file.exists() else b""

    at_work = Dispatcher(
        tmp_path, LocalLauncher(worker(lambda run: FLOODS if run == first.run_id else DONE))
    )
    step_until(at_work, lambda: b"cut away" in content())
    assert first.status() == "running"
    wait_until(lambda: first.log_file.stat().st_size > 20_000)  # it writes on
    note_cancel(tmp_path, [first.run_id])
    step_until(at_work, lambda: statuses(tmp_path) == ["cancelled", "done", "done"])
    assert first.log_file.stat().st_size < 20_000_000


@pytest.mark.fault("process table full")
def test_a_start_that_is_refused_for_now_is_tried_again_and_nothing_fails(tmp_path: Path) -> None:
    queue(tmp_path)
    start, refused = worker(lambda run: DONE), []

    def sometimes(directory: RunDirectory, device: str) -> subprocess.Popen[bytes]:
        if len(refused) < 3:
            refused.append(directory.run_id)
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return start(directory, device)

    Dispatcher(tmp_path, LocalLauncher(sometimes)).work()
    assert len(set(refused)) == 1, "the queue keeps its order"
    assert statuses(tmp_path) == ["done"] * 3


@pytest.mark.fault("process table full")
def test_a_start_that_is_refused_for_good_is_a_row_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "START_SECONDS", 0.0)
    first, *_ = queue(tmp_path)

    def never(directory: RunDirectory, device: str) -> subprocess.Popen[bytes]:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    Dispatcher(tmp_path, LocalLauncher(never)).work()
    assert statuses(tmp_path) == ["failed"] * 3
    assert "Resource temporarily unavailable" in first.result().reason  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.fault("torn spec.json in the queue")
@pytest.mark.parametrize("content", [b'{"run_id": "x', b"\xff\xfe\x00"])
def test_a_spec_that_cannot_be_read_is_left_out_and_named_and_the_others_run(
    tmp_path: Path, content: bytes
) -> None:
    first, *_ = queue(tmp_path)
    first.spec_file.write_bytes(content)
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: DONE))).work()
    store = RunStore(tmp_path)
    assert [run.status for run in store.runs()] == ["done", "done"]
    assert [broken.run_id for broken in store.unreadable] == [first.run_id]


@pytest.mark.slow
@pytest.mark.fault("run folder deleted while its run goes")
def test_a_folder_that_vanishes_under_its_run_stops_nobody_else(tmp_path: Path) -> None:
    first, *_ = queue(tmp_path)
    until_it_vanishes = PRELUDE + "while run.exists(): time.sleep(0.02)"
    at_work = Dispatcher(
        tmp_path,
        LocalLauncher(worker(lambda run: until_it_vanishes if run == first.run_id else DONE)),
    )
    step_until(at_work, lambda: first.worker() is not None)
    shutil.rmtree(first.path)
    step_until(at_work, lambda: statuses(tmp_path) == ["done", "done"])
    assert not first.path.exists()


@pytest.mark.fault("metrics.jsonl from before a reboot")
def test_a_run_of_an_earlier_boot_is_interrupted_even_if_number_and_start_time_are_the_same(
    tmp_path: Path,
) -> None:
    first, *_ = queue(tmp_path)
    line = {
        "event": "start",
        "pid": os.getpid(),
        "process_started": psutil_start(),
        "boot": "00000000-0000-0000-0000-000000000000",
    }
    first.metrics_file.write_text(json.dumps(line) + "\n")
    os.utime(first.metrics_file, (1, 1))
    assert first.status() == "interrupted"
    first.metrics_file.write_text(json.dumps({**line, "boot": None}) + "\n")
    assert first.status() == "running", "only the boot tells them apart"


def psutil_start() -> float:
    from ftlab.basics.processes import start_time

    started = start_time(os.getpid())
    assert started is not None
    return started


@pytest.mark.fault("stale lock files")
def test_lock_files_that_somebody_left_lock_nothing(tmp_path: Path) -> None:
    queue(tmp_path)
    control = tmp_path / ".ftlab"
    control.mkdir(exist_ok=True)
    (control / "dispatcher.lock").write_text("4711\n")
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: DONE))).work()
    assert statuses(tmp_path) == ["done"] * 3


@pytest.mark.fault("clock set back")
def test_a_clock_that_was_set_back_brings_no_dead_run_to_life(tmp_path: Path) -> None:
    """Its metrics, opened and without a line, are of tomorrow."""
    first, *_ = queue(tmp_path)
    first.metrics_file.touch()
    tomorrow = time.time() + 86_400
    os.utime(first.metrics_file, (tomorrow, tomorrow))
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: DONE))).work()
    assert statuses(tmp_path) == ["interrupted", "done", "done"]


@pytest.mark.fault("sweep ids drawn twice")
def test_two_command_lines_that_draw_the_same_id_leave_each_others_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = iter(["aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("ftlab.jobs.launch.secrets.token_hex", lambda size: next(drawn))
    monkeypatch.setattr("ftlab.jobs.launch.time.strftime", lambda *_: "20261126-120000")
    one, two = (enqueue_sweep(REQUEST, tmp_path) for _ in range(2))
    assert one[0].sweep_id != two[0].sweep_id
    assert {run.run_id for run in RunStore(tmp_path).runs()} == {
        spec.run_id for spec in [*one, *two]
    }


@pytest.mark.slow
@pytest.mark.fault("command lines that queue at once")
def test_command_lines_at_once_queue_whole_sweeps(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib\nfrom tests.workers import REQUEST\n"
        "from ftlab.jobs.launch import enqueue_sweep\nsys.stdin.readline()\n"
        "enqueue_sweep(REQUEST, pathlib.Path(sys.argv[1]))"
    )
    several = [
        subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE)
        for _ in range(3)
    ]
    for process in several:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [process.wait(60) for process in several] == [0] * 3
    runs = RunStore(tmp_path).runs()
    assert len(runs) == 9
    assert len({run.spec.sweep_id for run in runs}) == 3


@pytest.mark.fault("runs folder made read-only")
def test_a_request_that_cannot_be_taken_away_stops_no_dispatcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = queue(tmp_path)
    note_cancel(tmp_path, [first.run_id])
    whole = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path.parent.name == "cancel":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        whole(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: DONE))).work()
    assert statuses(tmp_path) == ["cancelled", "done", "done"]
