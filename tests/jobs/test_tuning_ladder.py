"""Ladders of learning rates."""

from __future__ import annotations

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.jobs.tuning import around, between, beyond, parse_rates
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant, validate_variant


def test_a_ladder_around_a_rate_has_it_in_the_middle_and_rates_three_times_apart() -> None:
    assert around(2e-3) == (6.7e-4, 2e-3, 6e-3)
    assert around(2e-3, points=4) == (6.7e-4, 2e-3, 6e-3, 1.8e-2)
    assert around(2e-3, points=1) == (2e-3,)


@pytest.mark.parametrize("method", METHODS)
def test_the_ladder_of_every_method_holds_its_own_rate_and_only_rates_that_are_valid(
    method: str,
) -> None:
    rates = around(METHODS[method].learning_rate)
    assert METHODS[method].learning_rate in rates
    assert not any(validate_variant(Variant(method, {}, rate)) for rate in rates)


def test_a_ladder_never_goes_above_the_highest_valid_rate() -> None:
    assert around(5.0) == (1.7, 5.0)


def test_a_ladder_between_two_ends_holds_both_exactly() -> None:
    assert between(1e-4, 1e-1, 4) == (1e-4, 1e-3, 1e-2, 1e-1)
    assert between(1.234e-4, 1e-3, 3) == (1.234e-4, 3.5e-4, 1e-3)
    assert between(1e-3, 2e-3, 2) == (1e-3, 2e-3)


@pytest.mark.parametrize(
    ("low", "high", "points", "part"),
    [
        (1e-2, 1e-3, 3, "from 0.01 to 0.001"),
        (0.0, 1e-3, 3, "must lie above 0"),
        (1e-3, 11.0, 3, "10 at most"),
        (1e-3, 1e-2, 1, "2 or more"),
        (1e-3, 1e-2, 21, "1 to 20"),
    ],
)
def test_a_ladder_that_cannot_be_made_is_said(
    low: float, high: float, points: int, part: str
) -> None:
    with pytest.raises(FtlabError, match=part):
        between(low, high, points)


def test_rates_by_commas_are_sorted_and_each_is_there_once() -> None:
    assert parse_rates("1e-2, 1e-3,0.01") == (1e-3, 1e-2)


@pytest.mark.parametrize("text", ["", "fast", "0", "-1e-3", "nan", "inf", "11"])
def test_what_is_no_learning_rate_is_refused(text: str) -> None:
    with pytest.raises(FtlabError, match="Rates"):
        parse_rates(text)


def test_the_next_rate_is_as_far_beyond_the_end_as_its_neighbour_is_within() -> None:
    assert beyond((1e-3, 2e-3, 8e-3), up=True) == 3.2e-2
    assert beyond((1e-3, 2e-3, 8e-3), up=False) == 5e-4
    assert beyond((1e-3,), up=True) == 3e-3
    assert beyond((1e-3,), up=False) == 3.3e-4
    assert beyond((2.0, 6.0), up=True) is None
