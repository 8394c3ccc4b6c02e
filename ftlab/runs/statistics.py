"""How sure a difference is."""

from __future__ import annotations

from collections.abc import Sequence

RESAMPLES = 10_000


def paired_interval(
    before: Sequence[float], after: Sequence[float], level: float = 0.95
) -> tuple[float, float, float]:
    """`(mean, low, high)` of the gain `after - before`, paired by example.

    A percentile bootstrap over the examples (Efron & Tibshirani 1993, chapter 13) with a fixed
    seed, so the same numbers give the same interval. Raises `ValueError` for lists of unlike length
    or with fewer than two examples.
    """
    import numpy as np

    if len(before) != len(after) or len(before) < 2:
        raise ValueError(f"{len(before)} and {len(after)} examples cannot be paired")
    gains = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
    picks = np.random.default_rng(0).integers(0, len(gains), (RESAMPLES, len(gains)))
    means = gains[picks].mean(axis=1)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(means, [tail, 100 - tail])
    return float(gains.mean()), float(low), float(high)
