"""The process that conducts one race.

Run as: python -m ftlab.race.worker RACE_DIR

It queues the runs and decides by what they measured; it imports no torch and uses no device. All it
knows is in the race's folder and in its runs, so that another process goes on where it was cut off.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from pathlib import Path

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.people import Person, asked_by
from ftlab.race.answer import Took, answer
from ftlab.race.conduct import Conductor, rungs
from ftlab.race.ground import check_ground, ground_of, measured_on
from ftlab.race.halving import Halving
from ftlab.race.record import RaceDirectory, RaceResult
from ftlab.race.runner import QueuedRunner, StoppedError
from ftlab.records.job import CANCELLED
from ftlab.records.result import FinalStatus
from ftlab.records.store import RunStore


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
    runner = QueuedRunner(race, request, steps, race.spent(), measured_on(ground, events))
    halving = Halving(race.journal_file, steps[0])
    conductor = Conductor(request, steps, runner, halving, race.report)
    try:
        conductor.run()
    except StoppedError:
        status, reason = "cancelled", CANCELLED
    except Exception as error:
        traceback.print_exc()
        status, reason = "failed", f"The race could not go on: {one_line(error)[:200]}"
    if status != "done":
        with suppress(FtlabError):  # the answer comes in any case
            runner.end_all()
    took = Took(runner.trials, runner.finals, runner.elapsed)
    return answer(conductor, took, RunStore(race.runs_folder), status, reason)


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
    with asked_by(Person(race.owner)):  # who thus owns its runs
        result = run_race(race)
    race.write_result(result)
    return 0 if result.status == "done" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
