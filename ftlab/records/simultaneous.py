"""Confidence intervals that hold together: of the means of several variants and of all their
differences, scored on the same examples.

Whoever looks at twelve variants and picks one has made 66 comparisons. With 95 % for each, some of
them are wrong in most sweeps. Here all intervals of a family hold at once in 95 of 100 sweeps, so
any rule may pick from them. They are those of Hothorn, Bretz & Westfall 2008 ("Simultaneous
inference in general parametric models", Biometrical Journal 50, section 3.2): the critical value is
the 95 % point of the largest |t| under the correlations that were seen.

What a repetition of the sweep would change is taken from two sources, and both are paired. Other
examples: the covariance of the variants' scores over the examples. Other seeds: the variance
between the means of runs that differ in the seed alone, of which a difference between variants has
only what is not common to all (`ftlab.records.seed_variance`). It contains what a seed changes in
single answers, so that part is taken out of the covariance over the examples.

An example about which nobody disagrees says nothing of the variance, and with few examples the
interval is too narrow (Agresti & Min 2005, "Simple improved confidence intervals for comparing
matched proportions", Statistics in Medicine 24). For scores within 0 to 1 two examples are added as
there, on which all variants score independently of each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING

from ftlab.records.differences import wilson_interval
from ftlab.records.seed_variance import Seeds, SeedVariance, covariance_of_answers, shared

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


class Simultaneous:
    """Intervals of the variants' means and of their differences.

    `scores` has one array per variant, (runs, examples), with the same examples in the same order,
    and `seeds` the seed of each run. `of_seeds` is how far seeds differ. A variant without
    randomness of its own, as the untouched model, has one row and is named in `fixed`. Raises
    `ValueError` for fewer than two variants or examples, or if these differ.
    """

    def __init__(
        self,
        scores: Sequence[NDArray[np.float64]],
        seeds: Sequence[Seeds],
        of_seeds: SeedVariance,
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
        self.of_seeds = of_seeds
        self._are_shares = bool(by_example.min() >= 0 and by_example.max() <= 1)
        self._on_added = 2 * float(by_example.var())  # mean square of a difference there
        covariance = np.cov(by_example)
        if not of_seeds.is_of_others:
            covariance = _without_negative(covariance - covariance_of_answers(scores, seeds))
        self._of_examples = covariance / self.examples
        trained = np.array([at not in fixed for at in range(len(scores))], dtype=float)
        self._own = trained * of_seeds.own / np.array([len(runs) for runs in scores])
        self._common = np.outer(trained, trained) * of_seeds.common * shared(seeds)

    def draws(self, count: int, seed: int = 0) -> NDArray[np.float64]:
        """Means as repetitions of the sweep might have them, (count, variants), for a bootstrap.

        What seeds change is drawn from Student's distribution, as its variance is only estimated.
        """
        import numpy as np

        rng = np.random.default_rng(seed)
        nothing = np.zeros(len(self.means))
        of_examples, of_seeds = (
            rng.multivariate_normal(nothing, covariance, count, check_valid="ignore")
            for covariance in (self._of_examples, np.diag(self._own) + self._common)
        )
        freedom = self.of_seeds.freedom
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
        value = float(self.means[variant])
        error, critical = (float(each[variant]) for each in self._errors_of_means)
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
    def _errors_of_means(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Their standard errors, and how many of them each interval reaches."""
        import numpy as np

        parts = (np.diag(self._of_examples), self._own, np.diag(self._common))
        errors = np.sqrt(sum(parts))
        each = _in_errors(self._draws, errors)
        alike = errors <= _ROUNDING  # all answers right, for example: taken as independent
        shape = (_DRAWS, int(alike.sum()))
        each[:, alike] = abs(np.random.default_rng(2).standard_normal(shape))
        return errors, self._critical(parts, lambda kind: each[:, kind].max(axis=1))

    @cached_property
    def _reach_of_pairs(self) -> NDArray[np.float64]:
        """Of the interval of each difference, to both sides; (variants, variants)."""
        import numpy as np

        count, whole = self.examples, self._whole
        of_examples, common = (_of_gaps(one) for one in (self._of_examples, self._common))
        own = self._own[:, None] + self._own[None, :]
        errors = np.sqrt(of_examples + own + common)
        first, second = np.triu_indices(len(self._own), 1)

        def largest(kind: NDArray[np.bool_]) -> NDArray[np.float64]:
            found = np.zeros(_DRAWS)
            for at in np.unique(first[kind]):
                others = second[kind & (first == at)]
                gaps = self._draws[:, [at]] - self._draws[:, others]
                found = np.maximum(found, _in_errors(gaps, errors[at, others]).max(axis=1))
            return found

        pairs = (first, second)
        critical = np.full_like(errors, _ONE)
        critical[pairs] = self._critical((of_examples[pairs], own[pairs], common[pairs]), largest)
        critical = np.maximum(critical, critical.T)
        # Variance of the mean difference over all examples with those added, as in Agresti & Min.
        apart = self.means[:, None] - self.means[None, :]
        squares = count * (count * of_examples + apart**2) + (whole - count) * self._on_added
        with_added = (squares / whole - (count * apart / whole) ** 2) / whole
        variances = np.maximum(0, with_added) + own + common
        reach: NDArray[np.float64] = critical * np.sqrt(variances)
        return reach

    @cached_property
    def _draws(self) -> NDArray[np.float64]:
        """Errors of the means as they may be, (draws, variants)."""
        import numpy as np

        covariance = self._of_examples + np.diag(self._own) + self._common
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(0, values))
        drawn: NDArray[np.float64] = np.random.default_rng(0).standard_normal(
            (_DRAWS, len(self.means))
        )
        return drawn @ root.T

    def _critical(
        self,
        parts: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]],
        largest: Callable[[NDArray[np.bool_]], NDArray[np.float64]],
    ) -> NDArray[np.float64]:
        """How many standard errors each interval of a family reaches.

        `parts` are the variances of each by examples, by its own seeds and by what seeds have in
        common; `largest` draws the largest |t| of some of them as for known variances. Those with a
        common part know their variance less well than others, as few seeds show it. So both kinds
        have a critical value each: the point of its own largest |t| of one rank, which is such that
        both hold at once as often as promised.
        """
        import numpy as np

        has_common = parts[2] > _ROUNDING * sum(parts)
        kinds = [kind for kind in (has_common, ~has_common) if kind.any()]
        drawn = [
            largest(kind) / np.sqrt(self._chi(*(float(part[kind].mean()) for part in parts)))
            for kind in kinds
        ]
        ranks = [np.argsort(np.argsort(of_kind)) / _DRAWS for of_kind in drawn]
        rank = float(np.quantile(np.max(ranks, axis=0), LEVEL))
        critical = np.zeros(len(has_common))
        for kind, of_kind in zip(kinds, drawn, strict=True):
            critical[kind] = max(_ONE, float(np.quantile(of_kind, rank)))
        return critical

    def _chi(self, of_examples: float, own: float, common: float) -> NDArray[np.float64]:
        """Draws of an estimate of the sum of the three variances, as a share of it.

        Its degrees of freedom are by Satterthwaite 1946 ("An approximate distribution of estimates
        of variance components", Biometrics Bulletin 2).
        """
        import numpy as np

        parts = of_examples**2 / (self.examples - 1) + own**2 / self.of_seeds.freedom
        parts += common**2 / self.of_seeds.common_freedom
        whole = (of_examples + own + common) ** 2
        freedom = whole / parts if parts > 0 else float(self.examples - 1)
        chi: NDArray[np.float64] = np.random.default_rng(1).chisquare(freedom, _DRAWS) / freedom
        return chi


def _of_gaps(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The variance of each difference of two."""
    import numpy as np

    own = np.diag(covariance)
    found: NDArray[np.float64] = np.maximum(0, own[:, None] + own[None, :] - 2 * covariance)
    return found


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
