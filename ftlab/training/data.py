"""Examples as batches: tokens, the order that all variants share, and padding."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ftlab.errors import FtlabError
from ftlab.tasks.formatting import FormattedExample, PromptFormatter
from ftlab.tasks.spec import Example

IGNORED = -100
"""The label of a position that carries no loss, as torch's cross entropy has it."""

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class EncodedSet:
    """The examples that fit, in their order; `dropped` counts the ones that are too long."""

    examples: tuple[Example, ...]
    formatted: tuple[FormattedExample, ...]
    dropped: int

    def note(self, name: str, max_length: int) -> str:
        """A sentence on what was dropped, or "" where nothing was."""
        if not self.dropped:
            return ""
        total = self.dropped + len(self.examples)
        return (
            f"{self.dropped} of {total} {name} examples are longer than {max_length} tokens and "
            "were left out; raise the maximum length to use them."
        )


def encode(
    formatter: PromptFormatter, examples: Sequence[Example], max_length: int, name: str
) -> EncodedSet:
    """Formats the examples and leaves out, never cuts, the ones longer than `max_length`.

    Raises `FtlabError` if none is left, or if an answer comes out as no token at all.
    """
    formatted = [formatter.format(example) for example in examples]
    silent = [item for item in formatted if not item.completion_ids]
    if silent:
        raise FtlabError(
            f"{len(silent)} of {len(formatted)} {name} examples "
            f"{'has' if len(silent) == 1 else 'have'} an answer of no token for this model, "
            f"{silent[0].completion_text!r} for one; use another model, or leave them out."
        )
    kept = [i for i, item in enumerate(formatted) if item.length <= max_length]
    if not kept:
        shortest = min((item.length for item in formatted), default=0)
        raise FtlabError(
            f"All {len(formatted)} {name} examples are longer than {max_length} tokens; the "
            f"shortest has {shortest}. Raise the maximum length."
        )
    return EncodedSet(
        tuple(examples[i] for i in kept),
        tuple(formatted[i] for i in kept),
        len(formatted) - len(kept),
    )


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


class OrderedExamples(Dataset[FormattedExample]):
    """The training set in the order in which it is seen."""

    def __init__(self, formatted: Sequence[FormattedExample], order: Sequence[int]) -> None:
        self._formatted = formatted
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> FormattedExample:
        return self._formatted[self._order[position]]


LENGTH_MULTIPLE = 8
"""Batches are padded to a multiple of this: tensor cores want it, and on a CPU oneDNN keeps packed
buffers for every shape it meets, so fewer shapes are less memory (LoRA, 30 steps of batch 4:
801 MB instead of 1,065)."""


def collate(examples: Sequence[FormattedExample], pad_id: int) -> Batch:
    """Pads on the right: `input_ids`, `attention_mask`, `labels`, each (n, length).

    Padding is masked by attention, never by token id: some models pad with their end token.
    """
    longest = max(example.length for example in examples)
    length = math.ceil(longest / LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    shape = (len(examples), length)
    input_ids = torch.full(shape, pad_id)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.prompt_ids + example.completion_ids)
        input_ids[row, : example.length] = tokens
        attention_mask[row, : example.length] = 1
        labels[row, len(example.prompt_ids) : example.length] = tokens[len(example.prompt_ids) :]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
