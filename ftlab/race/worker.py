"""The process that conducts one race.

Run as: python -m ftlab.race.worker RACE_DIR

It queues the runs and decides by what they measured; it imports no torch and uses no device. All it
knows is in the race's folder and in its runs, so that another process goes on where it was cut off.
"""

from __future__ import annotations

import importlib.metadata
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ftlab.basics.devices import cpu_count, resolve_device
from ftlab.basics.errors import FtlabError, one_line
from ftlab.jobs.inputs import load_data
from ftlab.race.answer import Took, answer
from ftlab.race.conduct import Conductor, rungs
from ftlab.race.halving import Halving
from ftlab.race.record import RaceDirectory, RaceResult
from ftlab.race.runner import QueuedRunner, StoppedError
from ftlab.records.job import CANCELLED
from ftlab.records.result import FinalStatus
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore

_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")


def run_race(race: RaceDirectory) -> RaceResult:
    """Conducts the race; errors and a stop are returned as its result."""
    request = race.request()
    steps = rungs(request.request.settings.steps)
    status: FinalStatus = "done"
    reason = ""
    events = race.events()
    try:
        ground = ground_of(request.request)
        check_ground(ground, events)
        race.report({"event": "ground", **ground})
    except FtlabError as error:
        return RaceResult("failed", str(error))
    seconds = max((event.get("elapsed", 0.0) for event in events), default=0.0)
    runner = QueuedRunner(race, request, steps, seconds, measured_on(ground, events))
    halving = Halving(race.journal_file, len(request.request.variants), steps[0])
    conductor = Conductor(request, steps, runner, halving, race.report)
    try:
        conductor.run()
    except StoppedError:
        runner.end_all()
        status, reason = "cancelled", CANCELLED
    except Exception as error:
        traceback.print_exc()
        runner.end_all()
        status, reason = "failed", f"The race could not go on: {one_line(error)[:200]}"
    took = Took(runner.trials, runner.finals, runner.elapsed)
    return answer(conductor, took, RunStore(race.runs_folder), status, reason)


Ground = Mapping[str, Any]
"""What a race stands on: `same` must not change when it goes on, and costs belong to `machine`."""


def ground_of(request: SweepRequest) -> Ground:
    """Raises `FtlabError` if the data cannot be read."""
    _, _, data = load_data(request.task)
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {
        "same": {"data": data.fingerprint(request.settings.eval_examples), **versions},
        "machine": f"{resolve_device(request.device).label}, {cpu_count()} cores",
    }


def check_ground(ground: Ground, events: Sequence[Mapping[str, Any]]) -> None:
    """Raises `FtlabError` if the race was begun with other data or versions: checkpoints and losses
    would not belong together."""
    begun = next((event["same"] for event in events if event.get("event") == "ground"), None)
    if begun is None:
        return
    changed = [
        f"{name} was {begun.get(name)}, and is {value}"
        for name, value in ground["same"].items()
        if begun.get(name) != value
    ]
    if changed:
        raise FtlabError(
            f"The race cannot go on: {'; '.join(changed)}. Begin a new race, or put back what was."
        )


def measured_on(ground: Ground, events: Sequence[Mapping[str, Any]]) -> set[str]:
    """The ids of runs that were queued on this machine: their costs can be compared."""
    found, machine = set[str](), ""
    for event in events:
        if event.get("event") == "ground":
            machine = event["machine"]
        elif event.get("event") == "queued" and machine == ground["machine"]:
            found.update(event["runs"])
    return found


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m ftlab.race.worker RACE_DIR", file=sys.stderr)
        return 2
    race = RaceDirectory(Path(arguments[0]).resolve())
    try:
        race.request()
        if not race.begin():
            raise FtlabError(f"The race {race.race_id} was started before.")
    except FtlabError as error:
        print(f"ftlab: {error}", file=sys.stderr)
        return 2
    result = run_race(race)
    race.write_result(result)
    return 0 if result.status == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
