"""Plans a race and starts its process; used by the command line and the page. No Optuna."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.basics.processes import python_environment, start_detached
from ftlab.jobs.launch import checked, errors_in_file, least, operator_limit
from ftlab.models.reference import names_hub_model
from ftlab.prediction.client import Predictor
from ftlab.race.candidates import LeftOut, all_candidates, that_apply, that_fit
from ftlab.race.record import RaceDirectory, RaceRequest, RaceSettings, new_race
from ftlab.records.run import check_writable
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.schema import errors_in

WORKER = "ftlab.race.worker"


def plan_race(
    request: SweepRequest,
    settings: RaceSettings,
    store: RunStore,
    say: Callable[[str], None] = lambda sentence: None,
) -> tuple[RaceRequest, list[LeftOut]]:
    """The race of the request's methods, and those that take no part.

    With a memory limit, what is predicted to need more is left out; a prediction takes seconds
    unless it is kept. Raises `InvalidRequest` for wrong settings, and `FtlabError` if nothing is
    left.
    """
    errors = [*errors_in(settings), *errors_in(request), *errors_in(request.settings)]
    if errors:
        raise InvalidRequest(errors)
    request = replace(request, memory_limit=least(request.memory_limit, operator_limit()))
    methods, left_out = that_apply(request)
    if methods and request.memory_limit is not None:
        say(f"predicting the memory of {len(methods)} methods …")
        with Predictor() as predictor:
            methods, too_large = that_fit(
                replace(request, variants=tuple(methods)), predictor, store.runs()
            )
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


def start_race(request: RaceRequest, left_out: Sequence[LeftOut], folder: Path) -> RaceDirectory:
    """Starts a detached process that conducts the race; it outlives the page and the app.

    Raises `FtlabError` if the folder cannot be written.
    """
    check_writable(folder)
    race = new_race(folder)
    try:
        race.write_request(request)
        for one in left_out:
            race.report({"event": "left", "label": one.variant.label, "reason": one.reason})
        _start(race, request)
    except OSError as error:
        shutil.rmtree(race.path, ignore_errors=True)
        raise FtlabError(
            f"The race could not be started in '{folder}' ({error.strerror}); free some space, or "
            "make the folder writable."
        ) from None
    return race


def resume_race(race: RaceDirectory) -> None:
    """Has a race that was cut off or stopped go on. Raises `FtlabError` if it is open or done."""
    check_writable(race.runs_folder)
    request = race.request()
    race.ask_again()
    _start(race, request)


def _start(race: RaceDirectory, request: RaceRequest) -> None:
    environment = python_environment(names_hub_model(request.request.model))
    start_detached(WORKER, race.log_file, environment, str(race.path))
