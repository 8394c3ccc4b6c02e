"""The run directory: the record of one run. Only this module defines its file names.

spec.json       written before the run is queued; its worker adds the learning rate if that
                depends on a model that was not on the machine yet
expected.json   how long it was expected to take before it began, if that was known
metrics.jsonl   appended by the worker alone; its first line names the process
log.txt         the worker's stdout and stderr
result.json     written at the end, by atomic rename; completed if the base run ends later
samples.jsonl   test prompts answered before and after training
adapter/        PEFT's own format, or the full model
merged/         the adapter merged into its base, if that was requested
checkpoints/    the state to resume training from, deleted once the run is done; never exported
resume          exists while the run waits to resume from its last checkpoint
pause           the step after which the run pauses, if it was asked to
lease.N         while a worker is at work: a count for other machines that share the folder
node            the machine that queued the run
annotations.json  added by users afterwards: tags, a note, whether the run is archived

A public demo's runs folder is read-only. A marker file in the folder tells every handler, endpoint
and process; each function that writes on behalf of a user calls `check_writable` first.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pydantic import ConfigDict, TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import (
    MAX_RECORD_BYTES,
    open_plain,
    parse_json,
    read_plain,
    read_record,
    write_atomically,
    write_once,
)
from ftlab.basics.people import asking
from ftlab.records.job import InFolder, Job, age_seconds, worker_of
from ftlab.records.result import RunResult, Status, dump_result, is_sound, load_result
from ftlab.records.spec import RunSpec, dump_spec, load_spec

_FIRST_WORD_SECONDS = 10.0
"""Timeout from opening the metrics file to writing its first line."""

MAX_LINES_BYTES = 256 * 2**20
"""Maximum size of a JSON Lines file: a run of a million steps writes about 200 MB."""

_MAX_FIRST_LINE_BYTES = 2**16
_NAME = 80

RUN_ID = re.compile(r"[a-z0-9][a-z0-9_-]{3,80}")


@dataclass(frozen=True)
class RunDirectory(Job):
    """One run's folder."""

    path: Path

    @property
    def folder(self) -> Path:
        return self.path

    @property
    def run_id(self) -> str:
        return self.path.name

    spec_file = InFolder("spec.json")
    expected_file = InFolder("expected.json")
    metrics_file = InFolder("metrics.jsonl")
    lock_file = InFolder("log.txt")
    """The file that a worker locks: the log, because it is never replaced by a new file."""
    result_file = InFolder("result.json")
    samples_file = InFolder("samples.jsonl")
    annotations_file = InFolder("annotations.json")
    adapter = InFolder("adapter")
    merged = InFolder("merged")
    checkpoints = InFolder("checkpoints")
    resume_file = InFolder("resume")
    earlier_result_file = InFolder("result.before-resume.json")
    pause_file = InFolder("pause")
    node_file = InFolder("node")
    job_file = InFolder("job")
    """The job elsewhere that executes the run, for the dispatcher (`ftlab.jobs.launchers`)."""
    partial_adapter = InFolder(".adapter.partial")
    """Where the adapter is written before it is moved to `adapter`."""
    scratch = InFolder(".scratch")
    """Temporary files of the worker; inside the run directory, so they are deleted with the run."""

    @property
    def is_waiting(self) -> bool:
        """True until a worker has started or the run has ended, and while it waits to resume."""
        if self.result_file.exists():
            return False
        return self.resume_file.exists() or not self.metrics_file.exists()

    def left_overs(self) -> tuple[Path, ...]:
        return self.partial_adapter, self.scratch

    def write_spec(
        self,
        spec: RunSpec,
        result: RunResult | None = None,
        pause_after: int | None = None,
        on: str = "",
    ) -> None:
        """Creates the folder with its spec; the run is then queued, or has the given result.

        `on` names the launcher that is to execute it, as `--on` does. Raises `FileExistsError`,
        before anything is written, if the folder exists.
        """
        self.path.mkdir(parents=True)
        if result is not None:
            self.write_result(result)  # before the spec, else a dispatcher might start the run
        if pause_after is not None:
            self.pause_after(pause_after)
        if result is None:
            self.node_file.write_text(f"{platform.node()}\n{on}".rstrip(), encoding="utf-8")
        self.complete_spec(spec)

    def pause_after(self, step: int) -> None:
        """Has the run, which is not started or resumed yet, pause after that step.

        It then writes a checkpoint, is evaluated, and ends as cancelled; it can be resumed.
        """
        write_atomically(self.pause_file, str(step).encode())

    @property
    def may_pause(self) -> bool:
        """Whether the run was asked to pause: it is a candidate of a race."""
        return self.pause_file.exists()

    def pauses_after(self) -> int | None:
        """The step after which the run pauses; `None`: it goes on to its end."""
        try:
            return int(read_plain(self.pause_file, MAX_RECORD_BYTES))
        except (OSError, ValueError):
            return None

    @property
    def is_of_another_node(self) -> bool:
        """Whether another machine that shares the folder queued the run."""
        node, _ = self._queued_by()
        return node is not None and node != platform.node()

    @property
    def queued_for(self) -> str:
        """The launcher that is to execute the run, as `--on` names it; "": the machine's own."""
        return self._queued_by()[1]

    def _queued_by(self) -> tuple[str | None, str]:
        try:
            node, _, on = read_plain(self.node_file, MAX_RECORD_BYTES).decode().partition("\n")
        except (OSError, ValueError):
            return None, ""
        return node, on.strip()

    def check_not_elsewhere(self) -> None:
        """Raises `FtlabError` while a worker on another machine has the run, also an ended one."""
        holder = self.elsewhere
        if holder is not None:
            raise FtlabError(
                f"The worker of '{self.run_id}' on the machine {holder.node} is still ending; "
                "try again in half a minute."
            )

    def complete_spec(self, spec: RunSpec) -> None:
        """Writes the spec again, with the values that the worker decided."""
        write_atomically(self.spec_file, dump_spec(spec))

    def spec(self) -> RunSpec:
        """Raises `FtlabError` if the spec is missing or cannot be read."""
        try:
            spec = load_spec(read_plain(self.spec_file, MAX_RECORD_BYTES))
        except OSError as error:
            raise FtlabError(
                f"'{self.path}' is no run directory: its spec.json cannot be read "
                f"({error.strerror})."
            ) from None
        if spec.run_id != self.run_id:  # files are named after it
            raise FtlabError(
                f"spec.json of '{self.run_id}' is that of another run, '{spec.run_id[:80]}'; give "
                "the folder its own name back."
            )
        return spec

    def write_result(self, result: RunResult) -> None:
        """Writes the result unless one exists: a finished run is never overwritten."""
        write_once(self.result_file, dump_result(result))

    def complete_result(self, result: RunResult) -> None:
        """Replaces the result by the same one with the numbers of a base run that ended later."""
        write_atomically(self.result_file, dump_result(result))

    def result(self) -> RunResult | None:
        try:
            return load_result(read_plain(self.result_file, MAX_RECORD_BYTES))
        except FileNotFoundError:
            return None

    def metrics(self) -> list[dict[str, Any]]:
        """The valid events; others are skipped."""
        return [event for event in read_json_lines(self.metrics_file) if is_sound(event)]

    def samples(self) -> list[dict[str, Any]]:
        return read_json_lines(self.samples_file)

    def worker(self) -> tuple[int, float] | None:
        return worker_of(self._first_line())

    @property
    def node(self) -> str:
        """The machine that executes the run, or did; "" if that is not known."""
        line = self._first_line()
        name = str(line.get("node") or "") if isinstance(line, dict) else ""
        return UNFIT.sub("", name)[:_NAME]

    def _first_line(self) -> Any:
        try:
            with open_plain(self.metrics_file) as file:
                return json.loads(file.readline(_MAX_FIRST_LINE_BYTES))
        except (OSError, ValueError, RecursionError):
            return None

    def status(self) -> Status:
        """Derived from the files and the process table, never stored."""
        return cast(Status, super().status())  # a run is never "none"

    def waiting_status(self, began: bool) -> Status | None:
        if not began:
            age = age_seconds(self.metrics_file)
            if age is None:
                return "queued"
            if age < _FIRST_WORD_SECONDS:
                return "running"
        return "queued" if self.resume_file.exists() else None


