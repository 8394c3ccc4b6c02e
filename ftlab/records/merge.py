"""The record of merging a run's adapter into its base. Only this module defines its file names.

merged/              the merged model: safetensors, config and tokenizer
merged.json          its numbers, written when the model is complete
.merge/request.json  where to save the model
.merge/events.jsonl  the process, its phases and its end
.merge/log.txt       its stdout and stderr

All files are in the run directory, so they are deleted with the run.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import MAX_RECORD_BYTES, read_plain, read_record
from ftlab.basics.processes import boot_id
from ftlab.records.job import InFolder, StartedJob, owner_of, worker_of
from ftlab.records.result import OPEN, FinalStatus, JobResult, LineWriter, is_sound
from ftlab.records.run import RunDirectory, read_json_lines, write_atomically

_PHASES = {
    "wait": "waiting for the device",
    "load": "loading the base",
    "merge": "merging",
    "save": "saving",
    "evaluate": "evaluating",
}


@dataclass(frozen=True)
class MergeRecord:
    """The measurements of a merged model, next to those of the run before merging.

    Losses in nats per token, scores in [0, 1], both on the run's own test examples; `None` if
    they could not be measured, and `note` then gives the reason. `score_gain` is the mean of after
    minus before with its 95 % interval, paired by example. `seconds` is from loading to the end,
    `bytes` the size of the saved folder, `at` seconds since the epoch.
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
class MergeDirectory(StartedJob):
    """The merge of one run."""

    run: RunDirectory

    @property
    def folder(self) -> Path:
        return self.run.path / ".merge"

    @property
    def record_file(self) -> Path:
        return self.run.path / "merged.json"

    request_file = InFolder("request.json")
    events_file = InFolder("events.jsonl")

    @property
    def owner(self) -> str:
        return owner_of(self.run.spec)

    @property
    def target(self) -> Path:
        """Where the merged model is, or will be, saved."""
        try:
            asked = json.loads(read_plain(self.request_file, MAX_RECORD_BYTES))["target"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            asked = None
        return Path(asked) if isinstance(asked, str) else self.run.merged

    @property
    def partial(self) -> Path:
        """Where the model is written before it is renamed to `target`."""
        return self.target.with_name(f".{self.target.name}.partial")

    def left_overs(self) -> tuple[Path, ...]:
        return (self.partial,)

    def write_request(self, target: Path) -> None:
        self.events_file.unlink(missing_ok=True)
        write_atomically(self.request_file, json.dumps({"target": str(target)}).encode())

    def report(self, event: dict[str, Any]) -> None:
        """Appends an event immediately."""
        with LineWriter(self.events_file) as file:
            file.append(event | {"at": round(time.time(), 3)})

    def end(self, status: FinalStatus, reason: str = "") -> None:
        self.report({"event": "end", "status": status, "reason": reason})

    def result(self) -> JobResult | None:
        event = (self._events() or [{}])[-1]
        if event.get("event") != "end" or event.get("status") not in get_args(FinalStatus):
            return None
        return JobResult(event["status"], str(event.get("reason", "")))

    def write_worker(self, pid: int, started: float) -> None:
        event = {"event": "start", "pid": pid, "process_started": started, "boot": boot_id()}
        self.report(event)

    def worker(self) -> tuple[int, float] | None:
        starts = [event for event in self._events() if event.get("event") == "start"]
        return worker_of(starts[0]) if starts else None

    def progress(self) -> str:
        """The current step of an open merge, as in "evaluating, 12 of 64"."""
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
        """The merge record, or `None`; raises `FtlabError` if it cannot be read."""
        return read_record(_RECORD, self.record_file)

    def _events(self) -> list[dict[str, Any]]:
        return [event for event in read_json_lines(self.events_file) if is_sound(event)]


def check_not_merging(run: RunDirectory) -> None:
    """Raises `FtlabError` while the run is being merged."""
    if MergeDirectory(run).status() in OPEN:
        raise FtlabError(f"'{run.run_id}' is being merged; cancel that first, or wait for its end.")


def record_words(record: MergeRecord) -> list[str]:
    """Sentences on score and loss before and after merging, on the model, and the note."""
    words = []
    if record.score_after_merge is not None:
        words.append(
            f"Score {units.format_number(record.score_before_merge)} before merging, "
            f"{units.format_number(record.score_after_merge)} after{_gain(record)}."
        )
    if record.loss_after_merge is not None:
        words.append(
            f"Test loss {units.format_number(record.loss_before_merge, 3)} before, "
            f"{units.format_number(record.loss_after_merge, 3)} after."
        )
    words.append(
        f"A whole model of {units.format_bytes(record.bytes)} in {record.dtype}, made in "
        f"{units.format_seconds(record.seconds)} on {record.device}."
    )
    return [*words, record.note] if record.note else words


def _gain(record: MergeRecord) -> str:
    if record.score_gain is None:
        return ""
    mean, low, high = record.score_gain
    return f" ({mean:+.2f}, 95 % interval {low:+.2f} to {high:+.2f})"
