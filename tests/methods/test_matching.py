"""Sizes chosen so that about as many parameters learn, and a sentence where they cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.methods.dimensions import ModelShape, shape_from
from ftlab.methods.limits import (
    Match,
    describe,
    incompatible_with_model,
    match_parameters,
    read_budget,
)
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant, parse_variant, trainable_parameters, validate_variant
from ftlab.models.dimensions import shape_of_model

CANNOT = {
    "full": "it trains every weight",
    "last_layers": "Blocks 1 is as small as it gets here, with",
    "layer_norm": "it has nothing to set its size with",
    "bitfit": "it cannot be trained on this model",
    "ia3": "it has nothing to set its size with",
    "vera": "Rank r 4096 is as large as it gets here",
    "lokr": "is as large as it gets here",
    "prompt_tuning": "Soft tokens 200 is as large as it gets here, with 115.2 k",
    "prompt_tuning_text": "Soft tokens 200 is as large as it gets here, with 115.2 k",
}
"""Why a method cannot have as many parameters as LoRA at rank 8 on the bundled model's layers."""

BY_HAND = 'peft:config={"peft_type":"C3A","block_size":64}'
"""A configuration that no formula counts."""


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    """Thirty blocks of the sizes of the bundled model, and its embeddings."""
    block = {
        "self_attn.q_proj": (576, 576), "self_attn.k_proj": (192, 576),
        "self_attn.v_proj": (192, 576), "self_attn.o_proj": (576, 576),
        "mlp.gate_proj": (1536, 576), "mlp.up_proj": (1536, 576), "mlp.down_proj": (576, 1536),
        "input_layernorm": (576,), "post_attention_layernorm": (576,),
    }  # fmt: skip
    weights: dict[str, tuple[int, ...]] = {
        f"model.layers.{number}.{name}.weight": size
        for number in range(30)
        for name, size in block.items()
    }
    weights |= {"model.embed_tokens.weight": (49152, 576), "model.norm.weight": (576,)}
    config = {
        "model_type": "llama", "hidden_size": 576, "num_attention_heads": 9,
        "num_key_value_heads": 3, "max_position_embeddings": 8192,
    }  # fmt: skip
    return shape_from(weights, config)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_within_a_tenth_of_the_budget_or_says_why_not(
    method: str, shape: ModelShape
) -> None:
    budget = read_budget("lora", shape)
    assert budget == 2_442_240
    (match,) = match_parameters([Variant(method)], shape, budget)
    assert match.parameters == trainable_parameters(match.variant, shape)
    assert validate_variant(match.variant) == []
    assert method == "bitfit" or incompatible_with_model(match.variant, shape) is None
    assert match.parameters is not None
    assert (abs(match.parameters - budget) <= 0.1 * budget) == (method not in CANNOT)
    assert match.reason.startswith(CANNOT.get(method, "")) or CANNOT[method] in match.reason
    assert bool(match.reason) == (method in CANNOT)


def test_the_method_that_gives_the_budget_stays_as_it_is(shape: ModelShape) -> None:
    for text in ("lora:r=13,alpha=20", "fourierft:n=12345", "vera:r=1023"):
        variant = parse_variant(text)
        budget = read_budget(text, shape)
        assert budget is not None
        assert match_parameters([variant], shape, budget)[0].variant == variant


def test_what_scales_the_overlay_keeps_its_ratio_to_the_rank(shape: ModelShape) -> None:
    values = [match.variant.values() for match in matched(["lora", "adalora", "rslora"], shape)]
    lora, adalora, rslora = values
    assert (lora["r"], lora["alpha"]) == (32, 64)
    assert adalora["init_r"] == 32
    assert adalora["r"] == round(8 * 32 / 12)
    assert rslora["r"] == 32
    assert rslora["alpha"] == Variant("rslora").values()["alpha"]


