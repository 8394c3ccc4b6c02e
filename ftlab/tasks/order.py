"""The order of the training examples, equal for all variants, and its batches. No torch."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ftlab.tasks.formatting import FormattedExample

WINDOW_STEPS = 16
"""Number of steps whose examples are sorted by length together. Small, so that lengths stay mixed
in a long run; 64 would reduce the padding of the bundled tasks by less than another 1 %."""


def training_order(lengths: Sequence[int], steps: int, step_size: int, seed: int) -> list[int]:
    """The example indices of all steps, `steps * step_size` in total, one step after another.

    Examples are drawn in shuffled passes. The examples of `WINDOW_STEPS` steps are then assigned to
    these steps by length, so that batches need little padding, and the steps are shuffled. Examples
    of one pass are assigned before those of the next; otherwise a step could have one example
    several times. `lengths` are in tokens. The result depends only on the arguments, and a step's
    examples do not depend on how its `step_size` is split into batches.
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
"""Batches are padded to a multiple of this length. Tensor cores prefer it. On a CPU, oneDNN caches
packed buffers for every shape, so fewer shapes use less memory (LoRA, 30 steps of batch 4: 801 MB
instead of 1,065)."""


def padded_length(lengths: Iterable[int]) -> int:
    """The padded row length, in tokens, of a batch with examples of those lengths."""
    return math.ceil(max(lengths) / LENGTH_MULTIPLE) * LENGTH_MULTIPLE


@dataclass(frozen=True)
class BatchSize:
    """`rows` of `length` tokens each, with padding; `completion_tokens` in total have loss."""

    rows: int
    length: int
    completion_tokens: int


def longest_batch(
    formatted: Sequence[FormattedExample], order: Sequence[int], batch_size: int
) -> tuple[BatchSize, Sequence[int]]:
    """The batch that takes the most memory, and the examples in it.

    It is the one with the longest padded rows, and among equals the most completion tokens.
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
