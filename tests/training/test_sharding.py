"""A run divided over ranks, which on a CPU are processes that talk by gloo."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.tasks.formatting import FormattedExample
from ftlab.training.ranks import Ranks
from ftlab.training.step import collate
from tests.training.one_rank import trained

WAYS = ("full", "lora/accumulated", "full/by parts", "full/bf16")


@pytest.mark.slow
def test_two_ranks_have_the_losses_of_one_process_and_each_a_half_of_the_weights(
    tiny_model: Path,
) -> None:
    alone, together = (trained(count, tiny_model, *WAYS) for count in (1, 2))
    for way in WAYS:
        losses = together[way]["losses"]
        # In 16 bits embeddings add their gradient by rows (`cpu_updates`), which rounds otherwise.
        apart = 5e-3 if way == "full/bf16" else 1e-5
        assert losses == pytest.approx(alone[way]["losses"], abs=apart), way
        assert losses[-1] < losses[0], way
        assert together[way]["tokens"] == alone[way]["tokens"], "those of both ranks"
    assert together["full"]["held"] == pytest.approx(alone["full"]["held"] / 2, rel=0.01)
    # The mean, which by gloo was their sum once: pytorch#162338.
    assert together["gradients"] == pytest.approx([3 / 2] * 15, rel=1e-6)


def examples(lengths: list[int]) -> list[FormattedExample]:
    return [FormattedExample("", "", (5,) * 2, (7,) * (length - 2)) for length in lengths]


def test_the_rows_of_a_batch_are_divided_evenly_and_each_goes_to_one_rank() -> None:
    rows = list(range(7))
    parts = [list(Ranks(index, 3).rows(rows)) for index in range(3)]
    assert parts == [[0, 1, 2], [3, 4], [5, 6]]
    assert Ranks().rows(rows) == rows


def test_counts_of_a_batch_are_of_all_ranks() -> None:
    batch = examples([9, 20, 4, 5, 6])
    whole = collate(batch, 0)
    parts = [Ranks(index, 2).collate(batch, 0) for index in range(2)]
    for part in parts:
        assert part["tokens"] == whole["tokens"] == 44
        assert part["items"] == len(whole["targets"])
        assert part["padded"] == 3 * 24 + 2 * 8, "as much as the ranks pad their own rows"
    assert sum(len(part["targets"]) for part in parts) == len(whole["targets"])
