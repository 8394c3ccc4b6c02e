"""Paired intervals."""

from __future__ import annotations

import pytest

from ftlab.runs.statistics import paired_interval


def test_a_certain_gain_has_no_width() -> None:
    assert paired_interval([0.0] * 10, [1.0] * 10) == (1.0, 1.0, 1.0)


def test_a_gain_within_the_noise_has_an_interval_around_zero() -> None:
    mean, low, high = paired_interval([0.0, 1.0] * 20, [1.0, 0.0] * 20)
    assert mean == 0
    assert low < 0 < high


def test_the_interval_agrees_with_the_normal_one_for_many_examples() -> None:
    after = [1.0] * 50 + [0.0] * 50
    mean, low, high = paired_interval([0.0] * 100, after)
    assert mean == 0.5
    assert low == pytest.approx(0.5 - 1.96 * 0.05, abs=0.015)
    assert high == pytest.approx(0.5 + 1.96 * 0.05, abs=0.015)


def test_unlike_lists_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_interval([1.0], [1.0, 2.0])
