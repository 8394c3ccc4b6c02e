"""A disk that is full: seen before a run starts, and survived in the midst of a write."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError
from ftlab.jobs import launch
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.dispatcher import Dispatcher
from ftlab.jobs.launch import enqueue_sweep, space_errors
from ftlab.jobs.launchers.local import LocalLauncher
from ftlab.methods.variant import Variant
from ftlab.records.removal import clear_removed, remove_runs
from ftlab.records.result import LineWriter, RunResult
from ftlab.records.run import (
    Annotations,
    RunDirectory,
    read_annotations,
    read_json_lines,
    write_annotations,
    write_atomically,
    write_json_lines,
)
from ftlab.records.spec import dump_spec
from ftlab.records.store import RunStore
from ftlab.tabs.experiment.fields import launch_line
from tests.fakes import make_run
from tests.faults.conftest import Enqueue, patched_worker
from tests.workers import DONE, REQUEST, statuses, step_until, worker

MEGABYTE = 1_000_000


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Files of this process grow no further than `size` bytes: a write fails half-way."""

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """The last free byte of a small file system is taken."""
    filler = folder / ".filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture(params=["full file system", "write cut short"])
def full_disk(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Path, Callable[[], AbstractContextManager[None]]]]:
    """A folder, and what fills its disk: a tmpfs of 1 MB, or a limit where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "write cut short":
        yield folder, lambda: limited_files(50)
        return
    mount = shutil.which("mount")
    mounted = (
        mount is not None
        and not subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=1m", "none", str(folder)],
            check=False,
            capture_output=True,
        ).returncode
    )
    if not mounted:
        pytest.skip("mounting a tmpfs needs root; the write that is cut short is tested anyway")
    try:
        yield folder, lambda: filled(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _write_spec(run: RunDirectory) -> None:
    write_atomically(run.spec_file, dump_spec(replace(run.spec(), seed=9)))


def _write_result(run: RunDirectory) -> None:
    write_atomically(run.result_file, b"{" + b" " * 100_000 + b"}")


WRITES: dict[str, tuple[str, Callable[[RunDirectory], None]]] = {
    "spec.json": ("spec_file", _write_spec),
    "result.json": ("result_file", _write_result),
    "annotations.json": (
        "annotations_file",
        lambda run: write_annotations(run, Annotations(note="n" * 100)),
    ),
    "samples.jsonl": (
        "samples_file",
        lambda run: write_json_lines(run.samples_file, [{"prompt": "x" * 100}]),
    ),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.fault(f"disk full in {name}")) for name in WRITES],
)
def test_a_full_disk_leaves_the_earlier_file_whole_and_no_litter(
    full_disk: tuple[Path, Callable[[], AbstractContextManager[None]]], name: str
) -> None:
    folder, fill = full_disk
    run = make_run(folder)
    write_annotations(run, Annotations(note="first"))
    attribute, write = WRITES[name]
    path: Path = getattr(run, attribute)
    before, names = path.read_bytes(), sorted(os.listdir(run.path))
    with fill(), pytest.raises((OSError, FtlabError)):
        write(run)
    assert path.read_bytes() == before
    assert sorted(os.listdir(run.path)) == names
    assert read_annotations(run).note == "first"
    write(run)
    assert path.read_bytes() != before


@pytest.mark.fault("disk full in metrics.jsonl")
def test_a_line_torn_by_a_full_disk_is_skipped_and_spoils_no_other(
    full_disk: tuple[Path, Callable[[], AbstractContextManager[None]]],
) -> None:
    folder, fill = full_disk
    path = folder / "metrics.jsonl"
    with LineWriter(path) as lines:
        lines.append({"step": 1})
        with fill(), pytest.raises(OSError, match=r"No space|File too large"):
            lines.append({"step": "torn", "padding": "x" * 9700})
        whole = len(read_json_lines(path))
        lines.append({"step": 2})
    assert read_json_lines(path)[-1] == {"step": 2}
    assert len(read_json_lines(path)) == whole + 1


@pytest.mark.fault("torn last line of metrics.jsonl")
@pytest.mark.parametrize("torn", ['{"step": 2, "lo', "{", '{"a": "\\ud8'])
def test_a_torn_last_line_is_skipped_and_the_next_one_stands_alone(
    tmp_path: Path, torn: str
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + torn)
    assert read_json_lines(path) == [{"step": 1}]
    with LineWriter(path) as lines:
        lines.append({"step": 3})
    assert read_json_lines(path) == [{"step": 1}, {"step": 3}]


ADAPTER_FILLS = """
import errno, os
from peft import PeftModel
whole = PeftModel.save_pretrained
def fills(*given, **named):
    whole(*given, **named)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
