"""Padding and the fingerprint of training examples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ftlab.tasks.formatting import FileTokenizer, FormattedExample, PromptFormatter
from ftlab.tasks.spec import Example, Message
from ftlab.training.step import IGNORED, OrderedExamples, collate


def example(question: str, answer: str) -> Example:
    return Example((Message("user", question),), answer)


@pytest.fixture(scope="module")
def formatter(tiny_model: Path) -> PromptFormatter:
    return PromptFormatter(FileTokenizer(tiny_model))


def test_padding_is_on_the_right_and_only_the_completion_carries_loss(
    formatter: PromptFormatter,
) -> None:
    items = [formatter.format(example("a", "yes")), formatter.format(example("longer", "no"))]
    batch = collate(items, pad_id=0)
    rows, length = batch["input_ids"].shape
    assert rows == 2
    assert length % 8 == 0
    assert 0 <= length - max(item.length for item in items) < 8
    for row, item in enumerate(items):
        labels = batch["labels"][row]
        assert labels[labels != IGNORED].tolist() == list(item.completion_ids)
        assert batch["attention_mask"][row].sum() == item.length
        assert torch.all(batch["attention_mask"][row, : item.length] == 1)


def test_the_fingerprint_is_of_the_tokens_in_their_order_and_of_nothing_else() -> None:
    one, two = (FormattedExample("a", "b", (n, 2), (3,)) for n in (1, 7))
    first = OrderedExamples([one, two], [0, 1, 0]).fingerprint()
    assert first == OrderedExamples([two, one], [1, 0, 1]).fingerprint()
    for other, order in (([one, two], [0, 0, 1]), ([one, two], [0, 1]), ([one, one], [0, 1, 0])):
        assert OrderedExamples(other, order).fingerprint() != first
    moved = FormattedExample("a", "b", (1,), (2, 3))  # the same tokens, more of them with loss
    assert OrderedExamples([moved, two], [0, 1, 0]).fingerprint() != first
