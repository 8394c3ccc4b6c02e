"""From a name or pasted text to a config; one that no published model reaches is refused."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.models.dimensions import catalogue, known_model
from ftlab.prediction.source import MAX_CHARACTERS, check_sizes, find_config
from tests.architectures import FAMILIES, config_of

LLAMA = {"model_type": "llama", "hidden_size": 64}


def test_a_config_is_pasted() -> None:
    found = find_config(f"  {json.dumps(LLAMA)} ")
    assert (found.label, found.config) == ("pasted config", LLAMA)


def test_a_config_is_read_from_a_folder_without_weights_and_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "other.json").write_text(json.dumps(LLAMA))
    for name in (str(tmp_path), str(tmp_path / "config.json"), str(tmp_path / "other.json")):
        assert find_config(name).config == LLAMA
    assert find_config(str(tmp_path)).label == tmp_path.name
    assert find_config(str(tmp_path / "other.json")).label == "other"


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B", "llama-3.1-8b", " Llama 3.1 8B "])
def test_a_model_of_the_catalogue_goes_by_id_short_id_or_label(name: str) -> None:
    found = find_config(name)
    assert (found.label, found.config["hidden_size"]) == ("Llama 3.1 8B", 4096)


def test_the_bundled_model_is_in_the_catalogue() -> None:
    assert find_config("bundled").config["num_hidden_layers"] == 30


def test_the_catalogue_holds_each_model_once() -> None:
    names = [name for model in catalogue() for name in (model.id.lower(), model.label.lower())]
    assert len(names) == len(set(names))
    assert known_model("no such model") is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "No model is named"),
        ("{nonsense", "not valid JSON, line 1"),
        ('{"a": 1} [', "not valid JSON"),
        ("a\x00b", "NUL"),
        ("../no-such-file", "cannot be read"),
        ("/no/such/folder", r"cannot be read \(No such file"),
        ("not a model!", "names no model"),
        ('{"a": "' + "x" * MAX_CHARACTERS + '"}', "more than 200,000 characters"),
    ],
)
def test_what_is_no_config_is_said_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(FtlabError, match=sentence):
        find_config(text)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [(b"[1]", "no JSON object"), (b"\xff\xfe", "no text in UTF-8"), (b"", "not valid JSON")],
)
def test_a_file_that_is_no_config_is_named(data: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(FtlabError, match=sentence) as caught:
        find_config(str(tmp_path))
    assert "config.json" in str(caught.value)


def test_a_hub_out_of_reach_leaves_the_catalogue_and_pasting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FtlabError, match=r"'someone/model' could not be had.*Paste its"):
        find_config("someone/model")


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
        check_sizes({**LLAMA, **changed})
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
        find_config(json.dumps({**LLAMA, "num_hidden_layers": 500_000}))


@pytest.mark.parametrize(
    "config",
    [
        *[pytest.param(model.config, id=model.id) for model in catalogue()],
        *[pytest.param(config_of(kind).to_dict(), id=kind) for kind in FAMILIES],
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
def test_what_published_models_have_passes(config: Mapping[str, Any]) -> None:
    check_sizes(config)
