"""Confidence intervals that hold together: of the means of several variants and of all their
differences, scored on the same examples.

Whoever looks at twelve variants and picks one has made 66 comparisons. With 95 % for each, some of
them are wrong in most sweeps. Here all intervals of a family hold at once in 95 of 100 sweeps, so
any rule may pick from them. They are those of Hothorn, Bretz & Westfall 2008 ("Simultaneous
inference in general parametric models", Biometrical Journal 50, section 3.2): the critical value is
the 95 % point of the largest |t| under the correlations that were seen.

What a repetition of the sweep would change is taken from two sources. Other examples: the
covariance of the variants' scores over the examples, which holds the pairing. Other seeds: the
variance between the means of runs that differ in the seed alone. It contains what a seed changes in
single answers, so that part is taken out of the covariance over the examples. A sweep with too few
repeats cannot tell; the variance that recorded sweeps had is used.

An example about which nobody disagrees says nothing of the variance, and with few examples the
interval is too narrow (Agresti & Min 2005, "Simple improved confidence intervals for comparing
matched proportions", Statistics in Medicine 24). For scores within 0 to 1 two examples are added as
there, on which all variants score independently of each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING

from ftlab.records.differences import FEWEST_FREEDOM, wilson_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEVEL = 0.95

_DRAWS = 10_000
_ADDED = 2  # examples, see above
_MOST_TRIALS = 1e4  # per example: a variance below that is rounding
_ROUNDING = 1e-9
_ONE = NormalDist().inv_cdf((1 + LEVEL) / 2)


@dataclass(frozen=True)
class Interval:
    """A mean, or a difference of two, and its bounds."""

    mean: float
    low: float
    high: float

    @property
    def rises(self) -> bool:
        return self.low > 0

    @property
    def falls(self) -> bool:
        return self.high < 0


@dataclass(frozen=True)
class SeedVariance:
    """Of a run's mean, by its seed; `freedom` is infinite for one that the sweep did not show."""

    value: float
    freedom: float


