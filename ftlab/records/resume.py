"""Checkpoints of a run, how they are verified, and how an interrupted run is resumed.

When a checkpoint is complete, the worker records the SHA-256 of its files in `checkpoint-STEP.json`
next to it. Optimizer and random state are torch's own files; only files that the run itself wrote
are ever opened.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import open_plain, read_record
from ftlab.basics.log import note
from ftlab.records.run import (
    RunDirectory,
    check_may_change,
    check_writable,
    write_atomically,
    write_json_lines,
)
from ftlab.settings.training import AUTOMATIC_EVERY, AUTOMATIC_FROM, TrainingSettings

_FILE = re.compile(r"checkpoint-[0-9]+/[A-Za-z0-9_.-]+")


def checkpoint_interval(settings: TrainingSettings) -> int:
    """Steps between checkpoints; 0 means no checkpoints."""
    if settings.checkpoint_every is not None:
        return settings.checkpoint_every
    return AUTOMATIC_EVERY if settings.steps >= AUTOMATIC_FROM else 0


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, and the run's measurements up to it.

    `files` maps the path within the checkpoints folder to the SHA-256. `run_seconds` counts from
    the start of the run, without waiting; byte values are of the training phase.
    """

    __pydantic_config__ = ConfigDict(extra="ignore")

    step: int
    files: dict[str, str]
    run_seconds: float
    peak_bytes: int | None
    before_model_bytes: int | None
    real_tokens: int
    padded_tokens: int
    added_loss: float

    @property
    def folder(self) -> str:
        return f"checkpoint-{self.step}"


_CHECKPOINT = TypeAdapter(Checkpoint)


def newest_checkpoint(directory: RunDirectory) -> Checkpoint | None:
    """The newest checkpoint whose files all exist; their content is not checked."""
    found = [
        checkpoint
        for path in directory.checkpoints.glob("checkpoint-*.json")
        if (checkpoint := _read(path)) is not None
        and checkpoint.files
        and all(_is_there(directory.checkpoints, name) for name in checkpoint.files)
    ]
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def record_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Records that a checkpoint is complete; raises `OSError` if that cannot be written."""
    record = folder / f"{checkpoint.folder}.json"
    write_atomically(record, _CHECKPOINT.dump_json(checkpoint, indent=2))


def trusted_checkpoint(directory: RunDirectory) -> Checkpoint:
    """The newest checkpoint, after its files were verified against the recorded SHA-256.

    Raises `FtlabError` if there is none, or if one of its files was changed.
    """
    found = newest_checkpoint(directory)
    if found is None:
        raise FtlabError(
            f"The run {directory.run_id} has no checkpoint to go on from; run it again."
        )
    folder = directory.checkpoints / found.folder
    hashes = dict(found.files)
    for path in sorted(folder.iterdir()):
        name = f"{found.folder}/{path.name}"
        if path.is_symlink() or hashes.pop(name, None) != file_hash(path):
            raise FtlabError(
                f"'{name}' of the run {directory.run_id} is not a file as the run wrote it (its "
                "SHA-256 is not on record), so it is not opened; run it again."
            )
    return found


def events_until(directory: RunDirectory, checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """The run's events up to the checkpoint; later steps will be done again."""
    events = directory.metrics()
    within = [0 < event.get("step", 0) <= checkpoint.step for event in events]
    return events[: len(within) - within[::-1].index(True)] if any(within) else []


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's files, by their path within the checkpoints folder."""
    return {f"{folder.name}/{path.name}": file_hash(path) for path in sorted(folder.iterdir())}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> Checkpoint | None:
    """`None` for an invalid record: its checkpoint is ignored."""
    try:
        return read_record(_CHECKPOINT, path)
    except (FtlabError, OSError):
        return None


def _is_there(folder: Path, name: str) -> bool:
    path = folder / name
    return bool(_FILE.fullmatch(name)) and path.is_file() and not path.is_symlink()