def test_a_ratio_is_kept_only_within_the_range_of_what_can_be_set(shape: ModelShape) -> None:
    (match,) = match_parameters([parse_variant("lora:alpha=1")], shape, 610_000)
    assert (match.variant.values()["r"], match.variant.values()["alpha"]) == (2, 1)


def matched(texts: list[str], shape: ModelShape) -> list[Match]:
    """Near four times LoRA's parameters."""
    budget = 4 * 2_442_240
    return match_parameters([parse_variant(text) for text in texts], shape, budget)


def test_a_size_that_was_set_is_replaced_and_other_values_stay(shape: ModelShape) -> None:
    (match,) = matched(["lora:r=2,dropout=0.1,targets=attention,learning_rate=1e-4"], shape)
    values = match.variant.values()
    assert (values["dropout"], values["targets"]) == (0.1, "attention")
    assert match.variant.learning_rate == 1e-4
    assert values["r"] > 32


@pytest.mark.parametrize(
    ("budget", "rank", "reason"),
    [
        (100_000_000, 192, "Rank r 192 is as large as it gets here, with 58.6 M"),
        (450_000, 1, "Rank r goes in steps: 305.3 k or 610.6 k"),
    ],
)
def test_where_no_size_fits_the_nearest_is_taken_with_the_reason(
    budget: int, rank: int, reason: str, shape: ModelShape
) -> None:
    (match,) = match_parameters([Variant("lora")], shape, budget)
    assert (match.variant.values()["r"], match.reason) == (rank, reason)
    assert f", not within 10 %: {reason}" in describe(match, budget)


def test_the_description_of_a_match_has_its_label_and_both_counts(shape: ModelShape) -> None:
    (match,) = match_parameters([Variant("lora")], shape, 450_000)
    assert describe(match, 450_000).startswith("LoRA alpha=2 r=1: 305.3 k trainable of 450.0 k, ")


def test_a_variant_of_unknown_size_is_not_changed(shape: ModelShape) -> None:
    variant = parse_variant(BY_HAND)
    (match,) = match_parameters([variant], shape, 1000)
    assert match == Match(variant, None, "how many it trains is not known before it runs")


@pytest.mark.parametrize(
    ("text", "budget"),
    [("2.4M", 2_400_000), ("500k", 500_000), ("1,200,000", 1_200_000), ("1e6", 1_000_000),
     (" 3 b ", 3_000_000_000), ("lora:r=16", 4_884_480), ("", None), ("  ", None)],
)  # fmt: skip
def test_a_budget_is_a_number_or_what_a_method_trains(
    text: str, budget: int | None, shape: ModelShape
) -> None:
    assert read_budget(text, shape) == budget


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("2,4M", "neither a number of parameters, as in 2.4M or 500k, nor a method"),
        ("lorra", "Did you mean 'lora'?"),
        ("-5", "neither a number"),
        ("0", "must be at least 1"),
        ("0.2", "must be at least 1"),
        ("bitfit", "no biases"),
        ("shira:r=500", "rank 500 is above 418"),
        ("lora:r=9999", "it must lie between"),
        (BY_HAND, "is not known before it runs"),
    ],
)
def test_a_budget_that_cannot_be_read_says_what_can(
    text: str, part: str, shape: ModelShape
) -> None:
    with pytest.raises(FtlabError) as caught:
        read_budget(text, shape)
    assert part in str(caught.value)


def test_nothing_is_matched_on_a_model_that_is_not_here() -> None:
    assert read_budget("", None) is None
    with pytest.raises(FtlabError, match="on this machine; fetch it first"):
        read_budget("2M", None)


def test_a_tiny_model_is_matched_as_well(tiny_model: Path) -> None:
    shape = shape_of_model(str(tiny_model))
    assert shape is not None
    matches = match_parameters([Variant(id) for id in METHODS if id != "bitfit"], shape, 4000)
    near = [match for match in matches if not match.reason]
    assert len(near) >= 18
    assert all(incompatible_with_model(match.variant, shape) is None for match in near)
