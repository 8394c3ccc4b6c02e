"""One training step without weights: what it counts is what a real run has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ftlab.basics.errors import FtlabError
from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant
from ftlab.models.loading import load_base_model, load_tokenizer
from ftlab.models.reference import ModelReference
from ftlab.models.resolve import ResolvedModel
from ftlab.prediction.question import Prediction, Question, Step, ask_about
from ftlab.prediction.simulation.fake import read_config
from ftlab.prediction.simulation.step import predict, safetensors_bytes
from ftlab.training.model import (
    apply_method,
    count_parameters,
    own_optimizer,
    save_initial,
    save_result,
)
from tests.slow import slow
from tests.tiny import make_tiny_model

CPU = torch.device("cpu")
LLAMA = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 320,
    "tie_word_embeddings": True, "max_position_embeddings": 2048,
}  # fmt: skip


def predicted(variant: Variant, config: dict[str, Any] = LLAMA, **step: Any) -> Prediction:
    (question,) = ask_about(config, [variant], Step(**{"length": 64} | step))
    return predict(question)


@pytest.fixture(scope="module")
def model_with_biases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("biased"), biases=True)


@pytest.mark.parametrize("method", [*CORE, *slow(m for m in METHODS if m not in CORE)])
def test_parameters_and_file_of_every_method_are_those_of_a_real_run(
    method: str, tiny_model: Path, model_with_biases: Path, tmp_path: Path
) -> None:
    folder = model_with_biases if method == "bitfit" else tiny_model
    variant = Variant(method, {"layers": 1} if method == "last_layers" else {})
    config = json.loads((folder / "config.json").read_text())
    found = predicted(variant, config, completion_tokens=16)
    assert found.reason == ""
    assert found.how == "simulated"
    assert found.peak_reserved_bytes is not None
    assert found.peak_allocated_bytes is not None
    assert found.peak_reserved_bytes >= found.peak_allocated_bytes > 0

    source = ResolvedModel(ModelReference("folder", str(folder)), folder)
    learns = not variant.spec.is_adapter
    base = load_base_model(source, "bf16", variant.base_precision, CPU, weights_learn=learns)
    plan = RunPlan(1_000, str(folder))
    model: Any = apply_method(base, variant, "bf16", False, plan)
    initial = save_initial(model, tmp_path / "initial")
    own_optimizer(variant, model, torch.optim.AdamW, {"lr": 1e-3})
    assert (found.trainable_params, found.total_params) == count_parameters(model)
    save_result(model, variant, load_tokenizer(source), tmp_path / "adapter", initial)
    files = (tmp_path / "adapter").glob("*.safetensors")
    saved = sum(file.stat().st_size for file in files)
    assert found.adapter_bytes == saved


def test_a_method_that_does_not_go_with_the_model_says_why() -> None:
    found = predicted(Variant("bitfit"))
    assert "bias" in found.reason
    assert (found.how, found.peak_allocated_bytes) == ("", None)


def test_a_length_above_the_models_positions_is_refused() -> None:
    found = predicted(Variant("lora"), LLAMA | {"max_position_embeddings": 32})
    assert "above the model's 32 positions" in found.reason


def test_a_configuration_that_no_class_takes_is_one_sentence() -> None:
    question = Question({"model_type": "llama", "hidden_size": -1}, Variant("lora"), Step(64))
    reason = predict(question).reason
    assert reason.startswith("The config of this llama model cannot be read: ")
    assert "\n" not in reason


PEAK = {"length": 256, "batch": 4}


def peak(**changes: Any) -> int:
    found = predicted(Variant(changes.pop("method", "lora")), **PEAK | changes)
    assert found.peak_allocated_bytes is not None, found.reason
    return found.peak_allocated_bytes


@pytest.mark.slow
def test_changes_that_save_or_cost_memory_do_so_here() -> None:
    usual = peak()
    for less in ({"batch": 2}, {"length": 128}, {"completion_tokens": 16}, {"checkpointing": True}):
        assert peak(**less) < usual
    for more in ({"attention": "eager"}, {"weights": "fp32"}):
        assert peak(**more) > usual
    assert peak(accumulation=4) >= usual
    assert peak(method="prompt_tuning") < peak(method="full")


def test_the_anatomy_adds_up_and_names_the_optimizers_state() -> None:
    found = predicted(Variant("full"), completion_tokens=16)
    trainable = found.trainable_params or 0
    assert found.anatomy["weights"] >= 2 * trainable
    assert found.anatomy["optimizer"] >= 4 * trainable
    states = {
        name: predicted(Variant("full"), optimizer=name, completion_tokens=16).anatomy["optimizer"]
        for name in ("adamw", "adamw_8bit", "paged_adamw_8bit")
    }
    assert states["adamw"] > states["adamw_8bit"] > states["paged_adamw_8bit"]


@pytest.mark.parametrize("packing", ["nf4-double", *slow(["nf4", "int8"])])
def test_a_packed_base_takes_the_bytes_of_its_layers(packing: Any) -> None:
    linear = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128)  # weights of the layers that are packed
    plain = predicted(Variant("lora"), completion_tokens=16).anatomy["weights"]
    packed = predicted(Variant("lora"), packing=packing, completion_tokens=16).anatomy["weights"]
    bits = {"nf4": 4 + 32 / 64, "nf4-double": 4 + 8 / 64, "int8": 8}[packing]
    saved = linear * (16 - bits) / 8
    rounded_up = 14 * 4 * 512 + 1_024  # up to four tensors a layer, and the map of the scales
    assert saved - rounded_up <= plain - packed <= saved


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "names no model_type"),
        ({"model_type": "lama"}, "no model_type 'lama'. Did you mean"),
        ({"model_type": "t5"}, "no causal language model"),
        ({"model_type": "vit"}, "no causal language model"),
        (LLAMA | {"auto_map": {"AutoModel": "x.py"}}, "code of its own"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quantised checkpoint"),
        (LLAMA | {"hidden_size": "wide"}, "cannot be read"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_a_sentence(
    config: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(FtlabError, match=sentence):
        read_config(config)


TENSORS = {
    "base_model.model.b.weight": torch.zeros(3, 5),
    "a": torch.zeros(7, dtype=torch.bfloat16),
    "c": torch.zeros(0, 4),
    "d.mask": torch.zeros(2, 2, 2, dtype=torch.int32),
    "e": torch.zeros((), dtype=torch.float16),
    "f": torch.zeros(9, dtype=torch.int64),
    "g": torch.zeros(3, dtype=torch.uint8),
}


@pytest.mark.parametrize("count", range(len(TENSORS) + 1))
def test_the_size_is_that_of_the_file_that_safetensors_writes(count: int, tmp_path: Path) -> None:
    tensors = dict(list(TENSORS.items())[:count])
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert safetensors_bytes(tensors) == (tmp_path / "x.safetensors").stat().st_size
