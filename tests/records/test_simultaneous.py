"""Intervals of many scores and of all their differences hold together as often as they promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from ftlab.records import simultaneous
from ftlab.records.recommendation import MEASURES
from ftlab.records.seed_variance import SeedVariance, seed_variance
from ftlab.records.simultaneous import Simultaneous

Scores = list[NDArray[np.float64]]
SWEEPS = 500
RECORDED = MEASURES[0].of_seeds
NONE = SeedVariance(0.0, 0.0)
UNSURE = 2 * math.sqrt(0.05 * 0.95 / SWEEPS)


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """A critical value from a fifth of the draws is off by 1 %, and found five times as fast."""
    monkeypatch.setattr(simultaneous, "_DRAWS", 2_000)


def intervals(
    scores: Scores, otherwise: SeedVariance, fixed: frozenset[int] = frozenset()
) -> Simultaneous:
    """As a recommendation has them: the runs of all variants have the seeds 0, 1, ..."""
    seeds = [range(len(runs)) for runs in scores]
    trained = [at for at in range(len(scores)) if at not in fixed]
    own = ([scores[at] for at in trained], [seeds[at] for at in trained])
    return Simultaneous(scores, seeds, seed_variance(*own, otherwise), fixed)


def shares_that_hold(
    make: Callable[[np.random.Generator], Scores],
    true: Sequence[float],
    of_seeds: SeedVariance = RECORDED,
    fixed: frozenset[int] = frozenset(),
) -> tuple[float, float]:
    """In how many of `SWEEPS` all intervals of the means hold, and all of their differences."""
    drawn = np.random.default_rng(3)
    means = differences = 0
    for _ in range(SWEEPS):
        found = intervals(make(drawn), of_seeds, fixed)
        each = [found.mean(at) for at in range(len(true))]
        means += all(one.low <= value <= one.high for one, value in zip(each, true, strict=True))
        differences += all(
            (one := found.difference(a, b)).low <= true[a] - true[b] <= one.high
            for a, b in combinations(range(len(true)), 2)
        )
    return means / SWEEPS, differences / SWEEPS


def sweep(
    drawn: np.random.Generator, variants: int, examples: int, seeds: int, of_seeds: float
) -> Scores:
    """Scores of 0 and 1, (seeds, examples) each, whose logits add the variant, the example, both
    together and the seed."""
    logits = (
        np.linspace(-0.7, 0.3, variants)[:, None, None]
        + drawn.normal(0, 2, (1, 1, examples))
        + drawn.normal(0, 1, (variants, 1, examples))
        + drawn.normal(0, of_seeds, (variants, seeds, 1))
    )
    return [*(drawn.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)]


def true_means(variants: int, of_seeds: float) -> NDArray[np.float64]:
    """By the trapezoidal rule over what is random in a logit."""
    deviation = math.sqrt(5 + of_seeds**2)
    points = np.linspace(-8, 8, 4_001) * deviation
    density = np.exp(-((points / deviation) ** 2) / 2)
    shares = 1 / (1 + np.exp(-(np.linspace(-0.7, 0.3, variants)[:, None] + points)))
    return np.asarray((shares * density).sum(axis=1) / density.sum())


OF_SEEDS = 0.13
"""In logits; the variance of a run's score by its seed is then that of the recorded runs."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variants", "examples", "seeds", "of_seeds"),
    [
        (2, 32, 1, OF_SEEDS),
        (6, 32, 3, 0.3),
        (12, 64, 1, OF_SEEDS),
    ],
)
def test_all_intervals_hold_at_once_in_95_of_100_sweeps(
    variants: int, examples: int, seeds: int, of_seeds: float
) -> None:
    held = shares_that_hold(
        lambda drawn: sweep(drawn, variants, examples, seeds, of_seeds),
        true_means(variants, of_seeds).tolist(),
    )
    assert all(0.93 - UNSURE <= share <= 0.97 + UNSURE for share in held)


@pytest.mark.slow
def test_they_hold_where_nearly_all_answers_are_right_or_wrong() -> None:
    def make(drawn: np.random.Generator) -> Scores:
        return [(drawn.random((1, 32)) < share).astype(float) for share in (0.97, 0.01)]

    for held in shares_that_hold(make, (0.97, 0.01), fixed=frozenset({1})):
        assert held >= 0.93 - UNSURE


@pytest.mark.slow
@pytest.mark.parametrize(("variants", "examples"), [(2, 12), (6, 12)])
def test_they_hold_for_answers_that_only_the_seed_decides(variants: int, examples: int) -> None:
    """Then what a seed changes explains the whole variance of the few examples, and more."""

    def make(drawn: np.random.Generator) -> Scores:
        return [(drawn.random((3, examples)) < 0.5).astype(float) for _ in range(variants)]

    for held in shares_that_hold(make, [0.5] * variants):
        assert held >= 0.93 - UNSURE


