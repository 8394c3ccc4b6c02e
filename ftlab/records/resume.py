"""Checkpoints of a run, which of them can be trusted, and going on with a run that was cut off.

The worker records each once it is whole, with the SHA-256 of its files, in `checkpoint-STEP.json`
beside it: optimizer and random state are torch's own files, and only those that the run itself
wrote are ever opened.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import open_plain, read_plain
from ftlab.basics.log import note
from ftlab.basics.parsing import parse_json
from ftlab.records.run import (
    MAX_RECORD_BYTES,
    RunDirectory,
    check_writable,
    write_atomically,
    write_json_lines,
)
from ftlab.settings.training import AUTOMATIC_EVERY, AUTOMATIC_FROM, TrainingSettings

_FILE = re.compile(r"checkpoint-[0-9]+/[A-Za-z0-9_.-]+")


def checkpoint_interval(settings: TrainingSettings) -> int:
    """Steps between checkpoints; 0 is never."""
    if settings.checkpoint_every is not None:
        return settings.checkpoint_every
    return AUTOMATIC_EVERY if settings.steps >= AUTOMATIC_FROM else 0


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint, and what the run had measured by then.

    `files` are SHA-256 by path within the folder of checkpoints. `run_seconds` are since the run
    began, without waiting; bytes are those of the training phase.
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
    """The last one whose files are all there; their content is not looked at."""
    found = [
        checkpoint
        for path in directory.checkpoints.glob("checkpoint-*.json")
        if (checkpoint := _read(path)) is not None
        and checkpoint.files
        and all(_is_there(directory.checkpoints, name) for name in checkpoint.files)
    ]
    return max(found, key=lambda checkpoint: checkpoint.step, default=None)


def record_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Says in the folder of checkpoints that one is whole; raises `OSError` where it cannot."""
    write_atomically(_record(folder, checkpoint.step), _CHECKPOINT.dump_json(checkpoint, indent=2))


def trusted_checkpoint(directory: RunDirectory) -> Checkpoint:
    """The newest checkpoint, read and found to be what the run wrote.

    Raises `FtlabError` if there is none, or if a file of it was changed since.
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
    """What the run reported up to the checkpoint; what came after it is done again."""
    events = directory.metrics()
    within = [0 < event.get("step", 0) <= checkpoint.step for event in events]
    return events[: len(within) - within[::-1].index(True)] if any(within) else []


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of a checkpoint's files, by their path within the folder of checkpoints."""
    return {f"{folder.name}/{path.name}": file_hash(path) for path in sorted(folder.iterdir())}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}.json"


def _read(path: Path) -> Checkpoint | None:
    """`None` for a record that is none: its checkpoint is as good as not there."""
    try:
        return parse_json(_CHECKPOINT, read_plain(path, MAX_RECORD_BYTES), path.name)
    except (FtlabError, OSError):
        return None


def _is_there(folder: Path, name: str) -> bool:
    path = folder / name
    return bool(_FILE.fullmatch(name)) and path.is_file() and not path.is_symlink()


Event = dict[str, Any]


def ask_to_resume(directory: RunDirectory) -> None:
    """Puts a run that ended early back into the queue; a dispatcher has to be started then.

    Its result, if it has one, is kept beside it under another name. Raises `FtlabError` if the run
    is done, still going, or has no checkpoint.
    """
    check_writable(directory.path.parent)
    status = directory.status()
    if status in ("done", "running", "queued"):
        raise FtlabError(
            f"The run {directory.run_id} is {status}; only one that ended early can be resumed."
        )
    trusted_checkpoint(directory)
    try:
        directory.resume_file.touch()
        if directory.result_file.exists():
            directory.result_file.replace(directory.path / "result.before-resume.json")
    except OSError as error:
        raise FtlabError(
            f"'{directory.path}' cannot be written ({error.strerror}), so the run is not resumed."
        ) from None
    note("run resumed", run=directory.run_id)


@dataclass(frozen=True)
class Earlier:
    """The part of a run before it was cut off; `resumed` are the steps of all its resumptions."""

    checkpoint: Checkpoint
    events: tuple[Event, ...]
    resumed: tuple[int, ...]

    def steps(self, key: str) -> list[Any]:
        """One value of each training step, as it was reported."""
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
    """What the run goes on from; `None` where it was not asked to.

    Raises `FtlabError` if its checkpoint is not one that it wrote.
    """
    if not (directory.resume_file.exists() and directory.metrics_file.exists()):
        return None
    checkpoint = trusted_checkpoint(directory)
    events = events_until(directory, checkpoint)
    if not events:
        raise FtlabError(f"The metrics of {directory.run_id} have no step; run it again.")
    before = tuple(int(step) for step in events[0].get("resumed", ()))
    return Earlier(checkpoint, tuple(events), (*before, checkpoint.step))


def begin_again(directory: RunDirectory, earlier: Earlier, start: Event) -> None:
    """Puts the new process into the first line of the metrics, before what the first part reported.

    What came after the checkpoint is left out: it is done once more. The run waits no longer.
    """
    first = earlier.events[0] | start | {"resumed": list(earlier.resumed)}
    write_json_lines(directory.metrics_file, [first, *earlier.events[1:]])
    directory.resume_file.unlink(missing_ok=True)
