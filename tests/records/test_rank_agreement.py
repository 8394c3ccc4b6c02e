"""Spearman's correlation of two tables, and its interval."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from ftlab.records.rank_agreement import rank_agreement, spearman


@pytest.mark.parametrize(
    ("first", "second", "rho"),
    [
        ([1, 2, 3, 4], [10, 20, 30, 40], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 3, 4], [1, 3, 2, 4], 0.8),
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486832980505138),  # equal values share their mean rank
        ([1e-9, 2, 3e9, 4e9], [1, 2, 3, 4], 1.0),
    ],
)
def test_only_the_order_counts(first: list[float], second: list[float], rho: float) -> None:
    assert spearman(first, second) == pytest.approx(rho)
    assert spearman(second, first) == pytest.approx(rho)


def test_a_side_without_an_order_has_no_correlation() -> None:
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    with pytest.raises(ValueError, match="values that differ on both sides"):
        rank_agreement([1] * 5, [1, 2, 3, 4, 5])


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_pairs_are_not_compared(count: int) -> None:
    with pytest.raises(ValueError, match=f"The order of {count} pairs cannot be compared"):
        rank_agreement(range(count), range(count))


def test_sides_of_different_length_are_refused() -> None:
    with pytest.raises(ValueError, match="3 values cannot be paired with 2"):
        spearman([1, 2, 3], [1, 2])


def test_the_same_seed_gives_the_same_interval_around_the_correlation() -> None:
    rng = np.random.default_rng(3)
    first = rng.normal(size=22)
    second = first + rng.normal(size=22)
    found = rank_agreement(first, second, draws=200, seed=1)
    assert found == rank_agreement(first, second, draws=200, seed=1)
    assert found != rank_agreement(first, second, draws=200, seed=2)
    assert found.low < found.rho < found.high
    picks = np.random.default_rng(1).integers(0, 22, (200, 22))
    pairs = pd.DataFrame([first, second]).T
    drawn = [pairs.iloc[pick].corr("spearman").iloc[0, 1] for pick in picks]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert found.count == 22
    assert found.sentence.endswith("n = 22)")


@pytest.mark.slow
def test_the_interval_holds_the_true_correlation_as_often_as_it_says() -> None:
    """Of 22 pairs drawn from a normal distribution, whose rank correlation is known."""
    rng, hits, repeats = np.random.default_rng(5), 0, 120
    true = 6 / math.pi * math.asin(0.7 / 2)  # Kruskal 1958, equation 3.13
    for _ in range(repeats):
        pairs = rng.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 22)
        found = rank_agreement(pairs[:, 0], pairs[:, 1], draws=300)
        hits += found.low <= true <= found.high
    assert 0.89 <= hits / repeats <= 0.99