@pytest.mark.slow
@pytest.mark.parametrize("common", [0.0, 0.1])
@pytest.mark.parametrize(("variants", "examples", "seeds"), [(2, 32, 1), (4, 60, 3)])
def test_they_hold_for_losses_whether_or_not_seeds_change_all_variants_alike(
    variants: int, examples: int, seeds: int, common: float
) -> None:
    hardness = np.linspace(1, 1.8, variants)

    def make(drawn: np.random.Generator) -> Scores:
        hard = drawn.gamma(4, 0.35, (1, examples))
        alike = drawn.normal(0, common, (seeds, 1)) + drawn.normal(0, common, (seeds, examples))
        return [
            -factor * hard
            + alike
            + drawn.normal(0, 0.3, (seeds, examples))
            + drawn.normal(0, 0.05, (seeds, 1))
            for factor in hardness
        ]

    true = [float(-1.4 * factor) for factor in hardness]
    # Without repeats, what all seeds change in single answers is seen in the examples only.
    for held in shares_that_hold(make, true, SeedVariance(common**2, 0.05**2)):
        assert 0.93 - UNSURE <= held <= 0.97 + UNSURE


@pytest.mark.slow
def test_they_hold_against_the_untouched_model_where_seeds_change_all_variants_alike() -> None:
    def make(drawn: np.random.Generator) -> Scores:
        hard = drawn.gamma(4, 0.35, (1, 200))
        alike = drawn.normal(0, 0.1, (3, 1))
        trained = [
            -0.5 * hard + alike + drawn.normal(0, 0.2, (3, 200)) + drawn.normal(0, 0.04, (3, 1))
            for _ in range(5)
        ]
        return [*trained, -hard]

    true, others = [*[-0.7] * 5, -1.4], SeedVariance(0.01, 0.0016)
    held = shares_that_hold(make, true, others, frozenset({5}))
    assert all(0.93 - UNSURE <= share <= 0.97 + UNSURE for share in held)


def test_what_a_seed_changes_in_all_variants_alike_widens_no_difference_between_them() -> None:
    drawn = np.random.default_rng(0)
    noise = [drawn.normal(0, 0.3, (3, 200)) + drawn.normal(0, 0.02, (3, 1)) for _ in range(5)]
    alike = drawn.normal(0, 0.3, (3, 1))
    paired, still = (
        intervals([*[one + moved for one in noise], np.zeros((1, 200))], NONE, frozenset({5}))
        for moved in (alike, 0)
    )
    ends = [found.difference(0, 1) for found in (paired, still)]
    assert ends[0].high - ends[0].low == pytest.approx(ends[1].high - ends[1].low, rel=0.1)
    against = [found.difference(0, 5) for found in (paired, still)]
    assert against[0].high - against[0].low > 3 * (against[1].high - against[1].low)


def test_the_more_variants_are_looked_at_the_wider_the_intervals() -> None:
    scores = sweep(np.random.default_rng(0), 12, 100, 1, 0)
    few, many = intervals(scores[:2], RECORDED), intervals(scores, RECORDED)
    two, twelve = few.difference(0, 1), many.difference(0, 1)
    assert two.mean == twelve.mean
    assert twelve.high - twelve.low > 1.3 * (two.high - two.low)


def test_what_all_variants_find_hard_widens_no_difference() -> None:
    drawn = np.random.default_rng(0)
    hard = drawn.random((1, 200))
    alike = [0.5 * hard + 0.1 * drawn.random((1, 200)) for _ in range(2)]
    apart = [0.5 * drawn.random((1, 200)) + 0.1 * drawn.random((1, 200)) for _ in range(2)]
    paired, unpaired = (intervals(scores, NONE).difference(0, 1) for scores in (alike, apart))
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_a_difference_is_the_other_way_round_with_its_sign_changed() -> None:
    found = intervals(sweep(np.random.default_rng(0), 3, 50, 3, 0.3), RECORDED)
    one, other = found.difference(0, 2), found.difference(2, 0)
    assert (one.mean, one.low, one.high) == pytest.approx((-other.mean, -other.high, -other.low))


def test_a_score_stays_within_0_to_1_and_a_loss_need_not() -> None:
    rare = [np.zeros((1, 40)), np.array([[1.0] + [0.0] * 39])]
    found = intervals(rare, RECORDED)
    assert [found.mean(at).low >= 0 for at in (0, 1)] == [True, True]
    assert found.mean(0).high > 0.05  # 0 of 40 does not show that it is 0
    assert intervals([-one for one in rare], RECORDED).mean(1).high > 0


def test_a_seed_moves_the_scores_of_trained_variants_alone() -> None:
    drawn = np.random.default_rng(0)
    trained = [(drawn.random((1, 400)) < 0.5).astype(float) for _ in range(2)]
    of_seeds = SeedVariance(0.0, 0.01)
    plain, moved = (
        Simultaneous(trained, [range(1)] * 2, of_seeds, fixed).difference(0, 1)
        for fixed in (frozenset({0, 1}), frozenset[int]())
    )
    assert moved.high - moved.low > plain.high - plain.low


@pytest.mark.parametrize(
    "scores", [[np.ones((1, 9))], [np.ones((1, 9)), np.ones((1, 8))], [np.ones((1, 1))] * 2]
)
def test_what_cannot_be_compared_is_refused(scores: Scores) -> None:
    with pytest.raises(ValueError, match="example"):
        Simultaneous(scores, [range(1)] * len(scores), RECORDED)
