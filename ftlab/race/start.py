"""Plans a race and starts its process; used by the command line and the page. No Optuna."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ftlab.basics.devices import resolve_device
from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.basics.locks import FileLock, holding
from ftlab.basics.people import OPERATOR, asked_by, asking
from ftlab.basics.processes import python_environment, start_detached
from ftlab.jobs.launch import checked, errors_in_file, least, operator_limit, room_for
from ftlab.jobs.launchers.launcher import launcher_environment
from ftlab.models.reference import names_hub_model
from ftlab.prediction.client import Predictor
from ftlab.race.candidates import LeftOut, all_candidates, that_apply, that_fit
from ftlab.race.ground import check_ground, ground_of
from ftlab.race.record import (
    RaceDirectory,
    RaceRequest,
    RaceSettings,
    list_races,
    new_race,
    races_folder,
)
from ftlab.records.result import OPEN
from ftlab.records.run import check_writable
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.schema import errors_in

WORKER = "ftlab.race.worker"

MOST_MINUTES = 240
"""Of a race that somebody starts who is neither the operator nor an admin."""

_PLANNING = 0.1
"""Most of a race's time for predictions; a method without one is taken to fit."""


def plan_race(
    request: SweepRequest,
    settings: RaceSettings,
    store: RunStore,
    say: Callable[[str], None] = lambda sentence: None,
) -> tuple[RaceRequest, list[LeftOut]]:
    """The race of the request's methods, and those that take no part.

    On a GPU or with a memory limit, what is predicted to need more is left out; a prediction takes
    seconds unless it is kept. Raises `InvalidRequest` for wrong settings, and if nothing is left.
    """
    errors = [*errors_in(settings), *errors_in(request), *errors_in(request.settings)]
    if errors:
        raise InvalidRequest(errors)
    request = replace(request, memory_limit=least(request.memory_limit, operator_limit()))
    methods, left_out = that_apply(request)
    if methods and (request.memory_limit is not None or resolve_device(request.device).is_gpu):
        say(f"predicting the memory of {len(methods)} methods …")
        until = time.monotonic() + _PLANNING * 60 * settings.minutes
        with Predictor() as predictor:
            methods, too_large = that_fit(
                replace(request, variants=tuple(methods)), predictor, store.runs(),
                lambda: time.monotonic() > until,
            )  # fmt: skip
        left_out += too_large
    if not methods:
        why = "; ".join(f"{one.variant.label}: {one.reason}" for one in left_out[:5])
        raise InvalidRequest([
            FieldError("variants", f"No method is left to race. {why or 'Name at least one.'}")
        ])  # fmt: skip
    variants, defaults = all_candidates(methods, request.model)
    valid = checked(replace(request, variants=tuple(variants)))
    wrong = errors_in_file(valid.task)
    if wrong:
        raise InvalidRequest(wrong)
    return RaceRequest(valid, settings, defaults), left_out


def begin_race(
    request: SweepRequest,
    settings: RaceSettings,
    store: RunStore,
    say: Callable[[str], None] = lambda sentence: None,
) -> RaceDirectory:
    """Plans a race and starts it; raises as `plan_race` and `start_race` do."""
    began = time.monotonic()
    planned, left_out = plan_race(request, settings, store, say)
    return start_race(planned, left_out, store.folder, time.monotonic() - began)


def start_race(
    request: RaceRequest,
    left_out: Sequence[LeftOut],
    folder: Path,
    planned_seconds: float = 0.0,
) -> RaceDirectory:
    """Starts a detached process that conducts the race; it outlives the page and the app.

    What its planning took is of its time. Raises `FtlabError` if another race is under way, the
    person's queue is full, or the folder cannot be written.
    """
    check_writable(folder)
    _check_length(request.settings.minutes)
    race = new_race(folder)
    try:
        with holding(_lock(folder)), room_for(1, folder):
            _check_alone(folder)
            race.write_request(replace(request, owner=asking().name))
            race.report({"event": "planned", "elapsed": round(planned_seconds, 1)})
            for one in left_out:
                race.report({"event": "left", "label": one.variant.label, "reason": one.reason})
            _start(race, request)
    except OSError as error:
        shutil.rmtree(race.path, ignore_errors=True)
        raise _not_started(folder, error) from None
    return race


def resume_race(race: RaceDirectory) -> None:
    """Has a race that was cut off or stopped go on; until then its answer stays.

    Raises `FtlabError` if it is somebody else's, open or done, another one is open, its data or the
    versions of the libraries are others than those it began with, or the folder cannot be written.
    """
    check_writable(race.runs_folder)
    request = race.request()
    asking().check_change(request.owner, f"The race {race.race_id}")
    check_ground(ground_of(request.request), race.events())
    with holding(_lock(race.runs_folder)):
        _check_alone(race.runs_folder, race)
        race.ask_again()
        try:
            _start(race, request)
        except OSError as error:
            raise _not_started(race.runs_folder, error) from None


def _check_length(minutes: float) -> None:
    """One race runs at a time, so where people log in none is longer than `MOST_MINUTES`."""
    if asking().most_queued is not None and minutes > MOST_MINUTES:
        raise FtlabError(
            f"The race of {minutes:g} minutes would keep others from racing; here one may take "
            f"{MOST_MINUTES} at most, or an admin starts it."
        )


def _lock(runs_folder: Path) -> FileLock:
    """Held while a race is started: two at once would take each other's time."""
    return FileLock(races_folder(runs_folder.resolve()) / "lock")


def _check_alone(runs_folder: Path, own: RaceDirectory | None = None) -> None:
    with asked_by(OPERATOR):  # one of somebody else takes the device as well
        others = list_races(runs_folder)
    for other in others:
        if other != own and other.status() in OPEN:
            if not asking().may_change(other.owner):
                raise FtlabError("A race of somebody else is under way; start yours after it.")
            raise FtlabError(
                f"The race {other.race_id} is under way; stop it first, or wait for its answer."
            )


def _not_started(folder: Path, error: OSError) -> FtlabError:
    return FtlabError(
        f"The race could not be started in '{folder}' ({error.strerror}); free some space, or make "
        "the folder writable."
    )


def _start(race: RaceDirectory, request: RaceRequest) -> None:
    environment = python_environment(names_hub_model(request.request.model))
    environment |= launcher_environment()
    start_detached(WORKER, race.log_file, environment, str(race.path))
