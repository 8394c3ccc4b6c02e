"""The order of the training examples, and the batches that come of it."""

from __future__ import annotations

import random

import pytest

from ftlab.settings.training import EVALUATION_BATCH
from ftlab.tasks.formatting import (
    WINDOW_STEPS,
    BatchSize,
    FormattedExample,
    Scoring,
    longest_batch,
    mean_tokens,
    padded_length,
    scoring_batch,
    training_order,
)

LENGTHS = [20 + 7 * index % 50 for index in range(40)]


def test_the_order_is_the_seeds_alone_and_passes_over_all_before_repeating() -> None:
    order = training_order(LENGTHS, steps=20, step_size=4, seed=3)
    assert order == training_order(LENGTHS, steps=20, step_size=4, seed=3)
    assert order != training_order(LENGTHS, steps=20, step_size=4, seed=4)
    assert sorted(order) == sorted(2 * list(range(40)))


def padded_tokens(order: list[int], batch: int) -> int:
    batches = [order[i : i + batch] for i in range(0, len(order), batch)]
    return sum(len(b) * max(LENGTHS[i] for i in b) for b in batches)


def test_steps_hold_examples_of_like_length_and_come_in_no_order_of_length() -> None:
    order = training_order(LENGTHS, steps=10, step_size=4, seed=0)
    shuffled = random.Random(0).sample(range(40), 40)
    real = sum(LENGTHS)
    assert padded_tokens(order, 4) - real < 0.4 * (padded_tokens(shuffled, 4) - real)
    longest = [max(LENGTHS[i] for i in order[s : s + 4]) for s in range(0, 40, 4)]
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_a_long_run_meets_long_and_short_examples_in_every_window() -> None:
    lengths = list(range(10, 1010))
    order = training_order(lengths, steps=250, step_size=4, seed=0)
    window = WINDOW_STEPS * 4
    for first in range(0, 1000 - window, window):
        met = [lengths[i] for i in order[first : first + window]]
        assert min(met) < 200
        assert max(met) > 800


@pytest.mark.parametrize("examples", [8, 20, 40, 100])
def test_a_small_set_is_not_dealt_as_steps_of_one_example(examples: int) -> None:
    lengths = [20 + index % 7 for index in range(examples)]
    order = training_order(lengths, steps=30, step_size=4, seed=0)
    distinct = [len(set(order[s : s + 4])) for s in range(0, 120, 4)]
    passes_meet = 30 * 4 // examples
    assert sum(count < 4 for count in distinct) <= passes_meet
    assert min(distinct) >= 2
    counts = [order.count(index) for index in range(examples)]
    assert max(counts) - min(counts) <= 1


def test_batches_are_padded_to_a_multiple_of_eight() -> None:
    assert [padded_length([3, n]) for n in (3, 8, 9, 16)] == [8, 8, 16, 16]


SIZES = [(4, 2), (11, 3), (9, 1), (2, 2), (10, 6), (3, 3)]
EXAMPLES = [FormattedExample("", "", (0,) * (n - c), (0,) * c) for n, c in SIZES]
"""Of so many tokens, and so many of them in the completion."""
ORDER = [0, 3, 1, 2, 5, 4, 0]


def test_the_longest_batch_has_most_tokens_with_its_padding_and_then_most_loss() -> None:
    found, batch = longest_batch(EXAMPLES, ORDER, 2)
    assert found == BatchSize(rows=2, length=16, completion_tokens=9)
    assert list(batch) == [5, 4]


def test_the_mean_tokens_of_a_batch_count_its_padding() -> None:
    assert mean_tokens(EXAMPLES, ORDER, 2) == (2 * 8 + 2 * 16 + 2 * 16 + 1 * 8) / 4


def test_answers_are_scored_to_the_longest_prompt_and_a_batch_at_most() -> None:
    assert scoring_batch(EXAMPLES, 96) == Scoring(rows=6, prompt=8, new_tokens=96)
    assert scoring_batch(EXAMPLES * 4, 96).rows == EVALUATION_BATCH
