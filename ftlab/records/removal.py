"""Deletes runs permanently, with everything in their folders."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from ftlab.basics.errors import FtlabError
from ftlab.basics.log import note
from ftlab.records.index import clear_index
from ftlab.records.merge import check_not_merging
from ftlab.records.result import OPEN
from ftlab.records.run import (
    RunDirectory,
    check_may_change,
    check_writable,
    find_run,
    run_directories,
)
from ftlab.records.spec import RunSpec

_GONE = ".removed."
"""Name prefix of a folder that is being deleted; run ids never begin with a dot."""


def removable(runs_folder: Path, run_ids: Iterable[str]) -> list[RunDirectory]:
    """The run directories to delete: those of the given runs, and base runs no longer needed.

    The base runs of a sweep are deleted with its last run. Raises `FtlabError` for an unknown run,
    one of somebody else, an open run, one that is being merged, and a base run that other runs
    still need.
    """
    wanted = {run_id: find_run(runs_folder, run_id) for run_id in run_ids}
    for directory in wanted.values():
        check_may_change(directory)
    specs = _specs(runs_folder, {directory.spec().sweep_id for directory in wanted.values()})
    needed = {
        spec.sweep_id for spec in specs.values() if not spec.is_base and spec.run_id not in wanted
    }
    for run_id in wanted:
        spec = specs.get(run_id)
        if spec is not None and spec.is_base and spec.sweep_id in needed:
            raise FtlabError(
                f"'{run_id}' is a base run: it gives the numbers before training to the other "
                "runs of its sweep and goes with the last of them."
            )
    going = dict(wanted)
    for spec in specs.values():
        if spec.is_base and spec.sweep_id not in needed:
            going[spec.run_id] = RunDirectory(runs_folder / spec.run_id)
    for run_id, directory in going.items():
        status = directory.status()
        if status in OPEN:
            raise FtlabError(f"'{run_id}' is still {status}; cancel it first, then delete it.")
        directory.check_not_elsewhere()
        check_not_merging(directory)
    return list(going.values())


def remove_runs(runs_folder: Path, run_ids: Iterable[str]) -> list[str]:
    """Deletes the runs with adapters, logs and samples, and returns the ids of all deleted runs.

    Each folder is renamed first, so that no reader sees a partly deleted run. Raises `FtlabError`
    as `removable` does, before anything is changed, or if a folder cannot be renamed.
    """
    check_writable(runs_folder)
    going = removable(runs_folder, run_ids)
    try:
        for directory in going:
            hidden = runs_folder / f"{_GONE}{directory.run_id}.{secrets.token_hex(4)}"
            os.rename(directory.path, hidden)
    except OSError as error:
        raise FtlabError(
            f"'{directory.run_id}' cannot be deleted ({error.strerror}); "
            f"make {runs_folder} writable."
        ) from None
    finally:
        clear_index(runs_folder)
        clear_removed(runs_folder)
    gone = [directory.run_id for directory in going]
    note("runs deleted", runs=gone)
    return gone


def _specs(runs_folder: Path, sweep_ids: set[str]) -> dict[str, RunSpec]:
    """The readable specs of the sweeps, by run id."""
    specs = {}
    for directory in run_directories(runs_folder):
        try:
            spec = directory.spec()
        except FtlabError:
            continue
        if spec.sweep_id in sweep_ids and spec.run_id == directory.run_id:
            specs[spec.run_id] = spec
    return specs


def clear_removed(runs_folder: Path) -> None:
    """Deletes renamed folders, including those of an app that was killed during deletion."""
    for path in list(runs_folder.glob(f"{_GONE}*")):
        if path.is_symlink():
            path.unlink(missing_ok=True)  # removes the link; its target is not ours to delete
        else:
            shutil.rmtree(path, ignore_errors=True)
