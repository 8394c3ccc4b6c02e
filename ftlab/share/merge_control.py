"""Starts a merge for the page and the command line, if the run can be merged. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import holding
from ftlab.basics.processes import start_detached, worker_environment
from ftlab.methods.peft_rules import UNMERGEABLE
from ftlab.records.merge import MergeDirectory, check_not_merging
from ftlab.records.run import check_may_change, check_writable
from ftlab.records.store import Run
from ftlab.share.weights import adapter_config, kind_of, weights_of


def why_not_mergeable(run: Run) -> str:
    """The reason why the run cannot be merged into its base; "" if it can."""
    try:
        folder = weights_of(run)
        kind = kind_of(folder)
        config = adapter_config(folder) if kind == "adapter" else {}
    except FtlabError as error:
        return str(error)
    if kind == "model":
        return f"{run.spec.label} gave a whole model already: there is nothing to merge."
    reason = UNMERGEABLE.get(str(config.get("peft_type")))
    return f"{run.spec.label} cannot be merged into its base: {reason}." if reason else ""


def start_merge(run: Run, target: Path | None = None) -> MergeDirectory:
    """Starts a detached process that merges the run and outlives the page and the app.

    `target` is a new or an empty folder; `None` is the run's own `merged` folder, which is
    replaced. Raises `FtlabError` if the run cannot be merged, is somebody else's or is being
    merged, or if the target cannot be created.
    """
    check_writable(run.directory.path.parent)
    check_may_change(run.directory)
    reason = why_not_mergeable(run)
    if reason:
        raise FtlabError(reason)
    merge = MergeDirectory(run.directory)
    where = run.directory.merged if target is None else checked_target(target)
    try:
        with holding(merge.lock):
            check_not_merging(run.directory)
            merge.write_request(where)
            start_detached(
                "ftlab.share.merge_worker", merge.log_file,
                worker_environment(run.spec.task.kind == "hub"), str(run.directory.path),
            )  # fmt: skip
    except OSError as error:
        raise FtlabError(
            f"The merge could not be started in '{run.directory.path}' ({error.strerror}); free "
            "some space, or make the folder writable."
        ) from None
    return merge


def checked_target(target: Path) -> Path:
    """The absolute path; raises `FtlabError` unless it is new or empty and its parent exists."""
    folder = target.expanduser().absolute()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FtlabError(
            f"'{target}' is there already; name a folder that is not, or an empty one."
        )
    if not folder.parent.is_dir():
        raise FtlabError(
            f"The folder '{folder.parent}' does not exist; make it first, or name one in a folder "
            "that does."
        )
    return folder