@dataclass(frozen=True)
class StoredRun:
    """What a run's folder says. `result` is `None` for open and interrupted runs."""

    directory: RunDirectory
    spec: RunSpec
    status: Status
    result: RunResult | None


def _is_seen(directory: RunDirectory) -> bool:
    """Whether the person who asks sees the run; one that cannot be read is nobody's."""
    if asking().sees_all:
        return True
    with suppress(FtlabError):
        return asking().sees(directory.spec().owner)
    return False


def check_may_change(directory: RunDirectory) -> None:
    """Raises `FtlabError` unless the person who asks may end, change or remove the run."""
    if not asking().changes_all:
        asking().check_change(directory.spec().owner, f"The run {directory.run_id}")


def run_directories(folder: Path) -> list[RunDirectory]:
    """Every run of the folder, oldest first; other folders are left out."""
    found = (RunDirectory(folder / name) for name in run_names(folder))
    return [directory for directory in found if directory.spec_file.exists()]


def run_names(folder: Path) -> list[str]:
    """The name of every folder that may be a run's, oldest first."""
    try:
        # Symbolic links are ignored: their target may be anything.
        return sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir(follow_symlinks=False) and RUN_ID.fullmatch(entry.name)
        )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FtlabError(
            f"The runs folder '{folder}' cannot be read ({error.strerror}); "
            "name another with --runs-dir."
        ) from None


