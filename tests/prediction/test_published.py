"""Some of the published runs; `python -m tests.benchmarks.prediction` holds all of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer
from transformers import AutoModelForCausalLM

from ftlab.prediction.simulation.step import predict
from tests.prediction.published import Published, peft_rows, t4_rows
from tests.slow import slow

PEFT = {row.name: row for row in peft_rows()}
T4 = {row.name: row for row in t4_rows()}
FAST_PEFT = "lora/llama-3.2-3B-rank32"
SOME_PEFT = (
    "prompt_tuning/llama-3.2-3B-default",
    "full-finetuning/llama-3.2-3B-lr_0.00001",
    "frod/llama-3.2-3B-default",
    "psoft/llama-3.2-3B-default",
    "lora/llama-3.2-3B-rank32-lorafa",
)
SOME_T4 = (
    "SmolLM2-135M sdpa nf4 2 x 512",
    "TinyLlama-1.1B-Chat-v1.0 eager fp16 2 x 2048",
)


@pytest.mark.parametrize("name", [FAST_PEFT, *slow(SOME_PEFT)])
def test_parameters_file_and_reserved_peak_are_those_of_pefts_comparison(name: str) -> None:
    row: Published = PEFT[name]
    found = predict(row.question)
    assert found.trainable_params == row.trainable, found.reason
    assert found.adapter_bytes == pytest.approx(row.file_bytes, rel=0.01)
    assert found.peak_reserved_bytes == pytest.approx(row.reserved, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME_T4)
def test_allocated_and_reserved_peak_are_those_of_a_t4(name: str) -> None:
    row = T4[name]
    found = predict(row.question)
    assert found.trainable_params == row.trainable, found.reason
    assert found.peak_allocated_bytes == pytest.approx(row.allocated, rel=0.01)
    assert found.peak_reserved_bytes == pytest.approx(row.reserved, rel=0.10)


def test_the_comparisons_lora_fa_lets_a_learn_again_before_its_first_step(tiny_model: Path) -> None:
    """Why its memory is that of LoRA: its script takes a loss without the adapter first."""
    config = LoraConfig(r=4, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), config)
    create_lorafa_optimizer(model, r=4, lora_alpha=8, lr=1e-3)
    frozen = [weight for name, weight in model.named_parameters() if "lora_A" in name]
    assert not any(weight.requires_grad for weight in frozen)
    with model.disable_adapter():
        pass
    assert all(weight.requires_grad for weight in frozen)


def test_every_published_run_is_a_question() -> None:
    assert (len(PEFT), len(T4)) == (63, 59)
    assert sum(row.chosen for row in PEFT.values()) == 34
    assert sum(row.chosen for row in T4.values()) == 16
