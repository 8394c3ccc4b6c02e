"""How small a difference in score a sweep can show, and how many examples and seeds would show one.

A difference of two variants is shown by two rules (`ftlab.records.differences`): the 95 % interval
of the difference paired by example excludes zero, and where there are several seeds, the scores of
one variant's runs all lie above those of the other's. The first rule alone is that of McNemar 1947
("Note on the sampling error of the difference between correlated proportions", Psychometrika 12):
what counts is how often the two disagree about an example. With n examples and k seeds the standard
error of the difference is

    sqrt((between - within + within / k) / n)

`between` is the mean square of what two variants differ by in one example, `within` that of two
seeds of one variant; for scores of 0 and 1 the shares of examples about which they disagree. One
comparison of one seed has 80 % power for a difference of 2.8 such errors (Connor 1987, "Sample
size for testing differences in proportions for the paired-sample design", Biometrics 43). The
second rule has no formula of that kind, so the power of both is found from `_DRAWS` draws of the
scores, which are taken as normal: each example's part is shared by all seeds, the rest is each
run's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist, fmean
from typing import TYPE_CHECKING

from ftlab.basics.words import plural
from ftlab.records.comparability import Scored
from ftlab.records.differences import FEWEST_EXAMPLES, Example, examples_of
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

POWER = 0.8
"""The probability with which a difference of the size that is named is shown."""

_DRAWS = 20_000
_MOST_SEEDS = 30  # more are taken as so many: each takes 0.3 MB of draws
_INTERVAL = NormalDist().inv_cdf(0.975)
_MOST_EXAMPLES = 1_000_000
_MOST_RUNS = 40


@dataclass(frozen=True)
class Discordance:
    """How far scores of one example differ, as mean squares: between two variants, each trained
    with one seed, and within a variant, between two seeds. `pairs` of runs were seen; 0: a prior.
    """

    between: float
    within: float
    pairs: int = 0

    @property
    def of_examples(self) -> float:
        """What the variants themselves differ by, and no further seed removes."""
        return max(0.0, self.between - self.within)

    def variance(self, seeds: int) -> float:
        """Of the difference in one example, between means over so many seeds each."""
        return self.of_examples + self.within / seeds


PRIOR = Discordance(between=0.21, within=0.20)
"""Where no run of the task was scored: that of the recorded sweeps (a test computes it anew)."""


@dataclass(frozen=True)
class ScoredRun:
    """A run that is done: where it is, and what it was."""

    sweep_id: str
    variant: str
    seed: int
    folder: str


def discordance_of(runs: Iterable[ScoredRun]) -> Discordance:
    """From runs of one task, of which the last `_MOST_RUNS` count; `PRIOR` if they say nothing.

    Variants are compared within a sweep and seed, on the same examples. The prior counts as one
    more pair, so that a few runs that agree promise nothing. Without a variant's repeats two seeds
    are taken to differ as much as two variants do.
    """
    sweeps: dict[str, list[tuple[ScoredRun, Mapping[Example, float]]]] = {}
    for run in [*runs][-_MOST_RUNS:]:
        scores = examples_of(run.folder, "score_after")
        if len(scores) >= FEWEST_EXAMPLES:
            sweeps.setdefault(run.sweep_id, []).append((run, scores))
    between, within = list[float](), list[float]()
    for own in sweeps.values():
        for (run, scores), (other, others) in combinations(own, 2):
            same = run.variant == other.variant, run.seed == other.seed
            kept = {(True, False): within, (False, True): between}.get(same)
            if kept is not None and scores.keys() == others.keys():
                kept.append(_mean_square(scores, others))
    if not between and not within:
        return PRIOR
    apart = fmean([*(between or within), PRIOR.between])
    repeats = fmean([*within, PRIOR.within]) if within else apart
    return Discordance(apart, repeats, len(between) + len(within))


def _mean_square(scores: Mapping[Example, float], others: Mapping[Example, float]) -> float:
    return fmean((score - others[place]) ** 2 for place, score in scores.items())


def power(difference: float, examples: int, seeds: int, found: Discordance) -> float:
    """The probability that a true difference of so much is shown.

    `examples` are scored by both variants, each trained with `seeds` seeds, of which `_MOST_SEEDS`
    count.
    """
    seeds = min(seeds, _MOST_SEEDS)
    shared, apart, errors = _draws(seeds)
    root = math.sqrt(examples)
    # The mean square of a difference contains the square of its mean.
    whole = found.variance(seeds)
    rest = max(0.0, whole - difference**2)
    scale = math.sqrt(rest / whole) if whole else 0.0
    own = scale * math.sqrt(found.within / 2) / root
    common = scale * math.sqrt(found.of_examples) / root * shared
    gains = difference + common + own * errors
    is_outside = abs(gains) > _INTERVAL * math.sqrt(rest) / root
    if seeds == 1:
        return float(is_outside.mean())
    # Scores of 0 and 1 move in steps, and equal ones overlap: half a step corrects for that.
    is_apart = difference + common + own * apart > 0.5 / examples
    return float((is_outside & is_apart).mean())


@lru_cache(maxsize=16)
def _draws(seeds: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """For `_DRAWS` comparisons, in standard deviations of a run: what the examples add, the gap
    between the lowest run of the better variant and the highest of the other, and their means'."""
    import numpy as np

    drawn = np.random.default_rng(0)
    shared = drawn.standard_normal(_DRAWS)
    runs = drawn.standard_normal((2, _DRAWS, seeds))
    gap = runs[0].min(axis=1) - runs[1].max(axis=1)
    return shared, gap, runs[0].mean(axis=1) - runs[1].mean(axis=1)


