"""While runs are watched: they are predicted beside them, and their times are said and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Event, Thread

from rich.console import Console

from ftlab.basics.cards import card_of
from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.units import format_seconds
from ftlab.commands.waiting import say
from ftlab.jobs.inputs import formatter_of
from ftlab.jobs.sweep_costs import Costing, costing, keep_expected, times_of
from ftlab.methods.variant import Variant
from ftlab.prediction.client import NobodyWaits, Predictor
from ftlab.prediction.duration import rates_of
from ftlab.prediction.question import Prediction, Question
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import Run, RunStore

_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_OF_A_DAY = 86_400


@contextmanager
def predicted_meanwhile(
    request: SweepRequest, specs: Sequence[RunSpec], store: RunStore, console: Console
) -> Iterator[None]:
    """Predicts the queued runs in a thread, until the block ends. `specs` are those of the request.

    A run whose prediction is there need not make it at its end, which takes seconds. The predictor
    uses spare cores, and rests in the first minute of timed steps. Once all is predicted and the
    speed of the device is known, the time of these runs is printed, and that of each kept beside
    it. Raises nothing: the runs need none of it.
    """
    sweep = _Sweep(request, specs, store, console)
    with Predictor() as predictor:
        thread = Thread(target=sweep.predict, args=(predictor,), daemon=True)
        try:
            thread.start()
            yield
        finally:
            sweep.over.set()
            thread.join()


def said_beforehand(requests: Sequence[SweepRequest], store: RunStore) -> str:
    """How long the sweeps of these requests take together, in a sentence, before they are queued.

    Each kind of run is predicted first, in some seconds, if it was not before.
    """
    seconds = seconds_beforehand(requests, store)
    if seconds is None:
        return "How long this takes is known once a run has measured the speed of this machine."
    return sentence_from(time.time(), seconds)


def seconds_beforehand(
    requests: Sequence[SweepRequest],
    store: RunStore,
    by_sheet: bool = False,
    has_left: Callable[[], bool] = lambda: False,
) -> float | None:
    """As `said_beforehand`, in seconds; `None` if it is not known, or nobody waits for it.

    `by_sheet`: a card without measured rates has those of its data sheet.
    """
    total = 0.0
    with Predictor() as predictor:
        for request in requests:
            asked = costing(request)
            kinds: list[tuple[Variant, Prediction]] = []  # a rate changes no cost
            found: dict[int, Prediction] = {}
            for place, (variant, question) in enumerate(
                zip(asked.variants, asked.questions, strict=True)
            ):
                kind = replace(variant, learning_rate=None)
                known = next((one for bare, one in kinds if bare == kind), None)
                if known is None:
                    try:
                        ((_, known),) = predictor.ask([question], has_left=has_left)
                    except FtlabError:
                        return None
                    kinds.append((kind, known))
                found[place] = known
            times = times_of(asked, store.runs())
            if by_sheet and times.rates is None:
                times = replace(times, rates=rates_of(card_of(asked.device)))
            estimate = times.sweep(found)
            if estimate is None:
                return None
            total += estimate.seconds
    return total


class _Sweep:
    """The sweep beside which its time is found."""

    def __init__(
        self, request: SweepRequest, specs: Sequence[RunSpec], store: RunStore, console: Console
    ) -> None:
        variants: list[Variant] = []
        for spec in specs:  # PEFT may have put a PeftConfig in its own words
            if spec.variant is not None and spec.variant not in variants:
                variants.append(spec.variant)
        self.over = Event()
        self._request = replace(request, variants=tuple(variants))
        self._specs, self._store, self._console = specs, store, console

    def predict(self, predictor: Predictor) -> None:
        """Predicts each run in turn, and says and keeps the times as soon as they are known."""
        try:
            if formatter_of(self._request.model) is None:
                return  # the model is not here: how long the examples are is not known yet
            asked = costing(self._request)
            found = self._answers(predictor, asked.questions)
            is_said = self._say(asked, found)
            for seed in self._request.seeds:  # each has a longest batch of its own
                of_seed = replace(self._request, seeds=(seed,))
                self._answers(predictor, costing(of_seed).questions)
            while not is_said and not self.over.wait(_SECONDS_BETWEEN_LOOKS):
                is_said = self._say(asked, found)
        except NobodyWaits:
            return
        except Exception as error:  # the runs need no prediction
            say(f"The time of the sweep is not predicted: {one_line(error)}")

    def _answers(
        self, predictor: Predictor, questions: Sequence[Question]
    ) -> dict[int, Prediction]:
        """The answers by place; one that takes too much memory or time is left out."""
        found: dict[int, Prediction] = {}
        for place, question in enumerate(questions):
            try:
                for _, answer in predictor.ask([question], has_left=self.over.is_set):
                    found[place] = answer
            except NobodyWaits:
                raise
            except FtlabError:
                continue
        return found

    def _say(self, asked: Costing, found: Mapping[int, Prediction]) -> bool:
        """Says and keeps the times; whether the speed of the device is known, which a run measures.

        A base that was queued with them is not among those that were measured before.
        """
        own = {spec.run_id for spec in self._specs}
        earlier = [
            run for run in self._store.runs() if not (run.spec.is_base and run.spec.run_id in own)
        ]
        times = times_of(asked, earlier)
        if times.rates is None:
            return False
        with suppress(OSError):  # the disk is full, or somebody deleted a run
            keep_expected(times, found, self._specs, self._store.folder)
        whole = times.runs(self._specs, found)
        if whole is not None and not self.over.is_set():
            words = sentence(whole.seconds, self._specs, self._store.runs())
            self._console.print(words, markup=False, highlight=False)
        return True


def sentence(seconds: float, specs: Sequence[RunSpec], runs: Sequence[Run]) -> str:
    """How long these runs take; until when, if nothing else has to be done on their device first.

    `runs` are all of the folder.
    """
    own = {spec.run_id for spec in specs}
    starts = [
        events[0]["at"]
        for run in runs
        if run.spec.run_id in own and (events := run.directory.metrics())
    ]
    if starts:
        return sentence_from(min(starts), seconds)
    return sentence_from(specs[0].created_at if is_next(specs[0], own, runs) else None, seconds)


def sentence_from(begin: float | None, seconds: float) -> str:
    """How long runs take that begin at this Unix time; `None` if others come before them."""
    took = f"This takes about {format_seconds(seconds)}"
    if begin is None:
        return f"{took}, after what its device has to do before."
    day = "%d %B, " if seconds > _SECONDS_OF_A_DAY else ""
    return f"{took}, until {time.strftime(f'{day}%H:%M', time.localtime(begin + seconds))}."


def is_next(first: RunSpec, own: Collection[str], runs: Sequence[Run]) -> bool:
    """Whether a queued run is the next on all its devices: no other run than those in `own` has one
    of them, or is queued before it."""
    return all(
        set(first.may_use).isdisjoint(
            [run.spec.device] if run.status == "running" else run.spec.may_use
        )
        for run in runs
        if run.is_open and run.spec.run_id not in own
        if run.status == "running" or run.spec.created_at < first.created_at
    )
