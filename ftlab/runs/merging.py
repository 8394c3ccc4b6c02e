"""The record of a run's merge into its base, and the only place where its files are named.

merged/              the merged model: safetensors, config and tokenizer
merged.json          its numbers, written when the model is whole
.merge/request.json  where the model is to be saved
.merge/events.jsonl  the process, its phases and its end
.merge/log.txt       its stdout and stderr

All of it lies in the run directory, so it goes when the run is deleted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter

from ftlab.errors import FtlabError
from ftlab.locks import FileLock
from ftlab.reading import read_plain
from ftlab.runs.directory import (
    MAX_RECORD_BYTES,
    RunDirectory,
    read_json_lines,
    write_atomically,
)
from ftlab.runs.lines import LineWriter
from ftlab.runs.parsing import parse_json
from ftlab.runs.process import is_alive

MergeStatus = Literal["none", "queued", "running", "done", "cancelled", "failed", "interrupted"]
MERGE_OPEN: frozenset[MergeStatus] = frozenset({"queued", "running"})

_FIRST_WORD_SECONDS = 30.0
"""How long a process may take from its start to its first word, on a busy machine."""

_PHASES = {
    "wait": "waiting for the device",
    "load": "loading the base",
    "merge": "merging",
    "save": "saving",
    "evaluate": "evaluating",
}


@dataclass(frozen=True)
class MergeRecord:
    """What a merge gave, beside what the run had measured before.

    Losses in nats a token, scores in [0, 1], both on the run's own held-out examples; `None` where
    they could not be had, and `note` then says why. `score_gain` is the mean of after minus before
    with its 95 % interval, paired by example. `seconds` is from loading to the end, `bytes` the
    size of the saved folder, `at` seconds since the epoch.
    """

    __pydantic_config__ = ConfigDict(extra="ignore")

    dtype: str
    bytes: int
    seconds: float
    at: float
    device: str = ""
    score_before_merge: float | None = None
    score_after_merge: float | None = None
    score_gain: tuple[float, float, float] | None = None
    loss_before_merge: float | None = None
    loss_after_merge: float | None = None
    note: str = ""


_RECORD = TypeAdapter(MergeRecord)


@dataclass(frozen=True)
class MergeDirectory:
    """The merge of one run. Reading never raises for a file that is not there yet."""

    run: RunDirectory

    @property
    def folder(self) -> Path:
        return self.run.path / ".merge"

    @property
    def record_file(self) -> Path:
        return self.run.path / "merged.json"

    @property
    def request_file(self) -> Path:
        return self.folder / "request.json"

    @property
    def events_file(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def log_file(self) -> Path:
        return self.folder / "log.txt"

    @property
    def lock(self) -> FileLock:
        """Held while a merge is asked for, begins, or is cancelled: each looks at the status."""
        return FileLock(self.folder / "lock")

    @property
    def target(self) -> Path:
        """Where the merged model is, or is to be, saved."""
        try:
            asked = json.loads(read_plain(self.request_file, MAX_RECORD_BYTES))["target"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            asked = None
        return Path(asked) if isinstance(asked, str) else self.run.merged

    @property
    def partial(self) -> Path:
        """Where it is written before it appears whole."""
        return self.target.with_name(f".{self.target.name}.partial")

    def write_request(self, target: Path) -> None:
        self.events_file.unlink(missing_ok=True)
        write_atomically(self.request_file, json.dumps({"target": str(target)}).encode())

    def report(self, event: dict[str, Any]) -> None:
        """Appends an event, whole and at once."""
        with LineWriter(self.events_file) as file:
            file.append(event | {"at": round(time.time(), 3)})

    def end(self, status: Literal["done", "cancelled", "failed"], reason: str = "") -> None:
        self.report({"event": "end", "status": status, "reason": reason})

    def process(self) -> tuple[int, float] | None:
        """The worker's process id and start time, once it has begun."""
        for event in self._events():
            if event.get("event") == "start":
                try:
                    return int(event["pid"]), float(event["process_started"])
                except (KeyError, TypeError, ValueError, OverflowError):
                    return None  # a damaged line
        return None

    def status(self) -> MergeStatus:
        """Derived from the files and the process table, never stored."""
        ended = self._end()
        if ended is not None:
            status: MergeStatus = ended["status"]
            return status
        process = self.process()
        if process is not None:
            if is_alive(*process):
                return "running"
            ended = self._end()  # written between the two looks
            return "interrupted" if ended is None else ended["status"]
        try:
            age = time.time() - self.request_file.stat().st_mtime
        except OSError:
            return "none"
        return "queued" if abs(age) < _FIRST_WORD_SECONDS else "interrupted"

    @property
    def reason(self) -> str:
        """Why the last merge did not get to its end; "" where it did."""
        ended = self._end()
        if ended is not None:
            return str(ended.get("reason", ""))
        if self.status() == "interrupted":
            return f"The merge ended without a word; {self.log_file.name} has its last lines."
        return ""

    def progress(self) -> str:
        """What an open merge is at, as in "evaluating, 12 of 64"."""
        events = self._events()
        phases = [str(event["phase"]) for event in events if event.get("event") == "phase"]
        if not phases:
            return "starting"
        words = _PHASES.get(phases[-1], phases[-1])
        last = events[-1]
        counted = f", {last['done']} of {last['total']}" if last.get("event") == "evaluate" else ""
        return words + counted

    def write_record(self, record: MergeRecord) -> None:
        write_atomically(self.record_file, _RECORD.dump_json(record, indent=2))

    def record(self) -> MergeRecord | None:
        """Raises `FtlabError` for a record that cannot be read."""
        try:
            return parse_json(
                _RECORD, read_plain(self.record_file, MAX_RECORD_BYTES), self.record_file.name
            )
        except FileNotFoundError:
            return None

    def _events(self) -> list[dict[str, Any]]:
        return [event for event in read_json_lines(self.events_file) if _is_sound(event)]

    def _end(self) -> dict[str, Any] | None:
        events = self._events()
        return events[-1] if events and events[-1].get("event") == "end" else None


def _is_sound(event: Mapping[str, Any]) -> bool:
    """Whether the line is as a worker writes it; a damaged one is skipped."""
    kind = event.get("event")
    if kind == "end":
        return event.get("status") in ("done", "cancelled", "failed")
    needed = {"phase": ("phase",), "evaluate": ("done", "total")}.get(str(kind), ())
    return all(name in event for name in needed)


def check_not_merging(run: RunDirectory) -> None:
    """Raises `FtlabError` while the run is being merged."""
    if MergeDirectory(run).status() in MERGE_OPEN:
        raise FtlabError(f"'{run.run_id}' is being merged; cancel that first, or wait for its end.")
