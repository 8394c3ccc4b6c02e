"""Examples as batches of tensors: in the order that all variants share, padded."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ftlab.tasks.formatting import FormattedExample
from ftlab.tasks.order import padded_length

IGNORED = -100
"""The label of a position that carries no loss, as torch's cross entropy has it."""

Batch = dict[str, Any]
"""Tensors of one batch, and facts about it as plain numbers, so that no step asks the device:

`input_ids`, `attention_mask` and `labels` are (rows, length). `kept` holds the places before each
completion token, counted through all rows, `targets` those tokens and `rows` the row of each, all
(tokens with loss,). `tokens` is how many are no padding.
"""


class OrderedExamples(Dataset[FormattedExample]):
    """The training set in the order in which it is seen."""

    def __init__(self, formatted: Sequence[FormattedExample], order: Sequence[int]) -> None:
        self._formatted = formatted
        self._order = order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> FormattedExample:
        return self._formatted[self._order[position]]

    def fingerprint(self) -> str:
        """SHA-256 over the tokens of the examples in order: equal where a model sees the same.

        Hashed are the SHA-256 of each example, one after another: the number of its prompt's tokens
        and all its token ids, as 32-bit little-endian numbers. The seed is not in it.
        """
        each = {index: _digest(self._formatted[index]) for index in dict.fromkeys(self._order)}
        return hashlib.sha256(b"".join(each[index] for index in self._order)).hexdigest()


def _digest(example: FormattedExample) -> bytes:
    numbers = (len(example.prompt_ids), *example.prompt_ids, *example.completion_ids)
    return hashlib.sha256(struct.pack(f"<{len(numbers)}I", *numbers)).digest()


def collate(examples: Sequence[FormattedExample], pad_id: int) -> Batch:
    """Pads on the right.

    Padding is masked by attention, never by token id: some models pad with their end token.
    """
    length = padded_length(example.length for example in examples)
    shape = (len(examples), length)
    input_ids = torch.full(shape, pad_id)
    attention_mask = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    for row, example in enumerate(examples):
        tokens = torch.tensor(example.prompt_ids + example.completion_ids)
        input_ids[row, : example.length] = tokens
        attention_mask[row, : example.length] = 1
        labels[row, len(example.prompt_ids) : example.length] = tokens[len(example.prompt_ids) :]
    return make_batch(input_ids, attention_mask, labels)


def make_batch(input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Batch:
    """The batch of those tensors on the CPU. The first token of a row has none before it."""
    carries = labels[:, 1:] != IGNORED
    rows, places = carries.nonzero().unbind(1)
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "kept": rows * labels.shape[1] + places,
        "targets": labels[:, 1:][carries],
        "rows": rows,
        "tokens": int(attention_mask.sum()),
    }


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }
