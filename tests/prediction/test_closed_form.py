"""Memory by formula, for what cannot be simulated."""

from __future__ import annotations

from typing import Any

import pytest

from ftlab.methods.variant import Variant
from ftlab.models.catalogue import known_model
from ftlab.prediction.closed_form import Dimensions, dimensions, memory_breakdown, reserved
from ftlab.prediction.question import Step

SIZE = Dimensions(hidden=64, layers=2, heads=4, vocabulary=1_000)


def parts(method: str = "lora", **step: Any) -> dict[str, int]:
    return memory_breakdown(SIZE, Variant(method), Step(**{"length": 128} | step), 1_000, 101_000)


def test_dimensions_are_read_by_either_name() -> None:
    for name, size in (("Llama 3.2 1B", (2048, 16, 32, 128256)), ("GPT-2", (768, 12, 12, 50257))):
        model = known_model(name)
        assert model is not None
        assert dimensions(model.config) == Dimensions(*size)


@pytest.mark.parametrize(
    "config", [{}, {"hidden_size": 64}, {"hidden_size": 1, "num_hidden_layers": 1,
               "num_attention_heads": 1, "vocab_size": 1, "num_local_experts": 8}],
)  # fmt: skip
def test_of_a_mixture_of_experts_or_half_a_config_there_is_no_formula(config: Any) -> None:
    assert dimensions(config) is None


def test_an_adapter_is_held_in_fp32_with_two_moments() -> None:
    found = parts()
    assert found["weights"] == 2 * 100_000 + 4 * 1_000
    assert found["optimizer"] == 8 * 1_000
    assert parts("full")["optimizer"] == 4 * 1_000
    assert parts(optimizer="paged_adamw_8bit")["optimizer"] == 0


def test_each_choice_goes_the_way_that_it_should() -> None:
    usual = parts()["activations"]
    assert parts(checkpointing=True)["activations"] < usual
    assert parts(attention="eager")["activations"] > usual
    assert parts(length=64)["activations"] < usual
    assert parts(completion_tokens=8)["activations"] < usual
    assert parts(packing="nf4")["weights"] < parts(packing="int8")["weights"] < parts()["weights"]
    assert parts(accumulation=2)["gradients"] == 4 * 1_000


def test_the_allocator_holds_a_little_more_than_lives() -> None:
    found = parts()
    assert sum(found.values()) < reserved(found) < 1.1 * sum(found.values())
