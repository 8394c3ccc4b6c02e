"""A run divided over ranks, which on a CPU are processes that talk by gloo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ftlab.tasks.formatting import FormattedExample
from ftlab.training.ranks import Ranks
from ftlab.training.step import collate
from tests.training.one_rank import STEPS, trained

METHODS = ("full", "lora", "dora", "prompt_tuning")
WAYS = ("lora/accumulated", "full/checkpointing", "full/by parts")
IN_16_BITS = "full/bf16"


@pytest.fixture(scope="module")
def alone(tiny_model: Path) -> dict[str, Any]:
    return trained(1, tiny_model, *METHODS, *WAYS, IN_16_BITS)


@pytest.fixture(scope="module", params=[2, 4])
def together(request: pytest.FixtureRequest, tiny_model: Path) -> tuple[int, dict[str, Any]]:
    return request.param, trained(request.param, tiny_model, *METHODS, *WAYS, IN_16_BITS)


def test_losses_are_those_of_one_process(
    alone: dict[str, Any], together: tuple[int, dict[str, Any]]
) -> None:
    for way in (*METHODS, *WAYS):
        losses = together[1][way]["losses"]
        assert len(losses) == STEPS
        assert losses == pytest.approx(alone[way]["losses"], abs=1e-5), way
        assert losses[-1] < losses[0] or way == "prompt_tuning", way
        assert together[1][way]["tokens"] == alone[way]["tokens"], "those of all ranks"


def test_in_16_bits_losses_are_those_of_one_process_but_for_rounding(
    alone: dict[str, Any], together: tuple[int, dict[str, Any]]
) -> None:
    """There the embeddings add their gradient by rows (`cpu_updates`)."""
    losses, expected = together[1][IN_16_BITS]["losses"], alone[IN_16_BITS]["losses"]
    assert losses == pytest.approx(expected, abs=5e-3)
    assert losses[-1] < losses[0] - 0.1


def test_gradients_are_the_mean_of_the_ranks(together: tuple[int, dict[str, Any]]) -> None:
    """pytorch#162338: by gloo it was their sum once."""
    count, found = together
    assert found["gradients"] == pytest.approx([(count + 1) / 2] * 15, rel=1e-6)


def test_a_rank_holds_its_part_of_the_weights(
    alone: dict[str, Any], together: tuple[int, dict[str, Any]]
) -> None:
    count, found = together
    whole = alone["full"]["held"]
    assert found["full"]["held"] == pytest.approx(whole / count, rel=0.01)


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
