"""A config that is larger than any published model's is refused before anything is built."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.models.catalogue import KnownModel, catalogue
from ftlab.prediction.source import check_sizes, find_config
from tests.architectures import FAMILIES, config_of

LLAMA: dict[str, Any] = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 2}


@pytest.mark.hostile("model configs")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_hidden_layers": 500_000}, "'num_hidden_layers' in the config is 500,000"),
        ({"num_hidden_layers": 10**9}, "1,000,000,000; published models have at most 512 (layers)"),
        ({"num_hidden_layers": -(10**9)}, "-1,000,000,000"),
        ({"num_hidden_layers": 1e9}, "1,000,000,000.0"),
        ({"num_hidden_layers": float("nan")}, "nan"),
        ({"num_hidden_layers": 10**4000}, "is about 10^"),
        ({"n_layer": 5_000}, "'n_layer'"),
        ({"n_layers": 5_000}, "'n_layers'"),
        ({"num_layers": 5_000}, "'num_layers'"),
        ({"decoder_layers": 5_000}, "'decoder_layers'"),
        ({"encoder_layers": 5_000}, "'encoder_layers'"),
        ({"num_nextn_predict_layers": 5_000}, "'num_nextn_predict_layers'"),
        ({"depths": [2, 5_000]}, "'depths'"),
        ({"text_config": {"num_hidden_layers": 5_000}}, "'num_hidden_layers'"),
        ({"a": [{"b": {"num_hidden_layers": 5_000}}]}, "'num_hidden_layers'"),
        ({"num_local_experts": 10_000_000}, "(experts)"),
        ({"n_routed_experts": 10_000_000}, "(experts)"),
        ({"num_hidden_layers": 500, "num_experts": 4_000}, "4,000 experts in each of 500 layers"),
        ({"num_attention_heads": 10**6}, "(heads)"),
        ({"vocab_size": 10**10}, "(vocabulary)"),
        ({"hidden_size": 10**12}, "(width)"),
        ({"intermediate_size": 10**12}, "(width)"),
        ({"max_position_embeddings": 10**12}, "(positions)"),
        ({"num_unheard_of": 10**6}, "(count)"),
        ({"unheard_of": 10**40}, "'unheard_of'"),
        ({"layer_types": ["full_attention"] * 5_000}, "a list of 5,000 entries"),
        ({"x" * 500: 10**40}, "…"),
    ],
)  # fmt: skip
def test_what_no_published_model_reaches_is_refused_in_a_sentence(
    changed: dict[str, Any], said: str
) -> None:
    began = time.perf_counter()
    with pytest.raises(FtlabError) as refused:
        check_sizes(LLAMA | changed)
    assert time.perf_counter() - began < 0.1
    assert said in str(refused.value)
    assert len(str(refused.value)) < 400
    assert "config.json" in str(refused.value)


@pytest.mark.hostile("model configs")
def test_a_config_nested_without_end_is_refused() -> None:
    nested: dict[str, Any] = {}
    for _ in range(10_000):
        nested = {"text_config": nested}
    with pytest.raises(FtlabError, match="nested too deep"):
        check_sizes(nested)


@pytest.mark.hostile("model configs")
def test_a_pasted_config_is_refused_where_it_is_read() -> None:
    with pytest.raises(FtlabError, match="500,000"):
        find_config(json.dumps(LLAMA | {"num_hidden_layers": 500_000}))


@pytest.mark.parametrize("model", catalogue(), ids=lambda model: model.id)
def test_every_model_of_the_catalogue_passes(model: KnownModel) -> None:
    check_sizes(model.config)


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_architecture_that_is_tried_passes(kind: str) -> None:
    check_sizes(config_of(kind).to_dict())


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 15, "num_experts": 2_048},  # Switch-C
        {"num_hidden_layers": 61, "n_routed_experts": 384, "n_group": 1},  # Kimi K2
        {"num_hidden_layers": 315, "hidden_size": 16_384},  # BigLlama-3.1-1T
        {"max_position_embeddings": 10_485_760},  # Llama 4 Scout
        {"vocab_size": 901_629},  # XLM-V
        {"rope_theta": 100_000_000_000, "model_max_length": 10**18, "sliding_window": None},
        {"vision_feature_layer": -2, "vision_feature_select_strategy": "full", "pad_token_id": -1},
        {"eos_token_id": [128_001, 128_008], "tie_word_embeddings": True},
        {"logits_scaling": 0.1, "initializer_range": 1e-30, "attention_dropout": 0},
        {"time_step_limit": [0.0, float("inf")]},  # Mamba 2
    ],
)
def test_what_published_models_have_passes(config: dict[str, Any]) -> None:
    check_sizes(config)
