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

    Raises `FtlabError` if none is left.
    """
    formatted = [formatter.format(example) for example in examples]
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


def training_order(examples: int, needed: int, seed: int) -> list[int]:
    """Indices of `needed` examples: one shuffled pass after another, decided by the seed alone."""
    generator = random.Random(seed)
    order: list[int] = []
    while len(order) < needed:
        one_pass = list(range(examples))
        generator.shuffle(one_pass)
        order.extend(one_pass)
    return order[:needed]


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