def ask_to_resume(directory: RunDirectory) -> None:
    """Puts a run that ended early back into the queue; the caller must start a dispatcher.

    A result, if there is one, is kept under another name in the same folder. Raises `FtlabError` if
    the run is somebody else's, done, queued or running, or has no checkpoint.
    """
    check_writable(directory.path.parent)
    check_may_change(directory)
    status = directory.status()
    if status in ("done", "running", "queued"):
        raise FtlabError(
            f"The run {directory.run_id} is {status}; only one that ended early can be resumed."
        )
    directory.check_not_elsewhere()
    trusted_checkpoint(directory)
    try:
        directory.resume_file.touch()
        if directory.result_file.exists():
            directory.result_file.replace(directory.earlier_result_file)
    except OSError as error:
        raise FtlabError(
            f"'{directory.path}' cannot be written ({error.strerror}), so the run is not resumed."
        ) from None
    note("run resumed", run=directory.run_id)


def begin_anew(directory: RunDirectory) -> None:
    """Puts a run that ended early back into the queue, from its first step.

    What it wrote is removed, but a result is kept as by `ask_to_resume`. The caller must start a
    dispatcher. Raises `FtlabError` if the run is done, queued or running.
    """
    check_writable(directory.path.parent)
    status = directory.status()
    if status in ("done", "running", "queued"):
        raise FtlabError(
            f"The run {directory.run_id} is {status}; only one that ended early can begin anew."
        )
    directory.check_not_elsewhere()
    result = directory.result_file
    kept = {
        directory.spec_file, directory.pause_file, directory.annotations_file,
        directory.node_file, directory.job_file, result,
    }  # fmt: skip
    try:
        for path in directory.path.iterdir():
            if path in kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        if result.exists():  # the last: with it the run has ended
            result.replace(directory.earlier_result_file)
    except OSError as error:
        raise FtlabError(
            f"'{directory.path}' cannot be written ({error.strerror}), so the run does not begin "
            "anew."
        ) from None
    note("run begun anew", run=directory.run_id)


@dataclass(frozen=True)
class Earlier:
    """The part of a run before it was interrupted; `resumed` are the steps at which it resumed."""

    checkpoint: Checkpoint
    events: tuple[dict[str, Any], ...]
    resumed: tuple[int, ...]

    def steps(self, key: str) -> list[Any]:
        """The reported value of `key` for each training step."""
        return [event[key] for event in self.events if event.get("event") == "step"]

    @property
    def elapsed(self) -> float:
        """Seconds from the first line of the metrics to the checkpoint."""
        return float(self.events[-1].get("elapsed", 0.0))

    @property
    def sentence(self) -> str:
        at = " and ".join(f"{step:,}" for step in self.resumed)
        return (
            f"Cut off and resumed after step {at}: times are of the steps that count, the peak is "
            "the highest of the parts."
        )


def read_earlier(directory: RunDirectory) -> Earlier | None:
    """The part of the run to resume from; `None` if no resume was requested.

    Raises `FtlabError` if the run did not write the checkpoint itself.
    """
    if not (directory.resume_file.exists() and directory.metrics_file.exists()):
        return None
    checkpoint = trusted_checkpoint(directory)
    events = events_until(directory, checkpoint)
    if not events:
        raise FtlabError(f"The metrics of {directory.run_id} have no step; run it again.")
    before = tuple(int(step) for step in events[0].get("resumed", ()))
    return Earlier(checkpoint, tuple(events), (*before, checkpoint.step))


def begin_again(directory: RunDirectory, earlier: Earlier, start: dict[str, Any]) -> None:
    """Rewrites the metrics: the new process in the first line, then the events of the first part.

    Events after the checkpoint are dropped; their steps are done again. Removes the resume request.
    """
    first = earlier.events[0] | start | {"resumed": list(earlier.resumed)}
    write_json_lines(directory.metrics_file, [first, *earlier.events[1:]])
    directory.resume_file.unlink(missing_ok=True)
