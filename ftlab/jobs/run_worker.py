"""The worker: executes one run in its own process.

Run as: python -m ftlab.jobs.run_worker RUN_DIR

All results are written to the run's directory. The exit status is 0 if the run is done, 1 if not
(the reason is in result.json), and 2 if the directory cannot be run at all.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.leases import LEFT, Lease, LeaseLost, kept
from ftlab.basics.locks import DeviceLock, FileLock
from ftlab.basics.processes import boot_id, start_time
from ftlab.jobs.launch import check_space
from ftlab.jobs.ranks import SECONDS_TO_SAY, Failure, OtherRanks, other_ranks
from ftlab.models.libraries import lasting_imports, prepare_for_libraries
from ftlab.models.reference import names_hub_model
from ftlab.records import base_runs, kept_bases
from ftlab.records.expected import with_expected
from ftlab.records.result import LineWriter, RunResult
from ftlab.records.resume import Earlier, begin_again, read_earlier
from ftlab.records.run import RunDirectory
from ftlab.records.spec import RunSpec, needs_hub
from ftlab.settings.training import trackio_folder


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m ftlab.jobs.run_worker RUN_DIR", file=sys.stderr)
        return 2
    directory = RunDirectory(Path(arguments[0]).resolve())
    try:
        spec = directory.spec()
        lock = FileLock(directory.lock_file)
        if not lock.try_acquire():
            raise FtlabError(f"The run {spec.run_id} is being executed by another process.")
        if not directory.is_waiting:
            raise FtlabError(
                f"The run {spec.run_id} was started before; a run is never done twice."
            )
        lease = Lease(directory.path)
        if not lease.acquire():
            raise FtlabError(f"The run {spec.run_id} is being executed by another machine.")
        if not directory.is_waiting:  # another machine did it while this one waited
            lease.release()
            raise FtlabError(f"The run {spec.run_id} was done by another machine.")
    except FtlabError as error:
        print(f"ftlab: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"ftlab: '{directory.path}' cannot be written ({error}).", file=sys.stderr)
        return 2
    look, leave = partial(_leave_if_over, lease, directory), partial(_leave, lease)
    with kept(lease, look, leave) as is_ending:
        status = _work(spec, directory, lease, is_ending)
    lease.release()
    return status


def _work(spec: RunSpec, directory: RunDirectory, lease: Lease, is_ending: Event) -> int:
    """From the log's first line to the result; returns the exit status."""
    try:
        earlier = read_earlier(directory)
    except FtlabError as error:
        print(f"ftlab: {error}", file=sys.stderr)
        return 2
    _log_to(directory.log_file)
    _set_environment(spec, directory.path.parent)
    start = {
        "event": "start",
        "pid": os.getpid(),
        "process_started": start_time(os.getpid()),
        "boot": boot_id(),
        "node": platform.node(),
        "device": spec.device,
    }
    if earlier is not None:
        begin_again(directory, earlier, start)
    with LineWriter(directory.metrics_file) as metrics:
        report = _reporter(metrics, earlier.elapsed if earlier else 0.0, lease)
        if earlier is None:
            report(start)
        result = _download(spec, report, earlier)
        kept_file = _kept_file(spec, directory) if result is None and spec.is_base else None
        if kept_file is not None:  # needs neither torch nor the device
            result = kept_bases.take(kept_file, directory)
        give_up = partial(_give_up, lease, directory)
        result = result or _wait_for_device(spec, directory, report, earlier, give_up)
    _leave_if_over(lease, directory)
    is_ending.set()  # from here on a result may be there: its own
    result = with_expected(result, directory)
    if spec.is_base:
        _pass_on(directory, result, kept_file)
    try:
        directory.write_result(result)
    except OSError as error:
        print(f"The result could not be written: {error}", flush=True)
        return 1
    try:
        base_runs.settle(directory)
    except Exception:  # this run is done
        traceback.print_exc()
    if result.status == "done":
        shutil.rmtree(directory.checkpoints, ignore_errors=True)
    return 0 if result.status == "done" else 1


