"""A parent that has imported everything forks the workers of runs; without it they start anyway."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import Started
from ftlab.jobs import control, ready, ready_parent
from ftlab.jobs.control import note_cancel, start_dispatcher
from ftlab.jobs.dispatcher import Dispatcher
from ftlab.jobs.launch import enqueue_sweep, plan_sweep
from ftlab.jobs.launchers.local import start_worker
from ftlab.jobs.ready import ForkedWorker, StillImporting
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore
from tests.training.one_run import request
from tests.waiting import wait_until

CPU = "cpu"


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of this test's own, in which it may start a parent, which is ended."""
    folder = tmp_path / "locks"
    folder.mkdir()
    monkeypatch.setenv("FTLAB_LOCKS", str(folder))
    monkeypatch.setenv(ready.IDLE_VARIABLE, "60")
    yield folder
    end_parents(folder)


@pytest.fixture(scope="module")
def parent_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for a parent that several tests use: whichever comes first, starts it."""
    folder = tmp_path_factory.mktemp("parent")
    yield folder
    end_parents(folder)


@pytest.fixture
def shared_parent(parent_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FTLAB_LOCKS", str(parent_folder))
    monkeypatch.setenv(ready.IDLE_VARIABLE, "120")
    return parent_folder


def end_parents(folder: Path) -> None:
    for parent in parents(folder):
        parent.kill()
        parent.wait(10)


def parents(folder: Path) -> list[psutil.Process]:
    """The parents of that folder that fit runs as this process would start them, without the runs
    they forked."""
    name = ready.identity()
    found = []
    for one in psutil.process_iter(["cmdline"]):
        with suppress(psutil.NoSuchProcess):
            if name not in (one.info["cmdline"] or []):
                continue
            starter = one.parent()
            is_forked = starter is not None and "ready_parent" in " ".join(starter.cmdline())
            if not is_forked and one.environ().get("FTLAB_LOCKS") == str(folder):
                found.append(one)
    return found


def run_in(folder: Path, asked: Any) -> RunDirectory:
    spec = plan_sweep(asked)[-1]
    directory = RunDirectory(folder / spec.run_id)
    directory.write_spec(spec)
    return directory


def started(directory: RunDirectory) -> Started:
    """As the dispatcher starts it, which tries again while a parent imports."""
    while True:
        try:
            return start_worker(directory, CPU)
        except StillImporting:
            time.sleep(0.2)


def ended(worker: Started) -> int:
    wait_until(lambda: worker.poll() is not None)
    status = worker.poll()
    assert status is not None
    return status


def facts(directory: RunDirectory) -> tuple[Any, ...]:
    """What a forked run must have in common with a fresh one, to the last bit."""
    result = directory.result()
    assert result is not None
    assert result.status == "done", result.reason
    losses = [event["loss"] for event in directory.metrics() if event.get("event") == "step"]
    measures = result.measures
    environment = {key: value for key, value in result.environment.items() if "load" not in key}
    return losses, measures.eval_loss_after, measures.trainable_params, environment


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("variant", ["full", "qlora"])
def test_a_forked_run_is_that_of_a_fresh_process(
    tiny_model: Path,
    task_file: Path,
    tmp_path: Path,
    shared_parent: Path,
    variant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Losses and environment bit for bit; its memory starts at the same size within 1 %."""
    asked = request(tiny_model, task_file, variant)
    forked = run_in(tmp_path / "forked", asked)
    worker = started(forked)
    assert isinstance(worker, ForkedWorker), (shared_parent / "ready.log").read_text()
    assert ended(worker) == 0

    monkeypatch.setenv(ready.IDLE_VARIABLE, "0")
    fresh = run_in(tmp_path / "fresh", asked)
    worker = started(fresh)
    assert isinstance(worker, subprocess.Popen)
    assert worker.wait() == 0

    assert facts(forked) == facts(fresh)
    before, peak = (
        [getattr(run.result().measures, name) for run in (forked, fresh)]  # type: ignore[union-attr]
        for name in ("before_model_bytes", "peak_memory_bytes")
    )
    for found, expected in (before, peak):
        assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.slow
