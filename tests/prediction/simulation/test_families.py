"""Models of other makes: their predicted bytes are those that torch hands out too."""

from __future__ import annotations

from typing import Any

import pytest

from ftlab.methods.variant import Variant
from ftlab.prediction.question import Step, ask_about
from ftlab.prediction.simulation.step import predict
from tests.prediction.simulation.test_real_memory import measured_bytes, predicted_bytes
from tests.slow import slow

SIZES = {
    "vocab_size": 2048, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen3": {"head_dim": 32},
    "mistral": {"sliding_window": 64},
    "gemma2": {"head_dim": 32, "sliding_window": 64},
    "gemma3_text": {"head_dim": 32, "sliding_window": 64},
    "phi": {"num_key_value_heads": 4},
    "phi3": {},
    "gpt2": {"n_embd": 128, "n_layer": 3, "n_head": 4, "n_positions": 256},
}


def config(family: str) -> dict[str, Any]:
    return {"model_type": family} | SIZES | FAMILIES[family]


ROWS = [
    ("llama", "full"),
    ("gpt2", "lora"),
    pytest.param("gpt2", "full", marks=pytest.mark.slow),
    *(
        pytest.param(family, "lora", marks=pytest.mark.slow)
        for family in FAMILIES
        if family != "gpt2"
    ),
]


@pytest.mark.parametrize(("family", "method"), ROWS)
def test_a_step_of_every_family_is_predicted(family: str, method: str) -> None:
    (question,) = ask_about(config(family), [Variant(method)], Step(96))
    assert predicted_bytes(question) == pytest.approx(measured_bytes(question), rel=0.01)


@pytest.mark.parametrize("method", slow(["dora", "vera"]))
def test_conv1d_layers_are_predicted_with_methods_that_ask_for_their_weights(method: str) -> None:
    (question,) = ask_about(config("gpt2"), [Variant(method)], Step(96))
    assert predicted_bytes(question) == pytest.approx(measured_bytes(question), rel=0.01)


@pytest.mark.parametrize("family", slow(["gemma2", "gpt2"]))
def test_eager_attention_is_predicted(family: str) -> None:
    (question,) = ask_about(config(family), [Variant("lora")], Step(96, attention="eager"))
    assert predicted_bytes(question) == pytest.approx(measured_bytes(question), rel=0.01)


@pytest.mark.parametrize("weights", ["fp32", "fp16"])
def test_every_type_of_weights_is_predicted(weights: Any) -> None:
    (question,) = ask_about(config("llama"), [Variant("lora")], Step(96, weights=weights))
    (half,) = ask_about(config("llama"), [Variant("lora")], Step(96))
    wide, narrow = (predict(each) for each in (question, half))
    assert wide.how == narrow.how == "simulated"
    times = 2 if weights == "fp32" else 1
    less = 12 * (narrow.trainable_params or 0)  # the adapter and its optimizer are in fp32 anyhow
    assert wide.anatomy["weights"] - less // 3 == pytest.approx(
        times * (narrow.anatomy["weights"] - less // 3), rel=0.02
    )


EXPERTS: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen3_moe": {
        "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 32,
    },
}  # fmt: skip


@pytest.mark.parametrize("family", slow(EXPERTS))
def test_a_mixture_of_experts_is_predicted(family: str) -> None:
    model = {"model_type": family} | SIZES | EXPERTS[family]
    (question,) = ask_about(model, [Variant("lora")], Step(96))
    assert predict(question).how == "simulated"
    assert predicted_bytes(question) == pytest.approx(measured_bytes(question), rel=0.01)
