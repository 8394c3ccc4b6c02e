"""Does a race end with a method that the exhaustive sweep does not show to be worse?

Replays races against recorded sweeps (`python -m ftlab.maintain race_sweep`), without training.
Each repetition draws its tuning examples anew from those recorded, and lets every run take up to a
tenth more or less time. A race gets the minutes, or a third of the sweep's time if that is less.

    python -m tests.benchmarks.race --minutes 15 --repetitions 10
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ftlab.basics.units import format_seconds
from ftlab.race.conduct import Conductor, rungs
from ftlab.race.halving import Halving
from ftlab.race.record import RaceRequest, RaceSettings
from ftlab.race.recorded import RecordedReading, Recording, read_recording
from ftlab.race.runner import Reading
from ftlab.records.recommendation import MEASURES
from ftlab.records.seed_variance import seed_variance
from ftlab.records.simultaneous import Simultaneous
from ftlab.records.spec import SweepRequest
from ftlab.settings.training import TrainingSettings

_UNEVEN = 0.1
SHARE = 1 / 3
"""Most of the sweep's time that a race may take."""

RECORDED = sorted((Path(__file__).parent / "recorded_sweeps").glob("*.json"))
"""The sweeps on the bundled tasks."""


@dataclass
class ReplayRunner:
    """A runner whose runs are recorded; `chance` draws the tuning examples and the seconds."""

    recording: Recording
    chance: random.Random
    elapsed: float = 0.0
    scored: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        most = max((len(one.losses) for one in self.recording.readings), default=0)
        self._picks = [self.chance.randrange(most) for _ in range(most)] if most else []
        self._readings = {(one.candidate, one.step): one for one in self.recording.readings}
        self._seconds = {(one.candidate, one.seed): one.seconds for one in self.recording.scores}

    @property
    def base_loss(self) -> float | None:
        return self.recording.base_loss

    def train(self, candidates: Sequence[int], step: int, until: float) -> Iterator[Reading]:
        for candidate in candidates:
            found = self._readings.get((candidate, step))
            if found is None:
                continue
            if not self._pass(found.seconds, until):
                return
            yield self._drawn(found)

    def score(self, candidates: Sequence[int], seed: int, until: float) -> bool:
        for candidate in candidates:
            first = self._seconds.get((candidate, 0), 0.0)
            if not self._pass(self._seconds.get((candidate, seed), first), until):
                return False
            self.scored[candidate] = self.scored.get(candidate, 0) + 1
        return True

    def leave(self, candidate: int) -> None:
        pass

    def _pass(self, seconds: float, until: float) -> bool:
        """Lets the time pass; whether it was enough."""
        took = seconds * self.chance.uniform(1 - _UNEVEN, 1 + _UNEVEN)
        if self.elapsed + took > until:
            self.elapsed = max(self.elapsed, until)
            return False
        self.elapsed += took
        return True

    def _drawn(self, found: RecordedReading) -> Reading:
        if not found.losses:
            return Reading(found.candidate, reason=found.reason or "it has no loss")
        losses = np.array(found.losses)[self._picks]
        tokens = np.array(found.tokens)[self._picks]
        mean = float((losses * tokens).sum() / tokens.sum())
        return Reading(found.candidate, mean, tuple(losses), tuple(tokens), found.costs)


@dataclass(frozen=True)
class Replayed:
    """`pick` is the finalist with the best score, `worse` whether the sweep shows it to be so."""

    pick: str
    worse: bool
    seconds: float
    finalists: tuple[str, ...]


def minutes_for(recording: Recording, most: float = 15.0, share: float = SHARE) -> float:
    """The minutes of a race against that sweep: `most`, or that share of what the sweep took."""
    return min(most, share * recording.seconds / 60)


def replay(recording: Recording, minutes: float, seed: int) -> Replayed:
    """One race of so many minutes; raises `ValueError` if it ends without a finalist."""
    request = RaceRequest(
        SweepRequest(
            variants=recording.variants,
            settings=TrainingSettings(steps=recording.steps),
            seeds=(0, 1, 2),
        ),
        RaceSettings(minutes),
        recording.defaults,
    )
    runner = ReplayRunner(recording, random.Random(seed))
    steps = rungs(recording.steps)
    with tempfile.TemporaryDirectory() as folder:
        halving = Halving(Path(folder) / "journal.log", steps[0])
        race = Conductor(request, steps, runner, halving, lambda event: None)
        race.run()
    scores = scores_of(recording)
    finalists = [one for one in race.finalists if one in scores and one in runner.scored]
    if not finalists:
        raise ValueError(f"{minutes} minutes are too few: no candidate was scored")
    pick = max(finalists, key=lambda one: float(np.mean(list(scores[one].values()))))
    return Replayed(
        recording.variants[pick].label,
        is_shown_worse(scores, pick),
        runner.elapsed,
        tuple(recording.variants[one].label for one in finalists),
    )


def scores_of(recording: Recording) -> dict[int, dict[int, tuple[float, ...]]]:
    """Of each candidate and seed, the score of each example."""
    found: dict[int, dict[int, tuple[float, ...]]] = {}
    for one in recording.scores:
        found.setdefault(one.candidate, {})[one.seed] = one.scores
    return found


def is_shown_worse(scores: dict[int, dict[int, tuple[float, ...]]], pick: int) -> bool:
    """Whether any candidate is shown to score higher, by intervals that hold together."""
    order = list(scores)
    columns = [np.array(list(scores[one].values())) for one in order]
    seeds = [tuple(scores[one]) for one in order]
    of_seeds = seed_variance(columns, seeds, MEASURES[0].of_seeds)
    together = Simultaneous(columns, seeds, of_seeds)
    at = order.index(pick)
    return any(together.difference(it, at).rises for it in range(len(order)) if it != at)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", nargs="*", type=Path, default=RECORDED)
    parser.add_argument("--minutes", type=float, default=15.0, help="at most (%(default)s)")
    parser.add_argument("--share", type=float, default=SHARE, help="at most, of the sweep's time")
    parser.add_argument("--repetitions", type=int, default=10)
    options = parser.parse_args(arguments)
    is_met = True
    for path in options.recordings:
        recording = read_recording(path)
        minutes = minutes_for(recording, options.minutes, options.share)
        try:
            races = [replay(recording, minutes, seed) for seed in range(options.repetitions)]
        except ValueError as error:
            print(f"{recording.task}: {error}")
            is_met = False
            continue
        good = sum(not race.worse for race in races)
        share = max(race.seconds for race in races) / recording.seconds
        picks = ", ".join(sorted({race.pick for race in races}))
        print(
            f"{recording.task}: {good} of {len(races)} races of {format_seconds(60 * minutes)} end "
            f"with a method that the sweep of {format_seconds(recording.seconds)} does not show to "
            f"be worse, in {share:.2f} of its time at most; picked: {picks}"
        )
        is_met = is_met and good >= 0.9 * len(races)
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