@pytest.mark.model
def test_whoever_is_killed_takes_nothing_with_it(
    tiny_model: Path, task_file: Path, tmp_path: Path, shared_parent: Path
) -> None:
    """Neither a killed run the parent, nor a killed parent a run, nor its end the next run."""
    asked = request(tiny_model, task_file, "lora", steps=400, eval_answers=False)
    first = run_in(tmp_path, asked)
    worker = started(first)
    wait_until(first.worker)
    os.kill(worker.pid, signal.SIGKILL)
    assert ended(worker) == -signal.SIGKILL
    assert first.result() is None

    asked = request(tiny_model, task_file, "lora", eval_answers=False)
    second = run_in(tmp_path, asked)
    worker = started(second)
    assert isinstance(worker, ForkedWorker), "the parent is gone"
    [parent] = parents(shared_parent)
    parent.kill()
    parent.wait(10)
    assert ended(worker) == ForkedWorker.LOST, "nobody is left who knows its status"
    assert facts(second)

    third = run_in(tmp_path, asked)
    assert ended(started(third)) == 0
    assert facts(third)[:2] == facts(second)[:2]


@pytest.mark.slow
def test_the_dispatcher_cancels_a_forked_run(
    tiny_model: Path, task_file: Path, tmp_path: Path, shared_parent: Path
) -> None:
    folder = tmp_path / "runs"
    [spec, *_] = [
        spec
        for spec in enqueue_sweep(
            request(tiny_model, task_file, "lora", steps=400, eval_answers=False), folder
        )
        if not spec.is_base
    ]
    dispatcher = Dispatcher(folder)
    directory = RunDirectory(folder / spec.run_id)

    def is_running() -> bool:
        dispatcher.step()
        return directory.worker() is not None

    wait_until(is_running)
    pid = directory.worker()[0]  # type: ignore[index]
    assert psutil.Process(pid).parent() in parents(shared_parent)
    note_cancel(folder, [run.run_id for run in RunStore(folder).runs()])
    while dispatcher.step():
        time.sleep(0.1)
    assert {run.status for run in RunStore(folder).runs()} == {"cancelled"}
    assert not psutil.pid_exists(pid)
    assert parents(shared_parent), "the parent waits for the next run"


@pytest.mark.slow
def test_the_parent_forks_the_dispatcher_too_which_has_it_fork_the_runs(
    tiny_model: Path, task_file: Path, tmp_path: Path, shared_parent: Path
) -> None:

    def is_ready() -> bool:
        ready.Waker().wake(CPU)
        there = bool(parents(shared_parent))
        return there and not ready.lock_file(ready.identity()).stat().st_size

    wait_until(is_ready)
    folder = tmp_path / "runs"
    specs = enqueue_sweep(request(tiny_model, task_file, "lora", eval_answers=False), folder)
    start_dispatcher(folder)
    [parent] = parents(shared_parent)
    forked = set()

    def both_are_forked() -> bool:
        forked.update(child.pid for child in parent.children())
        return len(forked) >= 2

    wait_until(both_are_forked)
    wait_until(lambda: not any(run.is_open for run in RunStore(folder).runs()))
    assert [run.status for run in RunStore(folder).runs()] == ["done"] * len(specs)
    wait_until(lambda: not parent.children())


