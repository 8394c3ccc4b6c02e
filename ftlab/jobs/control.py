"""Requests from the web page and the command line to the dispatcher: start, and cancel a run.

Requests are files under `.ftlab/` in the runs folder, so they outlive the process that made them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from ftlab.basics.devices import CPU, list_devices
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import MAX_RECORD_BYTES, read_plain, write_atomically
from ftlab.basics.leases import Holder, watch
from ftlab.basics.locks import FileLock
from ftlab.basics.log import note
from ftlab.basics.processes import python_environment, start_detached
from ftlab.jobs import ready
from ftlab.jobs.launchers.launcher import launcher_environment, where_runs_go
from ftlab.records.run import (
    RUN_ID,
    RunDirectory,
    check_may_change,
    check_writable,
    find_run,
    run_directories,
)
from ftlab.records.spec import RunSpec, needs_hub


def control_folder(runs_folder: Path) -> Path:
    return runs_folder / ".ftlab"


def start_dispatcher(runs_folder: Path) -> None:
    """Starts a detached dispatcher; a second one exits at once. May raise `FtlabError`."""
    check_writable(runs_folder)
    folder = control_folder(runs_folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        log = (folder / "dispatcher.log").resolve()
        log.open("ab").close()  # a forked dispatcher could not say here that this is impossible
        # It passes the Hub's token on to runs that need it.
        environment = python_environment(needs_hub=True) | launcher_environment()
        root = runs_folder.resolve()
        if not _has_a_run_to_fork(root) or not ready.fork_dispatcher(root, log, environment):
            start_detached("ftlab.jobs.dispatcher", log, environment, str(root))
    except OSError as error:
        raise FtlabError(
            f"The dispatcher could not be started in '{runs_folder}' ({error.strerror})."
        ) from None


def _has_a_run_to_fork(runs_folder: Path) -> bool:
    """Whether a waiting run is forked as well. If not, a forked dispatcher would only keep the
    memory of the imports of its parent."""
    if where_runs_go():
        return False
    with suppress(FtlabError):  # a damaged run; the dispatcher says so
        waiting = [run.spec() for run in run_directories(runs_folder) if run.is_waiting]
        return any(spec.device == CPU and not needs_hub(spec) for spec in waiting)
    return False


def ensure_dispatcher(runs_folder: Path) -> None:
    """Starts a dispatcher if a run is waiting and none is running. May raise `FtlabError`."""
    if not any(_is_waiting_here(run) for run in run_directories(runs_folder)):
        return
    try:
        is_running = dispatcher_lock(runs_folder).is_held_elsewhere()
        # One that is not known to be alive may be of this machine before a power failure: a
        # dispatcher that is started finds out.
        is_running = is_running or watch().has_counted(control_folder(runs_folder))
    except OSError as error:
        raise FtlabError(f"The runs folder '{runs_folder}' cannot be used ({error}).") from None
    if not is_running:
        start_dispatcher(runs_folder)


def _is_waiting_here(directory: RunDirectory) -> bool:
    if not directory.is_waiting or directory.queued_for != where_runs_go():
        return False
    if where_runs_go() or not directory.is_of_another_node:
        return True
    with suppress(FtlabError):  # a damaged run; the dispatcher says so
        there = {device.id for device in list_devices()}
        return not is_for_another(directory, directory.spec(), there)
    return True


def is_for_another(directory: RunDirectory, spec: RunSpec, there: Collection[str]) -> bool:
    """Whether a queued run waits for the machine that queued it, as `there` are this one's devices
    and none of them may do it."""
    may_do = spec.device in there or any(one in there or one == CPU for one in spec.may_use)
    return not may_do and directory.is_of_another_node


def dispatcher_elsewhere(runs_folder: Path) -> Holder | None:
    """The dispatcher of another machine that shares the folder."""
    return watch().lives_elsewhere(control_folder(runs_folder))


def dispatcher_lock(runs_folder: Path) -> FileLock:
    """Returns the lock that the folder's only dispatcher on this machine holds."""
    return FileLock(dispatcher_lock_file(runs_folder))


def dispatcher_lock_file(runs_folder: Path) -> Path:
    return control_folder(runs_folder) / "dispatcher.lock"


def request_cancel(runs_folder: Path, run_ids: Iterable[str]) -> None:
    """Has the dispatcher cancel the runs within seconds. Raises `FtlabError` for an unknown run."""
    asked = note_cancel(runs_folder, run_ids)
    note("cancel requested", runs=asked)
    start_dispatcher(runs_folder)


def note_cancel(runs_folder: Path, run_ids: Iterable[str]) -> list[str]:
    """Writes the cancel requests without starting a dispatcher; returns the run ids.

    Raises `FtlabError`, and writes none, if one is of an unknown run or of somebody else's.
    """
    check_writable(runs_folder)
    folder = control_folder(runs_folder) / "cancel"
    runs = [find_run(runs_folder, run_id) for run_id in run_ids]
    for directory in runs:
        check_may_change(directory)
    names = [directory.run_id for directory in runs]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).touch()
    except OSError as error:
        raise FtlabError(
            f"The request to cancel cannot be written to '{folder}' ({error.strerror})."
        ) from None
    return names


def requested_cancels(runs_folder: Path) -> set[str]:
    folder = control_folder(runs_folder) / "cancel"
    try:
        return {name for name in os.listdir(folder) if RUN_ID.fullmatch(name)}
    except FileNotFoundError:
        return set()


def settle_cancel(runs_folder: Path, run_id: str) -> None:
    """Deletes a settled cancel request; one that cannot be deleted is read again, harmlessly."""
    with suppress(OSError):
        (control_folder(runs_folder) / "cancel" / run_id).unlink(missing_ok=True)


def note_trouble(runs_folder: Path, sentences: str) -> None:
    """Leaves what is wrong where runs are executed, for the page; "" if nothing is."""
    with suppress(OSError):
        if sentences:
            write_atomically(_trouble_file(runs_folder), sentences.encode())
        else:
            _trouble_file(runs_folder).unlink(missing_ok=True)


def trouble_of(runs_folder: Path) -> str:
    """What `note_trouble` left."""
    try:
        return read_plain(_trouble_file(runs_folder), MAX_RECORD_BYTES).decode()
    except (OSError, ValueError):
        return ""


def _trouble_file(runs_folder: Path) -> Path:
    return control_folder(runs_folder) / "trouble"