def _download(spec: RunSpec, report: Any, earlier: Earlier | None) -> RunResult | None:
    """Downloads a Hub model that is not local yet; returns the run's result if that fails.

    It runs before the device lock, so other runs can use the device, and before the import of
    torch. The run's measurements therefore include neither its time nor its memory.
    """
    from ftlab.models.resolve import resolve_model

    begun = False

    def progress(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            begun = True
            report({"event": "phase", "phase": "download"})
        report({"event": "download", "done": done, "total": total})

    if not names_hub_model(spec.model):
        return None
    try:
        resolve_model(spec.model, say=print, progress=progress)
    except Exception as error:
        traceback.print_exc()
        resumed = earlier.resumed if earlier else ()
        return RunResult("failed", one_line(error), resumed=resumed, finished_at=time.time())
    if begun:
        report({"event": "phase", "phase": "start"})
    return None


def _kept_file(spec: RunSpec, directory: RunDirectory) -> Path | None:
    """Where such a base run's numbers are kept; `None` if they cannot be: then it is measured."""
    try:
        return kept_bases.kept_file(spec, directory.path.parent)
    except Exception:  # whatever it is, the base can be measured; the log has the reason
        traceback.print_exc()
        return None


def _pass_on(directory: RunDirectory, result: RunResult, kept: Path | None) -> None:
    """Gives a base run's numbers to the runs that ended before it, and keeps new ones."""
    try:
        base_runs.complete(directory, result)
        if kept and result.status == "done" and kept_bases.MEASURED_IN not in result.environment:
            kept_bases.keep(kept, directory, result)
    except Exception:  # the base run itself is done
        traceback.print_exc()


def _wait_for_device(
    spec: RunSpec,
    directory: RunDirectory,
    report: Any,
    earlier: Earlier | None,
    give_up: Callable[[RunResult], None],
) -> RunResult:
    """Executes the run when its device is free, or all of several."""
    locks = [DeviceLock(device) for device in sorted(spec.held)]  # one order: none waits in a ring
    waits = False
    for lock in locks:
        if not lock.try_acquire():
            if not waits:
                report({"event": "phase", "phase": "wait"})
                waits = True
            lock.acquire()
    began = time.perf_counter()  # imports and loading count; waiting for others does not
    record_of: list[Any] = []

    def end(failure: Failure) -> None:
        result = RunResult(failure.status, failure.reason, finished_at=time.time())
        give_up(record_of[0].result(failure.status, failure.reason) if record_of else result)

    with other_ranks(spec, directory, earlier is not None, end) as others:
        result = _run(spec, directory, report, began, earlier, others, record_of.append)
    for lock in locks:
        lock.release()
    return result


def _run(
    spec: RunSpec,
    directory: RunDirectory,
    report: Any,
    began: float,
    earlier: Earlier | None,
    others: OtherRanks | None,
    begins: Callable[[Any], None],
) -> RunResult:
    """Executes the run; every error becomes a result, with its traceback in the log.

    `begins` is called with the record, before it is filled.
    """
    import_libraries()
    from ftlab.prediction.of_run import with_prediction, with_remedies
    from ftlab.training import memory
    from ftlab.training.failures import explain, is_cut_off
    from ftlab.training.model import torch_device
    from ftlab.training.ranks import join, leave
    from ftlab.training.run import RunRecord, execute

    record = RunRecord(began=began, earlier=earlier)
    begins(record)
    if earlier is not None:
        record.began -= earlier.checkpoint.run_seconds
    phase = ""
    try:
        check_space([spec], directory.path)
        if spec.memory_limit is not None:
            record.note(memory.hold_to(spec.memory_limit, torch_device(spec.device)))
        if others is not None:
            device = torch_device(spec.device)
            record.ranks = join(0, others.count, others.file, device)
        execute(spec, directory, record, report)
        result = record.completed()
        leave()
    except BaseException as error:
        memory.let_go()
        traceback.print_exc()
        phase = record.meter.current if record.meter else ""
        at_limit = memory.is_met(spec.memory_limit, error, spec.device)
        status, reason = explain(error, phase, at_limit)
        if others is not None:
            failure = others.failure(SECONDS_TO_SAY) if is_cut_off(error) else None
            if failure is not None:
                status, reason = failure.status, failure.reason
            others.kill()
        result = record.result(status, reason)
    memory.let_go()
    if result.status == "cancelled":  # paused: predicted where the run ends
        return result
    if result.status == "out_of_memory" and phase:  # otherwise the reason already has advice
        result = with_remedies(result, spec, phase, record.longest)
    return with_prediction(result, spec, record.longest, record.scoring)


def import_libraries() -> None:
    """Imports what every run needs, and builds transformers' table of the names of weights, which
    loading a model would build. The parent of a forked worker has done it."""
    with lasting_imports():
        import ftlab.prediction.of_run
        import ftlab.training.failures
        import ftlab.training.run  # noqa: F401

        with suppress(Exception):  # it saves time, no more
            from transformers.conversion_mapping import get_checkpoint_conversion_mapping

            get_checkpoint_conversion_mapping("")


def _give_up(lease: Lease, directory: RunDirectory, result: RunResult) -> None:
    """Writes the result and ends this process, whose main thread waits for a rank that died."""
    directory.clear()
    directory.write_result(result)
    lease.release()
    os._exit(1)


def _leave(lease: Lease, why: LeaseLost | str) -> None:
    """Ends this process. Nothing more is written, so not by an exception either, which would become
    the run's result."""
    print(f"ftlab: {why}", flush=True)
    lease.release()
    os._exit(LEFT)


def _check(lease: Lease) -> None:
    """Ends this process if another machine has taken over the run."""
    try:
        lease.check()
    except LeaseLost as lost:
        _leave(lease, lost)


def _leave_if_over(lease: Lease, directory: RunDirectory) -> None:
    """As `_check`; also if another machine has ended the run."""
    _check(lease)
    if directory.result_file.exists():
        _leave(lease, "The run was ended from another machine.")


def _reporter(file: LineWriter, elapsed: float, lease: Lease) -> Any:
    began = time.monotonic() - elapsed  # monotonic: changes of the system clock have no effect

    def report(event: dict[str, Any]) -> None:
        _check(lease)
        elapsed = time.monotonic() - began
        file.append(event | {"at": round(time.time(), 3), "elapsed": round(elapsed, 3)})

    return report


def _log_to(file: Path) -> None:
    """Redirects stdout and stderr of this process and its children to the file."""
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


def _set_environment(spec: RunSpec, runs_folder: Path) -> None:
    """Sets variables that libraries read on import; must be called before these imports."""
    prepare_for_libraries(spec.device)
    if "trackio" in spec.settings.report_to:
        os.environ.setdefault("TRACKIO_DIR", str(trackio_folder(runs_folder)))
    if not needs_hub(spec):
        os.environ["HF_HUB_OFFLINE"] = "1"  # else saving an adapter queries the Hub


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
