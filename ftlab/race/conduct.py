"""How a race goes: rungs of successive halving, then the last few over seeds on the test split.

Nothing here knows whether runs are real or replayed (`ftlab.race.runner.Runner`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ftlab.basics.units import format_seconds
from ftlab.methods.variant import Variant
from ftlab.race.record import RaceRequest
from ftlab.race.runner import Reading, Runner
from ftlab.records.differences import FEWEST_EXAMPLES, paired_interval
from ftlab.records.recommendation import Preference

SHARES = (0.35, 0.55)
"""The shares of the time after which the first rung and the second are over."""

REDUCTION = 3
"""One in so many candidates goes on from a rung, and for so many times the steps."""

FEWEST_HALVED = 2 * REDUCTION
"""Of fewer candidates a third is one, with which nothing could be compared: all go on."""

FEWEST_FINALISTS, MOST_FINALISTS = 2, 4

EQUAL = 0.05
"""Unless the score is preferred, losses within this share of what the best has gained over the
untouched model count as equal, and the cheaper goes on."""

COSTS: Mapping[Preference, str] = {
    "memory": "net_peak_bytes", "time": "step_seconds", "file": "trainable",
}  # fmt: skip


def rungs(steps: int) -> tuple[int, ...]:
    """The steps at which candidates are compared, for final runs of `steps` steps.

    They start at a sixth of them, and end at half.
    """
    first = max(1, steps // (2 * REDUCTION))
    return (first, REDUCTION * first) if REDUCTION * first <= steps else (first,)


Report = Callable[[dict[str, Any]], None]


class Decider(Protocol):
    """Successive halving (`ftlab.race.halving.Halving`)."""

    def decide(self, step: int, values: Mapping[int, float | None]) -> list[int]: ...

    def finish(self, values: Mapping[int, float]) -> None: ...


@dataclass
class Conductor:
    """Runs a race until its end, or until its time is over, and holds what there is meanwhile.

    `readings` are those of the last rung that a candidate reached, by candidate; `tried` reached
    the first rung; `finalists` are in their order.
    """

    request: RaceRequest
    rungs: Sequence[int]
    runner: Runner
    halving: Decider
    report: Report
    readings: dict[int, Reading] = field(default_factory=dict)
    tried: int = 0
    finalists: tuple[int, ...] = ()
    _gone: set[int] = field(default_factory=set)
    _base_is_said: bool = False

    @property
    def variants(self) -> Sequence[Variant]:
        return self.request.request.variants

    def run(self) -> None:
        """Raises what the runner raises, as when somebody stops it."""
        step = self.rungs[0]
        self._first_rung(step)
        going = ranked(self._values())
        for place, following in enumerate(self.rungs[1:], 1):
            if len(going) >= FEWEST_HALVED:
                going = self.halving.decide(step, self._values())
            self._say_who_left(step, going)
            reached = self._train_further(going, following, self._until(place))
            going = ranked(self._values())
            if not reached:
                break  # the rung before decides, among all that did not diverge
            step = following
        self.finalists = self._choose_finalists(going)
        self._say_who_left(step, self.finalists)
        self._score()
        values = self._values()
        self.halving.finish({
            one: value for one in self.finalists if (value := values[one]) is not None
        })  # fmt: skip

    def _until(self, place: int) -> float:
        """When the rung is over, in seconds of the race; the last leaves time for the end."""
        share = SHARES[-1] if place == len(self.rungs) - 1 else SHARES[place]
        return share * self.request.seconds

    def _first_rung(self, step: int) -> None:
        """The methods at their defaults, then the neighbours of those that did best.

        Last come those of a method that diverged: a lower rate may do.
        """
        every, until = range(len(self.variants)), self._until(0)
        self.report({"event": "rung", "step": step, "candidates": len(every)})
        self._take(self.runner.train(self.request.defaults, step, until), step, self.readings)
        places: dict[str, int] = {}
        for rank, candidate in enumerate(ranked(self._losses())):
            places.setdefault(self.variants[candidate].method, rank)
        measured = {self.variants[one].method for one in self.readings}
        others = [
            one
            for one in every
            if one not in self.request.defaults and self.variants[one].method in measured
        ]
        others.sort(key=lambda one: places.get(self.variants[one].method, len(places)))
        self._take(self.runner.train(others, step, until), step, self.readings)
        self._say_no_time(step, [one for one in every if one not in self.readings])

    def _train_further(self, going: Sequence[int], step: int, until: float) -> bool:
        """Trains those that go on; whether one of them reached the step."""
        self.report({"event": "rung", "step": step, "candidates": len(going)})
        further: dict[int, Reading] = {}
        self._take(self.runner.train(going, step, until), step, further)
        self._say_no_time(step, [one for one in going if one not in further])
        if not any(reading.loss is not None for reading in further.values()):
            for candidate, reading in further.items():
                self._gone.add(candidate)
                self._say_left(candidate, reading.reason or "it has no loss")
                del self.readings[candidate]
            return False
        self.readings = further
        return True

    def _take(self, found: Iterable[Reading], step: int, into: dict[int, Reading]) -> None:
        for reading in found:
            into[reading.candidate] = reading
            self._say_base()
            self.tried += step == self.rungs[0] and reading.loss is not None
            if not reading.is_kept:
                label, elapsed = self.request.label(reading.candidate), self.runner.elapsed
                event = {"label": label, "elapsed": round(elapsed, 1)}
                self.report(reading.event(step) | event)

    def _losses(self) -> dict[int, float | None]:
        return {one: reading.loss for one, reading in self.readings.items()}

    def _values(self) -> dict[int, float | None]:
        return compared_values(self.readings, self.request.settings.prefer, self.runner.base_loss)

    def _choose_finalists(self, going: Sequence[int]) -> tuple[int, ...]:
        """The best of each method, in order: two, and those that are not shown to be worse.

        If one method alone went on, the second is its next best candidate.
        """
        found: dict[str, int] = {}
        for candidate in going:
            found.setdefault(self.variants[candidate].method, candidate)
        best = list(found.values())
        if len(best) < FEWEST_FINALISTS:
            return tuple(going[:FEWEST_FINALISTS])
        chosen: list[int] = []
        for candidate in best:
            is_worse = shown_behind(self.readings[candidate], self.readings[going[0]])
            if len(chosen) < FEWEST_FINALISTS or not is_worse:
                chosen.append(candidate)
        return tuple(chosen[:MOST_FINALISTS])

    def _score(self) -> None:
        """Trains the finalists seed by seed, as long as there is time for the next seed."""
        seeds, seconds, took = self.request.request.seeds, self.request.seconds, 0.0
        for seed in seeds if self.finalists else ():
            left = seconds - self.runner.elapsed
            if left <= 0 or left < took:
                words = f"no time for seed {seed}: {format_seconds(max(0.0, left))} are left"
                last = f", and the seed before took {format_seconds(took)}" if took else ""
                self.report({"event": "note", "sentence": f"There is {words}{last}."})
                return
            labels = [self.request.label(one) for one in self.finalists]
            self.report({"event": "final", "seed": seed, "finalists": labels})
            began = self.runner.elapsed
            if not self.runner.score(self.finalists, seed, seconds):
                return
            took = self.runner.elapsed - began

    def _say_base(self) -> None:
        if not self._base_is_said and self.runner.base_loss is not None:
            self._base_is_said = True
            self.report({"event": "base", "loss": self.runner.base_loss})

    def _say_no_time(self, step: int, candidates: Sequence[int]) -> None:
        if candidates:
            labels = [self.request.label(one) for one in candidates]
            self.report({"event": "no_time", "step": step, "labels": labels})

    def _say_who_left(self, step: int, going: Sequence[int]) -> None:
        best = self.readings[going[0]] if going else None
        for candidate, reading in self.readings.items():
            if candidate in going or candidate in self._gone:
                continue
            self._gone.add(candidate)
            self.runner.leave(candidate)
            if reading.loss is None or best is None:
                self._say_left(candidate, reading.reason or "it has no loss")
            else:
                name = self.request.label(best.candidate)
                self._say_left(candidate, behind(reading, best, step, name))

    def _say_left(self, candidate: int, reason: str) -> None:
        label = self.request.label(candidate)
        self.report({"event": "left", "label": label, "reason": reason})


def ranked(values: Mapping[int, float | None]) -> list[int]:
    """The candidates that have a value, the lowest first."""
    known = {one: value for one, value in values.items() if value is not None}
    return sorted(known, key=known.__getitem__)


def compared_values(
    readings: Mapping[int, Reading], prefer: Preference, base_loss: float | None
) -> dict[int, float | None]:
    """What the halving compares, less is better; `None` for a candidate without a loss.

    The loss, where the score is preferred or a cost is not known, as it was measured on another
    machine; else losses in groups of `EQUAL`, and in each group the cheaper first.
    """
    losses = {one: reading.loss for one, reading in readings.items()}
    known = {one: loss for one, loss in losses.items() if loss is not None}
    if prefer == "score" or any(COSTS[prefer] not in readings[one].costs for one in known):
        return losses
    best = min(known.values(), default=0.0)
    untouched = base_loss if base_loss is not None else max(known.values(), default=0.0)
    gained = untouched - best
    if gained <= 0:
        return losses
    costs = {one: readings[one].costs[COSTS[prefer]] for one in known}
    by_cost = sorted(known, key=lambda one: (costs[one], known[one]))
    groups = {one: math.floor((loss - best) / (EQUAL * gained)) for one, loss in known.items()}
    of_cost = {one: rank / len(known) for rank, one in enumerate(by_cost)}
    return {one: groups[one] + of_cost[one] if one in known else None for one in readings}


def behind(reading: Reading, best: Reading, step: int, name: str) -> str:
    """As in "loss 0.610 after step 5, 0.100 (0.040 to 0.160) behind LoRA"."""
    assert reading.loss is not None
    said = f"loss {reading.loss:.3f} after step {step}"
    interval = _distance(reading, best)
    if interval is None:
        return said
    mean, low, high = interval
    shown = "" if low > 0 else ", not shown to be worse"
    return f"{said}, {mean:.3f} ({low:.3f} to {high:.3f}) behind {name}{shown}"


def shown_behind(reading: Reading, best: Reading) -> bool:
    """Whether its loss is shown to be higher, by a 95 % interval paired over the examples."""
    interval = _distance(reading, best)
    return interval is not None and interval[1] > 0


def _distance(reading: Reading, best: Reading) -> tuple[float, float, float] | None:
    """Mean, low and high of how much higher its loss is; `None` with too few examples."""
    if len(reading.losses) != len(best.losses) or len(best.losses) < FEWEST_EXAMPLES:
        return None
    return paired_interval(best.losses, reading.losses, weights=best.tokens)
