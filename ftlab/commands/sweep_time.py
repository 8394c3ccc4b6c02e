"""While a sweep runs: its runs are predicted beside it, and their times are said and kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from threading import Event, Thread

from rich.console import Console

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.units import format_seconds
from ftlab.commands.waiting import say
from ftlab.jobs.sweep_costs import Costing, costing, keep_expected, times_of
from ftlab.prediction.client import Predictor
from ftlab.prediction.question import Prediction, own
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import RunStore

_SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def predicted_meanwhile(
    request: SweepRequest, specs: Sequence[RunSpec], store: RunStore, console: Console
) -> Iterator[None]:
    """Predicts the queued runs of the request in a thread, until the block ends.

    A run whose prediction is there need not make it at its end, which takes seconds. The predictor
    uses spare cores, and rests beside timed steps. Once all is predicted and the speed of the
    device is known, the time of the sweep is printed, and that of each run kept beside it.
    Raises nothing: the runs need none of it.
    """
    over = Event()
    with Predictor(limits_of=own) as predictor:
        thread = Thread(target=_predict, args=(request, specs, store, console, predictor, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _predict(
    request: SweepRequest,
    specs: Sequence[RunSpec],
    store: RunStore,
    console: Console,
    predictor: Predictor,
    over: Event,
) -> None:
    try:
        asked = costing(request)
        if not asked.longest.is_known:
            return  # the longest batch of the run will be another one
        found = dict(predictor.ask(asked.questions, has_left=over.is_set))
        is_said = _say(asked, found, specs, store, console)
        for seed in request.seeds:  # each has a longest batch of its own
            seeds_own = costing(replace(request, seeds=(seed,))).questions
            for _ in predictor.ask(seeds_own, has_left=over.is_set):
                pass
        while not is_said and not over.wait(_SECONDS_BETWEEN_LOOKS):
            is_said = _say(asked, found, specs, store, console)
    except FtlabError:  # the sweep is over, or its runs cannot be predicted
        return
    except Exception as error:  # the runs need no prediction
        say(f"The time of the sweep is not predicted: {one_line(error)}")


def _say(
    asked: Costing,
    found: Mapping[int, Prediction],
    specs: Sequence[RunSpec],
    store: RunStore,
    console: Console,
) -> bool:
    """Says and keeps the times; whether the speed of the device is known, which a run measures."""
    times = times_of(asked, store)
    if times.rates is None:
        return False
    keep_expected(times, found, specs, store.folder)
    whole = times.sweep(found)
    if whole is not None:
        console.print(_sentence(whole.seconds, specs, store), markup=False, highlight=False)
    return True


def _sentence(seconds: float, specs: Sequence[RunSpec], store: RunStore) -> str:
    """How long the sweep takes; until when, if its device does nothing before it."""
    took = f"The sweep takes about {format_seconds(seconds)}"
    first = specs[0]
    for run in store.runs():
        if run.spec.sweep_id != first.sweep_id and run.is_open and run.spec.device == first.device:
            return f"{took}, after what its device has to do before."
    return f"{took}, until {time.strftime('%H:%M', time.localtime(first.created_at + seconds))}."
