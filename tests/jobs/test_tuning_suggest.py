"""Which rate of a ladder is suggested, and where the ladder goes on."""

from __future__ import annotations

from ftlab.jobs.tuning import Point, extension, suggest


def ladder(losses: dict[float, float | None]) -> list[Point]:
    """Points by rate; `None` is a diverged run."""
    return [
        Point(rate, "diverged") if loss is None else Point(rate, "done", (loss,))
        for rate, loss in losses.items()
    ]


def test_the_lowest_loss_is_suggested() -> None:
    found = suggest(ladder({0.01: 0.9, 0.03: 0.5, 0.09: 0.7}))
    assert found.rate == 0.03
    assert found.reason == "0.03 has the lowest loss, 0.500."


def test_of_losses_within_one_per_cent_the_smaller_rate_is_suggested() -> None:
    found = suggest(ladder({0.01: 0.9, 0.03: 0.504, 0.09: 0.5, 0.27: 0.6}))
    assert found.rate == 0.03
    assert "0.03 and 0.09 lie within noise (0.504 against 0.500)" in found.reason
    assert suggest(ladder({0.01: 0.9, 0.03: 0.506, 0.09: 0.5, 0.27: 0.6})).rate == 0.09


def test_a_difference_that_the_examples_do_not_bear_out_is_noise() -> None:
    best = Point(0.03, "done", (0.5,), (0.9, 0.1, 0.9, 0.1))
    now_and_then = Point(0.01, "done", (0.53,), (0.1, 0.9, 0.1, 1.02))
    assert suggest([now_and_then, best]).rate == 0.01
    always_worse = Point(0.01, "done", (0.53,), (0.93, 0.13, 0.93, 0.13))
    assert suggest([always_worse, best]).rate == 0.03


def test_seeds_count_by_their_mean() -> None:
    points = [Point(0.01, "done", (0.4, 0.8)), Point(0.03, "done", (0.55, 0.55))]
    assert suggest(points).rate == 0.03


def test_a_diverged_run_is_never_suggested_and_what_lies_below_it_is_no_end() -> None:
    points = ladder({0.01: 0.9, 0.03: 0.5, 0.09: None})
    assert suggest(points).rate == 0.03
    assert extension(points) is None


def test_a_rate_of_which_one_seed_diverged_is_never_suggested() -> None:
    points = [Point(0.01, "done", (0.9,)), Point(0.03, "diverged", (0.1,))]
    assert suggest(points).rate == 0.01


def test_a_suggestion_at_an_end_extends_the_ladder_there_and_says_so() -> None:
    rising = ladder({0.01: 0.5, 0.03: 0.7, 0.09: 0.9})
    falling = ladder({0.01: 0.9, 0.03: 0.7, 0.09: 0.5})
    assert extension(rising) == 0.0033
    assert extension(falling) == 0.27
    assert "the lowest of the ladder: a lower rate may do better" in suggest(rising).reason
    assert "the highest of the ladder: a higher rate may do better" in suggest(falling).reason


def test_a_suggestion_inside_the_ladder_does_not_extend_it() -> None:
    assert extension(ladder({0.01: 0.9, 0.03: 0.5, 0.09: 0.7})) is None


def test_where_every_run_diverged_lower_rates_are_tried_and_nothing_is_suggested() -> None:
    points = ladder({0.01: None, 0.03: None})
    assert suggest(points).rate is None
    assert "Every run diverged, also at 0.01" in suggest(points).reason
    assert extension(points) == 0.0033


def test_a_method_that_is_not_applicable_or_fails_has_no_suggestion_and_no_more_runs() -> None:
    for status, words in (("not_applicable", "not applicable"), ("failed", "reasons of the runs")):
        points = [Point(0.01, status), Point(0.03, status)]
        assert suggest(points).rate is None
        assert words in suggest(points).reason
        assert extension(points) is None
