"""How far two tables order the same things alike: Spearman's rank correlation and its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_FEWEST = 4
_LEVEL = 0.95


@dataclass(frozen=True)
class RankAgreement:
    """Spearman's `rho` of `count` pairs, and its 95 % interval `low` to `high`.

    The interval is a percentile bootstrap over the pairs (Efron & Tibshirani 1993, chapter 13), so
    it is about other methods that might have been compared, not about other seeds.
    """

    rho: float
    low: float
    high: float
    count: int

    @property
    def sentence(self) -> str:
        return f"{self.rho:.2f} (95 % interval {self.low:.2f} to {self.high:.2f}, n = {self.count})"


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation of the ranks, where equal values share their mean rank.

    NaN if all values of one side are equal. Raises `ValueError` for sides of different length.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} values cannot be paired with {len(second)}")
    a, b = mean_ranks(np.asarray(first, dtype=float)), mean_ranks(np.asarray(second, dtype=float))
    if len(a) == 0 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def rank_agreement(
    first: Sequence[float], second: Sequence[float], draws: int = 10_000, seed: int = 0
) -> RankAgreement:
    """The correlation of the pairs and its interval; the same seed gives the same interval.

    Raises `ValueError` for fewer than 4 pairs, or if all values of one side are equal.
    """
    rho = spearman(first, second)
    count = len(first)
    if count < _FEWEST or np.isnan(rho):
        raise ValueError(
            f"The order of {count} pairs cannot be compared: it takes {_FEWEST} or more, and "
            "values that differ on both sides."
        )
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    rng = np.random.default_rng(seed)
    drawn = [spearman(a[chosen], b[chosen]) for chosen in rng.integers(0, count, (draws, count))]
    tails = [50 * (1 - _LEVEL), 50 * (1 + _LEVEL)]
    low, high = np.nanpercentile(drawn, tails)  # a draw of one pair alone has no correlation
    return RankAgreement(rho, float(low), float(high), count)


def mean_ranks(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """The rank of each value, from 1 for the lowest; equal values share their mean rank."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: np.ndarray = ends - (counts - 1) / 2
    return means[place]