def find_run(folder: Path, run_id: str) -> RunDirectory:
    """The run with that id; raises `FtlabError` if the id is malformed, or of no run that the
    person who asks sees."""
    if RUN_ID.fullmatch(run_id):
        directory = RunDirectory(folder / run_id)
        is_there = directory.spec_file.exists() and not directory.path.is_symlink()
        if is_there and _is_seen(directory):
            return directory
    raise FtlabError(
        f"There is no run '{run_id[:80]}' in this runs folder; Results and `python -m ftlab runs` "
        "list the ones there are."
    )


def write_json_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_atomically(path, text.encode())


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """All valid lines; an incomplete last line (the writer was killed) is skipped.

    Raises `OSError` if the file cannot be read, `UnsuitableFile` for more than `MAX_LINES_BYTES`.
    """
    try:
        data = read_plain(path, MAX_LINES_BYTES)
    except FileNotFoundError:
        return []
    rows = []
    # Not splitlines: a line separator such as U+2028 may occur inside a text.
    for line in data.split(b"\n"):
        try:
            row = json.loads(line.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def make_read_only(runs_folder: Path, why: str) -> None:
    """Makes the runs folder read-only; `why` is the error message of later write attempts."""
    mark = _mark(runs_folder)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(why, encoding="utf-8")


def check_writable(runs_folder: Path) -> None:
    """Raises `FtlabError` with the reason if the folder was made read-only."""
    try:
        why = _mark(runs_folder).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        why = f"The runs folder '{runs_folder}' cannot be read ({error.strerror})."
    raise FtlabError(why)


def _mark(runs_folder: Path) -> Path:
    return runs_folder / ".ftlab" / "closed"


TAG_LENGTH, NOTE_LENGTH, TAGS_MOST = 40, 2000, 12

UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters, except tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of the text after them
    "\ud800-\udfff]"  # lone surrogates, which no file can hold
)


@dataclass(frozen=True)
class Annotations:
    """User annotations; `archived` runs stay on disk and in every record, but hidden by default."""

    __pydantic_config__ = ConfigDict(extra="ignore")

    archived: bool = False
    tags: tuple[str, ...] = ()
    note: str = ""