@pytest.mark.usefixtures("locks")
@pytest.mark.parametrize("variable", ["HF_TOKEN", ready.IDLE_VARIABLE])
def test_a_dispatcher_starts_by_itself_where_it_has_a_secret_or_there_is_no_parent(
    variable: str,
    tiny_model: Path,
    task_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(control, "start_detached", lambda *given: asked.append(given[0]))
    monkeypatch.setattr(ready, "_connect", lambda name: pytest.fail("the parent is asked"))
    monkeypatch.setenv(variable, "0")
    enqueue_sweep(request(tiny_model, task_file, "lora"), tmp_path / "runs")
    start_dispatcher(tmp_path / "runs")
    assert asked == ["ftlab.jobs.dispatcher"]


@pytest.mark.usefixtures("locks")
def test_a_dispatcher_starts_by_itself_where_no_run_would_be_forked(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep the memory of its parent's imports, for hours of training on a GPU."""
    asked: list[str] = []
    monkeypatch.setattr(control, "start_detached", lambda *given: asked.append(given[0]))
    monkeypatch.setattr(ready, "fork_dispatcher", lambda *given: pytest.fail("the parent is asked"))
    start_dispatcher(tmp_path / "empty")
    spec = plan_sweep(request(tiny_model, task_file, "lora"))[-1]
    on_a_card = RunDirectory(tmp_path / "runs" / spec.run_id)
    on_a_card.write_spec(replace(spec, device="cuda:0"))
    start_dispatcher(tmp_path / "runs")
    assert asked == ["ftlab.jobs.dispatcher"] * 2


def test_a_log_that_cannot_be_written_is_said_where_the_dispatcher_would_be_forked(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "fork_dispatcher", lambda *given: True)
    enqueue_sweep(request(tiny_model, task_file, "lora"), tmp_path)
    (tmp_path / ".ftlab" / "dispatcher.log").mkdir(parents=True)
    with pytest.raises(FtlabError, match=r"could not be started .*\(Is a directory\)"):
        start_dispatcher(tmp_path)


@pytest.mark.slow
def test_the_table_of_weight_names_is_built_with_the_imports() -> None:
    """A name of transformers that is not public; without it each run takes longer to load."""
    code = """
from ftlab.jobs import run_worker
run_worker.import_libraries()
from transformers import conversion_mapping
print(len(conversion_mapping._checkpoint_conversion_mapping_cache) > 10)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert found.stdout.split() == [b"True"], found.stderr


@pytest.mark.slow
def test_a_forked_dispatcher_has_the_cores_of_its_parent_before_its_imports(tmp_path: Path) -> None:
    """`OMP_PROC_BIND` binds a process that imports torch to one core, which its runs would have."""
    code = """
import os, sys
from ftlab.jobs import ready_parent
cores = os.sched_getaffinity(0)
os.sched_setaffinity(0, {min(cores)})
ready_parent.dispatcher.main = lambda folders: print(folders, os.sched_getaffinity(0) == cores)
asked = ready_parent.Asked("queue", sys.argv[1], sys.argv[2], {})
ready_parent.work(asked, [], cores)
"""
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", code, "runs", str(log)], check=True, timeout=60)
    assert log.read_text().strip() == "['runs'] True"


@pytest.mark.slow
def test_a_parent_that_nobody_asks_ends_and_leaves_nothing(
    locks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ready.IDLE_VARIABLE, "1")
    ready.Waker().wake(CPU)
    wait_until(lambda: len(list(locks.glob("ready-*.socket"))) == 1)
    wait_until(lambda: not parents(locks))
    assert [file.name for file in locks.glob("ready*")] == ["ready.log"]
    said = (locks / "ready.log").read_text(encoding="utf-8")
    assert not said or said.startswith("nanobind: leaked")  # triton's notice, with torch 2.15
    assert "Traceback" not in said


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "threads": lambda patch: patch.setenv("OMP_NUM_THREADS", "7"),
    "the allocator": lambda patch: patch.setenv("MALLOC_TOP_PAD_", "1"),
    "packages": lambda patch: patch.setattr(ready, "installed_versions", lambda names: {}),
    "code": lambda patch: patch.setattr(ready, "_size_and_time", lambda file: (1, 2)),
    "cores": lambda patch: patch.setattr(os, "sched_getaffinity", lambda pid: {41}),
    "limits, rights and control group": lambda patch: patch.setattr(
        ready, "read_proc", lambda name: "Umask"
    ),
    "namespaces": lambda patch: patch.setattr(os, "readlink", lambda path: "pid:[1]"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_parent_of_another_identity_is_not_found(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = ready.identity()
    assert ready.identity() == before
    CHANGES[change](monkeypatch)
    assert ready.identity() != before


def test_a_parent_is_the_same_for_every_terminal_and_every_process_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dispatcher's environment is that of the app with this package's folder named once more.
    Importing setuptools adds a folder to the paths of the process that does it."""
    before = ready.identity()
    monkeypatch.syspath_prepend(tmp_path / "site-packages" / "setuptools" / "_vendor")
    for name, value in ready.worker_environment(needs_hub=True).items():
        monkeypatch.setenv(name, value)
    for name in ("SHLVL", "TMUX_PANE", "SSH_CLIENT", "FORWARDED_ALLOW_IPS", "GRADIO_SERVER_NAME"):
        monkeypatch.setenv(name, "9")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert ready.identity() == before


def test_a_parent_that_died_while_it_imported_is_not_waited_for(
    locks: Path, task_file: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(ready, "start_detached", lambda *given: asked.append(given[0]))
    directory = run_in(locks, request(tiny_model, task_file, "lora"))
    with pytest.raises(StillImporting):
        ready.fork_worker(directory, CPU)
    monkeypatch.setattr(ready, "_SECONDS_TO_LOCK", 0)
    assert ready.fork_worker(directory, CPU) is None
    assert asked == ["ftlab.jobs.ready_parent"], "it is not started again soon"


@pytest.mark.usefixtures("locks")
def test_no_parent_is_started_beside_a_run_nor_by_a_demo(
    task_file: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "start_detached", lambda *given: pytest.fail("started"))
    directory = run_in(tmp_path, request(tiny_model, task_file, "lora"))
    turn = ready.DeviceLock(CPU)
    assert turn.try_acquire()
    try:
        ready.Waker().wake(CPU)
        assert ready.fork_worker(directory, CPU) is None
    finally:
        turn.release()
    ready.Waker(is_off=True).wake(CPU)
    ready.Waker().wake("cuda:0")
    assert ready.fork_worker(directory, "cuda:0") is None


def _has_plugin(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ready.importlib.metadata, "entry_points", lambda group: ["own.methods"])


def _is_editable(patch: pytest.MonkeyPatch) -> None:
    class Editable:
        def read_text(self, name: str) -> str:
            return '{"url": "file:///home/me/peft", "dir_info": {"editable": true}}'

    patch.setattr(ready.importlib.metadata, "distribution", lambda name: Editable())


@pytest.mark.parametrize(
    "change",
    [
        _has_plugin,
        _is_editable,
        lambda patch: patch.setattr(ready, "_POPULATE_READ", 999),
        lambda patch: patch.setattr(ready, "PROC", Path("/nowhere")),
        lambda patch: patch.setenv(ready.IDLE_VARIABLE, "0"),
    ],
    ids=["methods of one's own", "an editable package", "an old kernel", "no /proc", "by choice"],
)
def test_there_is_no_parent_where_it_could_not_be_right(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ready.IDLE_VARIABLE, "60")
    assert ready.idle_seconds() == 60
    change(monkeypatch)
    assert ready.idle_seconds() == 0
    assert not ready.start_parent()


def test_a_run_starts_by_itself_where_no_parent_can_be_started(
    locks: Path, task_file: Path, tiny_model: Path
) -> None:
    (locks / "ready.log").mkdir()
    assert ready.fork_worker(run_in(locks, request(tiny_model, task_file, "lora")), CPU) is None


def test_a_worker_whose_parent_hangs_is_lost_when_it_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ready, "_SECONDS_TO_FORK", 0.2)
    ours, theirs = socket.socketpair()
    with theirs, subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as own:
        worker = ForkedWorker(own.pid, ours)
        assert worker.poll() is None
        own.kill()
        wait_until(lambda: worker.poll() is not None, 10)
    assert worker.poll() == ForkedWorker.LOST


@pytest.mark.slow
def test_a_worker_that_cannot_start_at_the_same_size_becomes_a_fresh_process(
    tmp_path: Path,
) -> None:
    code = """
import sys
from ftlab.jobs import ready_parent
ready_parent.ready.map_again = lambda ranges: sys.argv[3] == "can"
ready_parent.module_command = lambda *words: [sys.executable, "-c", "import os; print(os.getpid())"]
ready_parent.run_worker.main = lambda arguments: print("in the fork", flush=True)
ready_parent.work(ready_parent.Asked("run", sys.argv[1], sys.argv[2], {"PATH": ""}), [], {0})
"""
    for word in ("can", "cannot"):
        log = tmp_path / f"{word}.log"
        command = [sys.executable, "-c", code, str(tmp_path), str(log), word]
        with subprocess.Popen(command) as process:
            assert process.wait(60) == 0
        assert log.read_text().strip() == ("in the fork" if word == "can" else str(process.pid))


def test_another_user_and_nonsense_are_answered_with_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for line in (b"\n", b"[]\n", b'{"run": 1}\n', b"\xff\n", b"x" * 100):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(line)
            theirs.shutdown(socket.SHUT_WR)
            assert ready_parent.fork_for(ours) == (0, None)
            assert ours.fileno() == -1, "it is closed, so that nobody waits"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b'{"work": "run", "folder": "a", "log": "b", "environment": {}}\n')
        asked = ready_parent.read_asked(ours)
        assert asked == ready_parent.Asked("run", "a", "b", {})
        monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
        with pytest.raises(PermissionError):
            ready_parent.read_asked(ours)


def test_pages_of_mapped_files_are_mapped_again() -> None:
    ranges = ready_parent.resident_files()
    assert sum(length for _, length in ranges) > 1 << 20, "the interpreter alone is larger"
    assert ready.map_again(ranges)
    assert not ready.map_again([(0, 4096)]), "nothing is mapped there"
