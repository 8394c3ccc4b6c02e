"""Adapters that start from the base's weights have the sizes of real ones without any."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import save
from transformers import AutoModelForCausalLM

from ftlab.prediction.adapters import adapter_from
from ftlab.prediction.question import Prediction, Step, ask_about
from ftlab.prediction.simulation.step import predict

TARGETS = ["q_proj", "v_proj"]
CONFIGS: list[dict[str, Any]] = [
    {"peft_type": "FROD", "target_modules": TARGETS, "sparse_rate": 0.02},
    {"peft_type": "UNILORA", "target_modules": TARGETS, "r": 4, "theta_d_length": 64},
    {"peft_type": "PSOFT", "target_modules": TARGETS, "r": 8, "psoft_svd": "full"},
    {"peft_type": "PSOFT", "target_modules": TARGETS, "r": 8, "psoft_svd": "lowrank"},
]
ADAMSS = {"peft_type": "ADAMSS", "target_modules": TARGETS, "r": 8, "num_subspaces": 4,
          "subspace_rank": 1}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tiny_model: Path) -> Path:
    return tiny_model


def predicted(folder: Path, config: dict[str, Any], **step: Any) -> Prediction:
    model = json.loads((folder / "config.json").read_text())
    (question,) = ask_about(model, [adapter_from(config)], Step(32, weights="fp32", **step))
    return predict(question)


def as_it_is(folder: Path, config: dict[str, Any]) -> tuple[int, int]:
    """Parameters that learn, and bytes of the file, of the adapter on real weights."""
    kept = {name: value for name, value in config.items() if name != "peft_type"}
    made = PEFT_TYPE_TO_CONFIG_MAPPING[config["peft_type"]](task_type="CAUSAL_LM", **kept)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(base, made)
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    tensors = {name: t.contiguous() for name, t in get_peft_model_state_dict(model).items()}
    return learning, len(save(tensors, {"format": "pt"}))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config["peft_type"]))
def test_parameters_and_file_are_those_of_the_adapter_on_weights(
    config: dict[str, Any], folder: Path
) -> None:
    found = predicted(folder, config, device="cuda")
    assert (found.reason, found.how) == ("", "simulated")
    assert (found.trainable_params, found.adapter_bytes) == as_it_is(folder, config)


def test_adamss_is_predicted_where_scikit_learn_is_not_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlab.prediction.simulation.starts.find_spec", lambda name: None)
    before = sys.modules.get("sklearn")
    found = predicted(folder, ADAMSS)
    assert (found.reason, found.how) == ("", "simulated")
    config = json.loads((folder / "config.json").read_text())
    width, keys = config["hidden_size"], config["num_key_value_heads"] * config["head_dim"]
    per_layer = width + keys + 2 * 4 * 8  # B has a row for each output, A one for each cluster
    assert found.trainable_params == config["num_hidden_layers"] * per_layer
    assert sys.modules.get("sklearn") is before


def test_adamss_has_the_parameters_of_real_clusters(folder: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn makes AdaMSS's clusters")
    found = predicted(folder, ADAMSS)
    assert (found.trainable_params, found.adapter_bytes) == as_it_is(folder, ADAMSS)


def test_on_cuda_psoft_keeps_all_of_the_decomposition_that_it_needs_a_part_of(
    folder: Path,
) -> None:
    """cuSOLVER's last factor lies by rows, so its first rows are no copy."""
    full, part = (predicted(folder, CONFIGS[n] | {"r": 4}, device="cuda") for n in (2, 3))
    assert full.peak_allocated_bytes is not None
    assert part.peak_allocated_bytes is not None
    assert full.peak_allocated_bytes > part.peak_allocated_bytes


def test_a_pruned_adalora_is_as_small_as_its_rank_pattern_says(folder: Path) -> None:
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    pattern = {
        f"model.layers.{layer}.self_attn.{name}.lora_E": [True, False, True, False]
        for layer in range(layers) for name in TARGETS
    }  # fmt: skip
    whole = {"peft_type": "ADALORA", "init_r": 4, "target_r": 2, "total_step": 1_000,
             "tinit": 100, "tfinal": 100, "target_modules": TARGETS}  # fmt: skip
    sizes = [predicted(folder, whole | part) for part in ({}, {"rank_pattern": pattern})]
    assert [found.reason for found in sizes] == ["", ""]
    assert (sizes[1].adapter_bytes or 0) < 0.8 * (sizes[0].adapter_bytes or 0)
