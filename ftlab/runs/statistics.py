"""How sure a difference is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

RESAMPLES = 10_000


def paired_interval(
    before: Sequence[float],
    after: Sequence[float],
    level: float = 0.95,
    weights: Sequence[float] | None = None,
) -> tuple[float, float, float]:
    """`(mean, low, high)` of the gain `after - before`, paired by example.

    A percentile bootstrap over the examples (Efron & Tibshirani 1993, chapter 13) with a fixed
    seed, so the same numbers give the same interval. `weights` (its tokens, say) make each mean a
    weighted one. Raises `ValueError` for lists of unlike length or with fewer than two examples.
    """
    import numpy as np

    if len(before) != len(after) or len(before) < 2:
        raise ValueError(f"{len(before)} and {len(after)} examples cannot be paired")
    gains = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    shares = np.ones(len(gains)) if weights is None else np.asarray(weights, dtype=float)
    if len(shares) != len(gains):
        raise ValueError(f"{len(shares)} weights do not go with {len(gains)} examples")
    picks = np.random.default_rng(0).integers(0, len(gains), (RESAMPLES, len(gains)))
    means = (gains * shares)[picks].sum(axis=1) / shares[picks].sum(axis=1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float((gains * shares).sum() / shares.sum()), float(low), float(high)


def student_quantile(freedom: float) -> float:
    """The 97.5 % point of Student's t; `freedom` is 4 or more, and infinite for the normal one.

    Abramowitz & Stegun 1964, 26.7.5: an expansion in 1 / freedom, right to 0.01 from 4 on.
    """
    z = NormalDist().inv_cdf(0.975)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def wilson_interval(successes: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """`(low, high)` of a share, within [0, 1]; without a trial every share is possible.

    The score interval of Wilson 1927 ("Probable inference, the law of succession, and statistical
    inference", JASA 22, pages 209-212), without continuity correction: the shares p for which
    |successes / trials - p| <= z sqrt(p (1 - p) / trials). `successes` need not be whole: half a
    success is a tie. Raises `ValueError` for successes that are not within 0 to `trials`.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} of {trials} is no share")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / trials
    middle = share + z**2 / (2 * trials)
    reach = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def binomial_tail(successes: int, trials: int, probability: float) -> float:
    """The chance of at least so many successes in independent trials of that probability each."""
    return math.fsum(
        math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
        for k in range(successes, trials + 1)
    )