def smallest_difference(examples: int, seeds: int, found: Discordance) -> float | None:
    """The smallest difference in score that is shown with a probability of `POWER`.

    `None` if there is none: too few examples for any claim, or no difference is large enough.
    """
    if examples < FEWEST_EXAMPLES:
        return None
    return _smallest(lambda difference: power(difference, examples, seeds, found) >= POWER)


def _smallest(is_enough: Callable[[float], bool]) -> float | None:
    low, high = 0.0, 1.0
    if not is_enough(high):
        return None
    while high - low > 0.001:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def examples_needed(difference: float, seeds: int, found: Discordance) -> int | None:
    """How many examples show a true difference of so much with a probability of `POWER`.

    `None` if not even `_MOST_EXAMPLES` would.
    """
    low, high = FEWEST_EXAMPLES - 1, FEWEST_EXAMPLES
    while power(difference, high, seeds, found) < POWER:
        low, high = high, 2 * high
        if high > _MOST_EXAMPLES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(difference, middle, seeds, found) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


@dataclass(frozen=True)
class Way:
    """So many examples, scored after training with so many seeds."""

    examples: int
    seeds: int

    @property
    def words(self) -> str:
        return f"{plural(self.examples, 'example')} and {plural(self.seeds, 'seed')}"


_SEEDS = (1, 3)
"""Numbers of seeds that are proposed. More than three show little more: two variants' repeats
overlap the more often, the more there are."""


def ways_to_show(difference: float, found: Discordance) -> list[Way]:
    """The examples that each of `_SEEDS` needs to show a true difference of so much."""
    needed = [(examples_needed(difference, seeds, found), seeds) for seeds in _SEEDS]
    return [Way(_rounded_up(count), seeds) for count, seeds in needed if count is not None]


def _rounded_up(count: int) -> int:
    """To two digits: 1,234 -> 1,300."""
    step = 10 ** max(0, len(str(count)) - 2)
    return -(-count // step) * step


@dataclass(frozen=True)
class Promise:
    """What so many examples and seeds can show, given how far scores were seen to differ."""

    examples: int
    seeds: int
    found: Discordance

    @property
    def words(self) -> str:
        """As in "64 examples and 1 seed can show a difference in score of about 0.15; with 3 seeds,
        of about 0.11."; says what is missing where nothing can be shown."""
        if self.examples < FEWEST_EXAMPLES:
            few = f"With fewer than {FEWEST_EXAMPLES} test examples"
            return f"{few} no difference in score is claimed."
        own, now = Way(self.examples, self.seeds).words, self._smallest(self.seeds)
        if now is None:
            return f"{own} can show no difference in score."
        words = f"{own} can show a difference in score of about {now:.2f}"
        more = max(_SEEDS)
        then = self._smallest(more)
        if self.seeds >= more or then is None or now - then < 0.005:
            return f"{words}."
        return f"{words}; with {more} seeds, of about {then:.2f}."

    @property
    def source(self) -> str:
        """How sure that is, and from what it follows."""
        whose = (
            f"{plural(self.found.pairs, 'pair')} of earlier runs of this task"
            if self.found.pairs
            else "the recorded sweeps, as this task has no scored runs"
        )
        return (
            f"A true difference of this size is shown in {100 * POWER:.0f} of 100 sweeps. By "
            f"{whose}: scores of one example differ by {self.found.between:.2f} (mean square) "
            f"between variants, by {self.found.within:.2f} between seeds."
        )

    def _smallest(self, seeds: int) -> float | None:
        return smallest_difference(self.examples, seeds, self.found)


def promise_of(request: SweepRequest, scored: Scored | None, runs: Iterable[Run]) -> Promise | None:
    """What the request's sweep can show; `None` if it scores no answers, or nobody knows how many.

    `runs` are all runs, oldest first; those of the task count, of its model if there are any.
    """
    if scored is None or not request.settings.eval_answers:
        return None
    done = [
        run
        for run in runs
        if run.status == "done" and not run.spec.is_base and run.spec.task == request.task
    ]
    own = [run for run in done if run.spec.model == request.model]
    found = discordance_of(
        ScoredRun(run.spec.sweep_id, run.spec.label, run.spec.seed, str(run.directory.path))
        for run in own or done
    )
    return Promise(scored.count, len(request.seeds), found)
