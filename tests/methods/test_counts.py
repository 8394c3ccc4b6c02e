"""Trainable parameters in closed form, held against the model that PEFT makes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils import constants
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from ftlab.methods.dimensions import ModelShape
from ftlab.methods.families.full import NORM_LAYERS
from ftlab.methods.families.structured import IA3_INPUTS, IA3_LAYERS
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant, parse_variant, trainable_parameters
from ftlab.models.bundled import bundled_folder
from ftlab.models.dimensions import shape_of_model
from ftlab.training.model import apply_method, count_parameters, own_optimizer, shape_of

TINY_DEFAULTS = {"vera": "vera:r=32", "last_layers": "last_layers:layers=1"}
OTHERS = (
    "last_layers:layers=2", "lora:r=3,targets=attention", "dora:r=5,targets=query-value",
    "lora_fa:r=4", "adalora:r=20,init_r=6", "adalora:init_r=9", "vera:r=7,targets=query-value",
    "randlora:r=7", "randlora:r=32", "loha:r=3", "lokr:r=3", "lokr:r=4", "lokr:r=40", "miss:r=5",
    "fourierft:n=77", "shira:r=2,targets=attention", "oft:block=8", "boft:block=8", "hra:r=2",
    "prompt_tuning:tokens=7,start=random", "p_tuning:tokens=3,hidden=17", "prefix_tuning:tokens=9",
)  # fmt: skip


def counted(model: Any, variant: Variant, tokenizer: Path) -> int:
    """What learns once the method and its optimizer are there; a quantised base is left whole."""
    trained = apply_method(model, variant, "fp32", False, RunPlan(20, str(tokenizer)))
    own_optimizer(variant, trained, torch.optim.AdamW, {"lr": 1e-3})
    return count_parameters(trained)[0]


DEFAULTS = [TINY_DEFAULTS.get(id, id) for id in METHODS if id != "bitfit"]


@pytest.fixture
def tiny_shape(tiny_model: Path) -> ModelShape:
    shape = shape_of_model(str(tiny_model))
    assert shape is not None
    return shape


@pytest.mark.parametrize("text", [*DEFAULTS, *OTHERS])
def test_the_formula_of_every_method_is_what_peft_trains(
    text: str, tiny_model: Path, tiny_shape: ModelShape
) -> None:
    variant = parse_variant(text)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert trainable_parameters(variant, tiny_shape) == counted(model, variant, tiny_model)


@pytest.mark.parametrize(
    "text",
    ["full", "last_layers:layers=1", "layer_norm", "bitfit", "lora", "dora", "adalora", "vera:r=9",
     "randlora", "fourierft", "ia3", "prompt_tuning", "p_tuning", "prefix_tuning"],
)  # fmt: skip
def test_the_formula_holds_where_layers_are_stored_the_other_way_round(
    text: str, tmp_path: Path
) -> None:
    config = GPT2Config(n_embd=64, n_layer=2, n_head=2, vocab_size=256, n_positions=64)
    model = GPT2LMHeadModel(config)
    variant = parse_variant(text)
    model.save_pretrained(tmp_path)
    shape = shape_of(model)
    assert asdict(shape) == asdict(shape_of_model(str(tmp_path)))
    assert trainable_parameters(variant, shape) == counted(model, variant, tmp_path)


def test_a_model_without_biases_has_none_to_train_and_unknown_experts_have_no_count(
    tiny_shape: ModelShape,
) -> None:
    assert trainable_parameters(Variant("bitfit"), tiny_shape) == 0
    experts = {**tiny_shape.weights, "model.layers.0.mlp.experts.0.w1.weight": (8, 8)}
    assert trainable_parameters(Variant("lora"), ModelShape(experts)) is None


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "randlora", "lokr"])
def test_the_formula_holds_on_the_bundled_model(method: str) -> None:
    shape = shape_of_model("bundled")
    assert shape is not None
    with torch.device("meta"):  # no weights: only their sizes matter
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(bundled_folder()))
        assert trainable_parameters(Variant(method), shape) == counted(
            model, Variant(method), bundled_folder()
        )


def test_the_layers_known_by_architecture_are_those_of_peft() -> None:
    norms = constants.TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING
    ia3 = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING
    inputs = constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING
    for architecture, names in NORM_LAYERS.items():
        assert list(names) == norms[architecture], architecture
    for architecture, names in IA3_LAYERS.items():
        assert list(names) == ia3[architecture], architecture
        scaled = [name for name in names if name.rpartition(".")[2] in IA3_INPUTS]
        assert scaled == inputs[architecture], architecture