_ANNOTATIONS = TypeAdapter(Annotations)


def load_annotations(data: bytes) -> Annotations:
    """Raises `FtlabError` naming the first wrong field."""
    return parse_json(_ANNOTATIONS, data, "annotations.json")


def dump_annotations(annotations: Annotations, indent: int | None = 2) -> bytes:
    return _ANNOTATIONS.dump_json(annotations, indent=indent)


def read_annotations(directory: RunDirectory) -> Annotations:
    """The run's annotations; the defaults if there is no file. Raises `FtlabError` if invalid."""
    return read_record(_ANNOTATIONS, directory.annotations_file) or Annotations()


def write_annotations(directory: RunDirectory, annotations: Annotations) -> None:
    """Replaces the run's annotations; characters that cannot be displayed are removed.

    Raises `FtlabError` if the run is somebody else's, the note is too long or the file cannot be
    written.
    """
    check_writable(directory.path.parent)
    check_may_change(directory)
    if len(annotations.note) > NOTE_LENGTH:
        raise FtlabError(
            f"The note has {len(annotations.note):,} characters; at most {NOTE_LENGTH:,} are kept."
        )
    tags = tuple(filter(None, (UNFIT.sub("", tag) for tag in annotations.tags)))
    annotations = replace(annotations, tags=tags, note=UNFIT.sub("", annotations.note))
    try:
        write_atomically(directory.annotations_file, dump_annotations(annotations))
    except OSError as error:
        raise FtlabError(
            f"The annotations of '{directory.run_id}' cannot be written ({error.strerror})."
        ) from None


def parse_tags(text: str) -> tuple[str, ...]:
    """Distinct tags from "demo, for Ada"; raises `FtlabError` for too many or too long ones."""
    words = (" ".join(tag.split()) for tag in UNFIT.sub(" ", text).split(","))
    tags = tuple(dict.fromkeys(filter(None, words)))
    if len(tags) > TAGS_MOST:
        raise FtlabError(f"There are {len(tags):,} tags; a run takes at most {TAGS_MOST}.")
    for tag in tags:
        if len(tag) > TAG_LENGTH:
            raise FtlabError(
                f"The tag '{tag[:20]}…' has {len(tag):,} characters; at most {TAG_LENGTH} are "
                "kept. Put a comma between tags."
            )
    return tags


NO_FILE = -1


def changed_at(path: Path | str) -> int:
    """Modification time of the file in nanoseconds; `NO_FILE` if there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return NO_FILE


_RECORDS = ("spec.json", "annotations.json", "result.json")
_STARTED_BY = ("metrics.jsonl", "resume")


@dataclass(frozen=True)
class Changes:
    """When a run's files were changed, as `changed_at`: `records` are spec, annotations and result,
    `waiting` those that tell whether it waits (none of a run that has ended)."""

    records: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()

    @classmethod
    def of(cls, directory: RunDirectory, has_ended: bool = False) -> Changes:
        folder = str(directory.path)  # joining thousands of paths takes longer than the looks
        records = tuple(changed_at(f"{folder}/{name}") for name in _RECORDS)
        if has_ended:
            return cls(records)
        waiting = tuple(changed_at(f"{folder}/{name}") for name in _STARTED_BY)
        # What has not begun cannot be resumed.
        return cls(records, waiting[:1] if waiting[0] == NO_FILE else waiting)

    def still_hold(self, directory: RunDirectory) -> bool:
        """Whether no file that it has a time of was changed, made or deleted since."""
        folder = str(directory.path)
        for names, times in ((_RECORDS, self.records), (_STARTED_BY, self.waiting)):
            for name, time in zip(names, times, strict=False):
                path = f"{folder}/{name}"
                # Most are missing, which `stat` says by an error: that takes as long as a look.
                if os.access(path, os.F_OK) if time == NO_FILE else changed_at(path) != time:
                    return False
        return True

    @property
    def annotated(self) -> int:
        return self.records[1]

    @property
    def ended(self) -> int:
        return self.records[2]
