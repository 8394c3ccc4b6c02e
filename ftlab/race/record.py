"""A race: its folder, its request, its events and its result. No torch, no Optuna.

race.json      the request, written once
events.jsonl   the process, what it queued and measured, who left and why; appended by it alone
journal.log    Optuna's journal: which candidates went on after each rung
cancel         exists after it was asked to stop
log.txt        stdout and stderr of its process
result.json    the answer, written at the end by atomic rename
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import read_record
from ftlab.basics.processes import boot_id
from ftlab.jobs.control import control_folder
from ftlab.records.job import (
    InFolder,
    StoppableJob,
    job_folders,
    new_job_id,
    owner_of,
    read_request,
    seen_jobs,
    worker_of,
)
from ftlab.records.recommendation import CRITERIA, Preference
from ftlab.records.result import FinalStatus, JobResult, LineWriter
from ftlab.records.run import read_json_lines, write_atomically
from ftlab.records.spec import SweepRequest
from ftlab.settings.schema import Setting


@dataclass(frozen=True)
class RaceSettings:
    """The settings of a race, beside those of its runs."""

    minutes: Annotated[
        float, Setting("Minutes", help="the whole race, scoring included; it ends with an answer "
                       "from what there is then", low=0.5, high=100_000, unit="minute",
                       place="main", narrow=True),
    ] = 20.0  # fmt: skip
    prefer: Annotated[
        Preference, Setting("Prefer", help="what decides among methods that do as well",
                            choices={name: one.words for name, one in CRITERIA.items()},
                            place="main", narrow=True),
    ] = "score"  # fmt: skip


@dataclass(frozen=True)
class RaceRequest:
    """`request` has the candidates as its variants.

    Its settings and seeds are those of the runs that are scored at the end. The candidates whose
    places are in `defaults` are those at the default values of their method. `owner` is the login
    of the person who started it, "" for the operator.
    """

    request: SweepRequest
    settings: RaceSettings
    defaults: tuple[int, ...]
    owner: str = ""

    @property
    def seconds(self) -> float:
        return 60 * self.settings.minutes

    def label(self, candidate: int) -> str:
        return self.request.variants[candidate].label


@dataclass(frozen=True)
class RaceResult(JobResult):
    """The answer: `sentence` and `details`, and the recommendation as JSON (`None` without one).

    `trials` and `finals` are ids of sweeps, "" if there was none: candidates on the tuning split,
    and the last few scored on the test split. `tried` of `candidates` reached the first rung;
    `seconds` is what the race took.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    sentence: str = ""
    details: tuple[str, ...] = ()
    trials: str = ""
    finals: str = ""
    candidates: int = 0
    tried: int = 0
    seconds: float = 0.0
    recommendation: Mapping[str, Any] | None = field(default=None)


_REQUEST: TypeAdapter[RaceRequest] = TypeAdapter(RaceRequest)
_RESULT: TypeAdapter[RaceResult] = TypeAdapter(RaceResult)


@dataclass(frozen=True)
class RaceDirectory(StoppableJob):
    """One race's folder."""

    path: Path

    request_file = InFolder("race.json")
    events_file = InFolder("events.jsonl")
    journal_file = InFolder("journal.log")
    result_file = InFolder("result.json")

    seconds_to_stop: ClassVar[float] = 20.0
    """Its runs have to end before it can answer."""

    @property
    def folder(self) -> Path:
        return self.path

    @property
    def owner(self) -> str:
        return owner_of(self.request)

    @property
    def race_id(self) -> str:
        return self.path.name

    @property
    def runs_folder(self) -> Path:
        """The folder of its runs; the inverse of `races_folder`."""
        return self.path.parents[2]

    def write_request(self, request: RaceRequest) -> None:
        """Creates the folder and writes the request; the race is then queued."""
        self.path.mkdir(parents=True)
        write_atomically(self.request_file, _REQUEST.dump_json(request, indent=2))

    def request(self) -> RaceRequest:
        """Raises `FtlabError` if the request is missing or cannot be read."""
        return read_request(_REQUEST, self.request_file, "race")

    def report(self, event: Mapping[str, Any]) -> None:
        """Appends an event immediately."""
        with LineWriter(self.events_file) as file:
            file.append({**event, "at": round(time.time(), 3)})

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first; damaged lines are skipped."""
        return read_json_lines(self.events_file)

    def spent(self) -> float:
        """Seconds of the race at its last report, without those in which it was cut off."""
        return max((float(one.get("elapsed", 0.0)) for one in self.events()), default=0.0)

    def write_worker(self, pid: int, started: float) -> None:
        self.report({"event": "start", "pid": pid, "process_started": started, "boot": boot_id()})

    def worker(self) -> tuple[int, float] | None:
        """Of the last start: a race that was cut off may have been started again."""
        starts = [event for event in self.events() if event.get("event") in ("start", "again")]
        return worker_of(starts[-1]) if starts else None

    def write_result(self, result: RaceResult) -> None:
        """Writes the result unless one exists."""
        if not self.result_file.exists():
            write_atomically(self.result_file, _RESULT.dump_json(result, indent=2))

    def end(self, status: FinalStatus, reason: str = "") -> None:
        self.write_result(RaceResult(status, reason))

    def result(self) -> RaceResult | None:
        return read_record(_RESULT, self.result_file)

    def ask_again(self) -> None:
        """Puts a race that was cut off, or was stopped, back to where a process may take it up.

        Raises `FtlabError` if it is open or done.
        """
        status = self.status()
        if status not in ("interrupted", "cancelled", "failed"):
            raise FtlabError(
                f"The race {self.race_id} is {status}; only one that ended early can go on."
            )
        result = self.result()
        took = {} if result is None or not result.seconds else {"elapsed": result.seconds}
        self.report({"event": "again", **took})  # whose line names no process
        self.cancel_file.unlink(missing_ok=True)
        self.request_file.touch()  # so that it is queued until its process begins
        self.result_file.unlink(missing_ok=True)


def races_folder(runs_folder: Path) -> Path:
    return control_folder(runs_folder) / "races"


def new_race(runs_folder: Path) -> RaceDirectory:
    """Returns a directory with a new id, which sorts by time; writes nothing."""
    return RaceDirectory(races_folder(runs_folder.resolve()) / new_job_id())


def list_races(runs_folder: Path) -> list[RaceDirectory]:
    """Returns all races of the folder that the person who asks sees, newest first."""
    paths = job_folders(races_folder(runs_folder.resolve()), "race.json")
    return seen_jobs(map(RaceDirectory, paths))


def find_race(runs_folder: Path, race_id: str) -> RaceDirectory:
    """Returns the race with that id; raises `FtlabError` with those that there are."""
    known = list_races(runs_folder)
    for race in known:
        if race.race_id == race_id:
            return race
    there = ", ".join(race.race_id for race in known[:5]) or "none"
    raise FtlabError(f"There is no race '{race_id[:80]}' in '{runs_folder}'; races: {there}.")