PeftModel.save_pretrained = fills
"""


@pytest.mark.slow
@pytest.mark.fault("disk full while the adapter is saved")
def test_a_disk_that_fills_in_the_save_leaves_no_half_an_adapter_and_says_so(
    enqueue: Enqueue, tmp_path: Path
) -> None:
    base, run = enqueue()
    shutil.rmtree(base.path)
    at_work = Dispatcher(tmp_path / "runs", LocalLauncher(patched_worker(ADAPTER_FILLS)))
    step_until(at_work, lambda: run.result() is not None, seconds=90)
    result = run.result()
    assert result is not None
    assert result.status == "failed"
    assert "The disk is full in the save phase" in result.reason
    assert result.measures.steps_done is None
    assert result.measures.eval_loss_after is not None, "what was measured is kept"
    assert not run.adapter.exists()
    assert not any(path.exists() for path in run.left_overs())


_Status = namedtuple("_Status", "f_bavail f_frsize")


@pytest.mark.fault("no room for what a run saves")
def test_a_sweep_that_has_no_room_is_refused_before_anything_is_queued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda path: _Status(20 * MEGABYTE, 1))
    runs = tmp_path / "runs"
    with pytest.raises(FtlabError, match=r"20.0 MB are free in '.*runs'.*may take \d+ MB"):
        enqueue_sweep(REQUEST, runs)
    assert not runs.exists()
    assert "20.0 MB are free" in launch_line(REQUEST, space_errors(REQUEST, runs))


@pytest.mark.slow
@pytest.mark.fault("disk fills while a run waits")
def test_a_worker_looks_again_before_it_trains(enqueue: Enqueue, tmp_path: Path) -> None:
    base, run = enqueue()
    shutil.rmtree(base.path)
    patch = "import ftlab.jobs.launch as disk\ndisk.free_disk_bytes = lambda folder: 1_000_000"
    at_work = Dispatcher(tmp_path / "runs", LocalLauncher(patched_worker(patch)))
    step_until(at_work, lambda: run.result() is not None, seconds=90)
    result = run.result()
    assert result is not None
    assert result.status == "failed"
    assert "1.0 MB are free" in result.reason
    assert not [event for event in run.metrics() if event["event"] == "phase"], "nothing was loaded"


def test_what_a_run_saves_is_known_from_the_shape_of_its_model(enqueue: Enqueue) -> None:
    base, lora = (run.spec() for run in enqueue())
    records = launch.needed_bytes(base)
    assert launch.needed_bytes(lora) == records + 3 * 4 * 16_384
    full = replace(lora, variant=Variant("full"))
    assert launch.needed_bytes(full) > records + 2 * 94_528
    assert launch.needed_bytes(replace(full, dtype_policy="fp32")) > launch.needed_bytes(full)


def test_on_a_gpu_without_bf16_weights_that_learn_are_saved_in_32_bits(
    enqueue: Enqueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are held so there, whatever the policy."""
    cards = [
        Device(f"cuda:{i}", name, 16_000_000_000, capability=capability)
        for i, (name, capability) in enumerate({"T4": (7, 5), "L4": (8, 9)}.items())
    ]
    monkeypatch.setattr(launch, "list_devices", lambda: tuple(cards))
    _, lora = (run.spec() for run in enqueue())
    old, new = (replace(lora, variant=Variant("full"), device=card.id) for card in cards)
    assert launch.needed_bytes(old) - launch.needed_bytes(new) == 2 * 94_528
    assert launch.needed_bytes(old) == launch.needed_bytes(replace(old, dtype_policy="fp32"))


def test_a_folder_that_is_not_there_yet_is_judged_by_the_one_above(tmp_path: Path) -> None:
    assert launch.free_disk_bytes(tmp_path / "not" / "yet") == pytest.approx(
        launch.free_disk_bytes(tmp_path), rel=0.1
    )


@pytest.mark.fault("read-only runs folder")
def test_a_folder_that_cannot_be_written_is_one_sentence_and_its_runs_are_shown(
    full_disk: tuple[Path, Callable[[], AbstractContextManager[None]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, _ = full_disk
    make_run(folder)
    monkeypatch.setattr(launch, "free_disk_bytes", lambda folder: None)
    if not os.path.ismount(folder):
        pytest.skip("root writes into any folder; a read-only file system needs a mount")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    with pytest.raises(FtlabError, match="cannot be written"):
        enqueue_sweep(REQUEST, folder)
    with pytest.raises(FtlabError, match="could not be started"):
        start_dispatcher(folder)
    with pytest.raises(FtlabError, match=r"make .* writable"):
        remove_runs(folder, [RunStore(folder).runs()[0].run_id])
    assert [run.status for run in RunStore(folder).runs()] == ["done"]


@pytest.mark.fault("app killed while it deletes a run")
def test_what_an_interrupted_delete_left_is_swept_up_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, kept = make_run(tmp_path), make_run(tmp_path, "full")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ftlab.records.removal.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_runs(tmp_path, [run.run_id])
    assert [known.run_id for known in RunStore(tmp_path).runs()] == [kept.run_id]
    assert any(path.name.startswith(".removed.") for path in tmp_path.iterdir())
    Dispatcher(tmp_path, LocalLauncher(worker(lambda run: DONE))).work()
    assert [path.name for path in tmp_path.iterdir() if path.name != ".ftlab"] == [kept.run_id]
    clear_removed(tmp_path / "nothing here")
    assert statuses(tmp_path) == ["done"]


def test_a_written_file_is_on_the_disk_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    whole = os.fsync

    def fsync(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        whole(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    run = RunDirectory(tmp_path)
    run.write_result(RunResult("done"))
    assert len(synced) == 2
    assert Path(synced[0]).name.startswith(".result.json.")
    assert synced[1] == str(tmp_path)
