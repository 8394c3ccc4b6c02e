"""Intervals of gains and of shares."""

from __future__ import annotations

import pytest

from ftlab.records.differences import binomial_tail, paired_interval, wilson_interval


def test_a_certain_gain_has_no_width_and_noise_an_interval_around_zero() -> None:
    assert paired_interval([0.0] * 10, [1.0] * 10) == (1.0, 1.0, 1.0)
    mean, low, high = paired_interval([0.0, 1.0] * 20, [1.0, 0.0] * 20)
    assert low < mean == 0 < high


def test_the_interval_agrees_with_the_normal_one_for_many_examples() -> None:
    after = [1.0] * 50 + [0.0] * 50
    mean, low, high = paired_interval([0.0] * 100, after)
    assert mean == 0.5
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015)


def test_weights_make_every_mean_a_weighted_one() -> None:
    before, after = [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]
    assert paired_interval(before, after, weights=[2, 2, 2]) == paired_interval(before, after)
    halves = [1.0] * 20 + [0.0] * 20
    mean, low, high = paired_interval([0.0] * 40, halves, weights=[9] * 20 + [1] * 20)
    assert mean == pytest.approx(0.9)
    assert 0.75 < low < 0.9 < high < 1.0, "an unweighted one would end below 0.7"


def test_lists_of_other_lengths_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="2 weights do not go with 3 examples"):
        paired_interval([0.0] * 3, [1.0] * 3, weights=[1, 1])
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_interval([1.0], [1.0, 2.0])


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (0, 0, 0, 1),
    ],
)
def test_the_interval_of_a_share_agrees_with_published_ones(
    successes: int, trials: int, low: float, high: float
) -> None:
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3:
    the score interval without continuity correction."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_the_interval_of_a_share_is_symmetric_within_its_bounds_and_wider_at_a_higher_level() -> (
    None
):
    low, high = wilson_interval(2.5, 10)
    assert wilson_interval(7.5, 10) == pytest.approx((1 - high, 1 - low))
    assert low < 0.25 < high
    lower, higher = wilson_interval(2.5, 10, level=0.99)
    assert lower < low < high < higher
    for trials in range(1, 50):
        assert 0 <= wilson_interval(0, trials)[0] < 1e-12
        assert 1 - 1e-12 < wilson_interval(trials, trials)[1] <= 1


@pytest.mark.parametrize(("successes", "trials"), [(11, 10), (-1, 10), (1, 0)])
def test_more_successes_than_trials_are_no_share(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson_interval(successes, trials)


def test_a_binomial_tail_agrees_with_the_tables() -> None:
    assert binomial_tail(8, 10, 0.5) == pytest.approx(0.0546875)
    assert binomial_tail(3, 3, 0.25) == pytest.approx(1 / 64)
    assert binomial_tail(0, 7, 0.3) == pytest.approx(1.0)