class Simultaneous:
    """Intervals of the variants' means and of their differences.

    `scores` has one array per variant, (seeds, examples), with the same examples in the same order.
    A variant without randomness of its own, as the untouched model, has one row and is named in
    `fixed`. `of_seeds` is the variance of a run's mean by its seed where the sweep cannot show it.
    Raises `ValueError` for fewer than two variants or examples, or if these differ.
    """

    def __init__(
        self,
        scores: Sequence[NDArray[np.float64]],
        of_seeds: float,
        fixed: frozenset[int] = frozenset(),
    ) -> None:
        import numpy as np

        if len(scores) < 2 or len({runs.shape[1] for runs in scores}) != 1:
            raise ValueError("intervals need two variants or more, scored on the same examples")
        self.examples = int(scores[0].shape[1])
        if self.examples < 2:
            raise ValueError(f"{self.examples} example has no variance")
        by_example = np.stack([runs.mean(axis=0) for runs in scores])
        self.means = by_example.mean(axis=1)
        self._are_shares = bool(by_example.min() >= 0 and by_example.max() <= 1)
        self._on_added = 2 * float(by_example.var())  # mean square of a difference there
        trained = [runs for at, runs in enumerate(scores) if at not in fixed]
        self.seeds = seed_variance(trained, of_seeds)
        covariance = np.cov(by_example)
        if self.seeds.freedom < math.inf:
            answers = [_of_answers(runs) / len(runs) for runs in scores]
            covariance = _without_negative(covariance - np.diag(answers))
        self._of_examples = covariance / self.examples
        self._of_seeds = np.array(
            [0 if at in fixed else self.seeds.value / len(runs) for at, runs in enumerate(scores)]
        )

    def draws(self, count: int, seed: int = 0) -> NDArray[np.float64]:
        """Means as repetitions of the sweep might have them, (count, variants), for a bootstrap.

        What seeds change is drawn from Student's distribution, as its variance is only estimated.
        """
        import numpy as np

        rng = np.random.default_rng(seed)
        nothing, own = np.zeros(len(self.means)), np.sqrt(self._of_seeds)
        of_examples = rng.multivariate_normal(
            nothing, self._of_examples, count, check_valid="ignore"
        )
        of_seeds = rng.standard_normal((count, len(self.means))) * own
        freedom = self.seeds.freedom
        if freedom < math.inf:
            of_seeds /= np.sqrt(rng.chisquare(freedom, (count, 1)) / freedom)
        drawn: NDArray[np.float64] = self.means + of_examples + of_seeds
        return drawn

    def mean(self, variant: int) -> Interval:
        """Of the variant; these of all variants hold together.

        A score within 0 to 1 has the interval of Wilson, which stays within, for the number of
        examples that would explain its variance (Korn & Graubard 1998, "Confidence intervals for
        proportions with small expected number of positive counts", Survey Methodology 24).
        """
        value, (errors, critical) = float(self.means[variant]), self._errors_of_means
        error = float(errors[variant])
        if not self._are_shares:
            return Interval(value, value - critical * error, value + critical * error)
        most = _MOST_TRIALS * self.examples
        spread = value * (1 - value)
        trials = spread / max(error**2, spread / most) if spread > 0 else self.examples
        level = min(2 * NormalDist().cdf(critical) - 1, 1 - 1e-12)
        return Interval(value, *wilson_interval(value * trials, trials, level))

    def difference(self, variant: int, other: int) -> Interval:
        """The variant minus the other; these of all pairs hold together."""
        value = float(self.means[variant] - self.means[other])
        middle = value * self.examples / self._whole
        reach = float(self._reach_of_pairs[variant, other])
        return Interval(value, min(value, middle - reach), max(value, middle + reach))

    @property
    def _whole(self) -> int:
        """The examples with those added."""
        return self.examples + (_ADDED if self._are_shares else 0)

    @cached_property
    def _errors_of_means(self) -> tuple[NDArray[np.float64], float]:
        """Their standard errors, and how many of them an interval reaches."""
        import numpy as np

        of_examples = np.diag(self._of_examples)
        errors = np.sqrt(of_examples + self._of_seeds)
        each = _in_errors(self._draws, errors)
        alike = errors <= _ROUNDING  # all answers right, for example: taken as independent
        shape = (_DRAWS, int(alike.sum()))
        each[:, alike] = abs(np.random.default_rng(2).standard_normal(shape))
        largest = each.max(axis=1)
        return errors, self._critical(largest, of_examples, self._of_seeds)

    @cached_property
    def _reach_of_pairs(self) -> NDArray[np.float64]:
        import numpy as np

        own, count, whole = np.diag(self._of_examples), self.examples, self._whole
        of_examples = np.maximum(0, own[:, None] + own[None, :] - 2 * self._of_examples)
        of_seeds = self._of_seeds[:, None] + self._of_seeds[None, :]
        errors = np.sqrt(of_examples + of_seeds)
        largest = np.zeros(_DRAWS)
        for at in range(len(own) - 1):
            gaps = self._draws[:, [at]] - self._draws[:, at + 1 :]
            largest = np.maximum(largest, _in_errors(gaps, errors[at, at + 1 :]).max(axis=1))
        pairs = np.triu_indices(len(own), 1)
        critical = self._critical(largest, of_examples[pairs], of_seeds[pairs])
        # Variance of the mean difference over all examples with those added, as in Agresti & Min.
        apart = self.means[:, None] - self.means[None, :]
        squares = count * (count * of_examples + apart**2) + (whole - count) * self._on_added
        with_added = (squares / whole - (count * apart / whole) ** 2) / whole
        reach: NDArray[np.float64] = critical * np.sqrt(np.maximum(0, with_added) + of_seeds)
        return reach

    @cached_property
    def _draws(self) -> NDArray[np.float64]:
        """Errors of the means as they may be, (draws, variants)."""
        import numpy as np

        values, vectors = np.linalg.eigh(self._of_examples + np.diag(self._of_seeds))
        root = vectors * np.sqrt(np.maximum(0, values))
        drawn: NDArray[np.float64] = np.random.default_rng(0).standard_normal(
            (_DRAWS, len(self.means))
        )
        return drawn @ root.T

    def _critical(
        self,
        largest: NDArray[np.float64],
        of_examples: NDArray[np.float64],
        of_seeds: NDArray[np.float64],
    ) -> float:
        """The point of the largest |t|, from draws for a known variance.

        Its degrees of freedom are those of the mean variance (Satterthwaite 1946, "An approximate
        distribution of estimates of variance components", Biometrics Bulletin 2).
        """
        import numpy as np

        examples, seeds = float(of_examples.mean()), float(of_seeds.mean())
        parts = examples**2 / (self.examples - 1) + seeds**2 / self.seeds.freedom
        freedom = (examples + seeds) ** 2 / parts if parts > 0 else float(self.examples - 1)
        chi = np.random.default_rng(1).chisquare(freedom, _DRAWS) / freedom
        return max(_ONE, float(np.quantile(largest / np.sqrt(chi), LEVEL)))


def _without_negative(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest covariance: an estimated part may be larger than the whole of a few examples."""
    import numpy as np

    values, vectors = np.linalg.eigh(covariance)
    nearest: NDArray[np.float64] = (vectors * np.maximum(0, values)) @ vectors.T
    return nearest


def _in_errors(values: NDArray[np.float64], errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute values in standard errors; 0 where nothing but rounding varies."""
    import numpy as np

    return np.divide(abs(values), errors, out=np.zeros_like(values), where=errors > _ROUNDING)


def seed_variance(scores: Sequence[NDArray[np.float64]], without: float) -> SeedVariance:
    """Pooled over the variants, each (seeds, examples); `without`, if too few repeat."""
    squares = sum((len(runs) - 1) * _of_means(runs) for runs in scores)
    freedom = sum(len(runs) - 1 for runs in scores)
    if freedom < FEWEST_FREEDOM:
        return SeedVariance(without, math.inf)
    return SeedVariance(squares / freedom, freedom)


def _of_means(runs: NDArray[np.float64]) -> float:
    """Variance of the runs' means."""
    return float(runs.mean(axis=1).var(ddof=1)) if len(runs) > 1 else 0.0


def _of_answers(runs: NDArray[np.float64]) -> float:
    """Variance of an example's score by the seed."""
    return float(runs.var(axis=0, ddof=1).mean()) if len(runs) > 1 else 0.0
