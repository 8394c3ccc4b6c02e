"""The order in which all variants see the examples, and the batches that come of it. No torch."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ftlab.tasks.formatting import FormattedExample

WINDOW_STEPS = 16
"""Steps whose examples are sorted by length together. Few enough that a long run still meets the
lengths mixed; 64 would cut the padding of the bundled tasks by less than another 1 %."""


def training_order(lengths: Sequence[int], steps: int, step_size: int, seed: int) -> list[int]:
    """Indices of the examples of every step, `steps * step_size` of them, one step after another.

    Examples come in shuffled passes. The examples of `WINDOW_STEPS` steps are then dealt to them by
    length, so that batches need little padding, and the steps shuffled; those of one pass are dealt
    before those of the next, or a step would hold one example several times. `lengths` are in
    tokens; with them, the seed alone decides. Which examples a step holds does not depend on how
    its `step_size` is split into batches.
    """
    generator = random.Random(seed)
    drawn: list[int] = []
    while len(drawn) < steps * step_size:
        one_pass = list(range(len(lengths)))
        generator.shuffle(one_pass)
        drawn.extend(one_pass)
    order: list[int] = []
    for first in range(0, steps, WINDOW_STEPS):
        last = min(first + WINDOW_STEPS, steps)
        window = sorted(
            range(first * step_size, last * step_size),
            key=lambda position: (position // len(lengths), lengths[drawn[position]]),
        )
        dealt = [window[i : i + step_size] for i in range(0, len(window), step_size)]
        generator.shuffle(dealt)
        order.extend(drawn[position] for step in dealt for position in step)
    return order


LENGTH_MULTIPLE = 8
"""Batches are padded to a multiple of this: tensor cores want it, and on a CPU oneDNN keeps packed
buffers for every shape it meets, so fewer shapes are less memory (LoRA, 30 steps of batch 4:
801 MB instead of 1,065)."""


def padded_length(lengths: Iterable[int]) -> int:
    """Tokens of each row of a batch with examples of those lengths."""
    return math.ceil(max(lengths) / LENGTH_MULTIPLE) * LENGTH_MULTIPLE


@dataclass(frozen=True)
class BatchSize:
    """`rows` of `length` tokens each, padding included; `completion_tokens` in all carry loss."""

    rows: int
    length: int
    completion_tokens: int


def longest_batch(
    formatted: Sequence[FormattedExample], order: Sequence[int], batch_size: int
) -> tuple[BatchSize, Sequence[int]]:
    """The batch that takes most memory, and the examples in it.

    It is the one with most tokens, padding included, and of those the one with most loss.
    """
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    sized = [(_size([formatted[index] for index in batch]), batch) for batch in batches]
    return max(sized, key=lambda each: (each[0].length, each[0].completion_tokens))


def _size(batch: Sequence[FormattedExample]) -> BatchSize:
    return BatchSize(
        len(batch),
        padded_length(example.length for example in batch),
        sum(len(example.completion_ids) for example in batch),
    )
