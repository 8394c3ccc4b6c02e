"""What a race answers, from what there is: a recommendation, or how far the race got."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ftlab.basics.units import format_number
from ftlab.basics.words import plural
from ftlab.race.conduct import Conductor, ranked
from ftlab.race.record import RaceRequest, RaceResult
from ftlab.records.differences import FEWEST_EXAMPLES
from ftlab.records.recommendation import Recommendation, recommend
from ftlab.records.result import OPEN, FinalStatus
from ftlab.records.store import RunStore, sweep_data


@dataclass(frozen=True)
class Took:
    """The sweeps of a race, "" for one that there is not, and its seconds."""

    trials: str
    finals: str
    seconds: float


def answer(
    race: Conductor,
    took: Took,
    store: RunStore,
    status: FinalStatus = "done",
    reason: str = "",
) -> RaceResult:
    """The answer of a race that ended, or was stopped."""
    request = race.request
    found = _recommended(request, took.finals, store)
    looked = _looked(race)
    sentence = _unscored(race, took.finals, store, status) if found is None else found.sentence
    details = () if found is None else (*found.details, found.basis)
    return RaceResult(
        status=status,
        reason=reason,
        sentence=sentence,
        details=tuple(filter(None, (*details, looked, _doubt(race)))),
        trials=took.trials,
        finals=took.finals,
        candidates=len(race.variants),
        tried=race.tried,
        seconds=round(took.seconds, 1),
        recommendation=None if found is None else asdict(found),
    )


def _recommended(request: RaceRequest, finals: str, store: RunStore) -> Recommendation | None:
    """`None` if nothing was scored on the test examples."""
    if not finals:
        return None
    table = sweep_data(store, finals).table
    if not (table["status"] == "done").any():
        return None
    return recommend(table, request.settings.prefer)


def _unscored(race: Conductor, finals: str, store: RunStore, status: FinalStatus) -> str:
    request = race.request
    order = ranked({one: reading.loss for one, reading in race.readings.items()})
    if not order:
        reasons = list(dict.fromkeys(r.reason for r in race.readings.values() if r.reason))
        why = f" {' '.join(reasons[:3])}" if reasons else " Give it more minutes or fewer steps."
        minutes = format_number(request.settings.minutes, 2)
        return f"No candidate was trained and measured within {minutes} minutes.{why}"
    best = race.readings[order[0]]
    assert best.loss is not None
    reasons = _reasons_of(finals, store)
    if status != "done":
        why = "the race ended before a model was scored on the test examples."
    elif reasons:
        why = f"no model could be scored on the test examples. {' '.join(reasons)}"
    else:
        why = "there was no time to score on the test examples."
    return (
        f"Nothing is recommended: {why} "
        f"{request.label(order[0])} has the lowest loss on the tuning examples so far, "
        f"{best.loss:.3f}."
    )


def _reasons_of(finals: str, store: RunStore) -> list[str]:
    """Why the last runs ended by themselves without a score, each reason once."""
    runs = store.sweep(finals) if finals else []
    failed = [run for run in runs if run.status not in (*OPEN, "done", "cancelled")]
    return list(dict.fromkeys(run.reason for run in failed))[:2]


def _looked(race: Conductor) -> str:
    methods = len({variant.method for variant in race.variants})
    return (
        f"{race.tried} of {plural(len(race.variants), 'candidate')} "
        f"({plural(methods, 'method')} at neighbouring rates and sizes) were compared on the "
        "tuning examples; none was chosen by the test examples."
    )


def _doubt(race: Conductor) -> str:
    """A sentence if so few tuning examples decided that it was nearly chance; else ""."""
    counts = {len(reading.losses) for reading in race.readings.values() if reading.losses}
    if not counts or max(counts) >= FEWEST_EXAMPLES:
        return ""
    return (
        f"There are {plural(max(counts), 'tuning example')}, so who went on was nearly chance; "
        f"{FEWEST_EXAMPLES} or more tell candidates apart."
    )
