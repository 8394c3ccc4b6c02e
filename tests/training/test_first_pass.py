"""The untimed pass before the steps: it leaves nothing behind, and its time is nobody's."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, set_seed

from ftlab.models.cpu_attention import CausalAttention
from ftlab.training import run as run_module
from ftlab.training.first_pass import (
    attention_kernel,
    few_tokens,
    first_pass,
    same_random_numbers,
    step_beside,
)
from ftlab.training.step import collate
from ftlab.training.trainer import FairTrainer
from tests.slow import slow
from tests.training.one_run import do, spec_of
from tests.training.steps import CPU, FP32, examples_of, take_steps


def run_first_pass(folder: Path) -> Any:
    batch = collate(examples_of(folder)[:4], 0)

    def before_steps(trainer: FairTrainer) -> None:
        assert trainer.optimizer is not None
        first_pass(trainer.model, trainer.optimizer, batch, FP32, 1.0)

    return before_steps


def drop_out(model: nn.Module) -> None:
    """Has a layer draw random numbers in every step."""
    model.get_input_embeddings().register_forward_hook(
        lambda module, given, output: F.dropout(output, 0.3, module.training)
    )


WAYS = [
    "full", "lora", "prompt_tuning",
    *slow(["last_layers:layers=1", "layer_norm", "dora", "lora_fa", "adalora", "vera", "randlora",
           "fourierft", "shira", "boft", "ia3", "p_tuning", "prefix_tuning"]),
]  # fmt: skip


@pytest.mark.parametrize("variant", WAYS)
def test_losses_and_weights_are_bit_for_bit_those_without_it(
    variant: str, tiny_model: Path, tmp_path: Path
) -> None:
    plain, _, without = take_steps(tiny_model, tmp_path / "a", variant, change=drop_out)
    model, _, measured = take_steps(
        tiny_model, tmp_path / "b", variant, run_first_pass(tiny_model), change=drop_out
    )
    assert measured.losses == without.losses
    for (name, left), right in zip(model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
def test_afterwards_there_are_no_gradients_and_no_state(
    optimizer: str, tiny_model: Path, tmp_path: Path
) -> None:
    seen: list[bool] = []

    def before_steps(trainer: FairTrainer) -> None:
        model, optimizer = trainer.model, trainer.optimizer
        assert isinstance(model, nn.Module)
        assert optimizer is not None
        before = {name: weight.clone() for name, weight in model.named_parameters()}
        run_first_pass(tiny_model)(trainer)
        assert all(weight.grad is None for weight in model.parameters())
        assert not optimizer.state
        assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
        seen.append(True)

    take_steps(tiny_model, tmp_path, "full", before_steps, optimizer=optimizer)
    assert seen


def test_the_optimizers_kernels_run_on_small_tensors_of_their_own(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[list[int]] = []
    whole = torch.optim.AdamW.step

    def spy(optimizer: Any, *given: Any) -> Any:
        sizes.append([p.numel() for g in optimizer.param_groups for p in g["params"]])
        return whole(optimizer, *given)

    weights = [nn.Parameter(torch.zeros(1 << 16)) for _ in range(3)]
    optimizer = torch.optim.AdamW(weights, fused=True)
    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    step_beside(optimizer)
    assert sizes == [[1 << 14]]


def test_random_numbers_of_python_numpy_and_torch_go_on_as_if_nothing_had_been() -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    set_seed(1)
    expected = draw()
    set_seed(1)
    with same_random_numbers(CPU):
        draw()
    assert draw() == expected


def attend(**options: Any) -> torch.Tensor:
    query, key = (torch.randn(1, h, 8, 8, requires_grad=True) for h in (2, 1))
    return F.scaled_dot_product_attention(
        query, key, key, is_causal=True, enable_gqa=True, **options
    ).sum()


def test_the_kernel_is_read_off_the_graph_of_a_loss() -> None:
    assert attention_kernel(attend()) == "flash (CPU)"
    with sdpa_kernel(SDPBackend.MATH):
        assert attention_kernel(attend()) == "math"
        both = attend()
    assert attention_kernel(both + attend()) == "flash (CPU), math"
    x = torch.randn(1, 2, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    assert attention_kernel(CausalAttention.apply(x, x, x, 1.0).sum()) == "ftlab (CPU)"
    assert attention_kernel(torch.softmax(x, -1).sum()) == "eager"
    assert attention_kernel(x.sum()) == ""


def test_a_model_with_attention_of_transformers_own_is_eager(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters())
    assert first_pass(model, optimizer, collate(examples_of(tiny_model), 0), FP32, 1.0) == "eager"


def test_a_cpu_gets_the_end_of_the_row_with_the_most_padding(tiny_model: Path) -> None:
    examples = sorted(examples_of(tiny_model)[:4], key=lambda example: -example.length)
    shortest = examples[-1]
    assert examples[0].length > shortest.length
    batch, few = collate(examples, 0), few_tokens(collate(examples, 0))
    end = [*shortest.prompt_ids, *shortest.completion_ids][-16:]
    assert few["input_ids"].tolist() == [[*end, 0]]
    assert few["attention_mask"].tolist() == [[1] * len(end) + [0]]
    assert few["targets"].tolist() == list(shortest.completion_ids[-15:])
    full = replace(shortest, prompt_ids=tuple(range(8 + -len(shortest.completion_ids) % 8)))
    assert few_tokens(collate([full], 0))["attention_mask"].all(), "rows without padding get none"
    width = batch["input_ids"].shape[1]
    assert few_tokens(batch, width)["input_ids"].shape == (1, width), "a window changes the kernel"
    assert few_tokens(batch, width + 1)["input_ids"].tolist() == few["input_ids"].tolist()
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    read: list[torch.Size] = []
    model.register_forward_pre_hook(
        lambda _, given, named: read.append(named["input_ids"].shape), with_kwargs=True
    )
    first_pass(model, torch.optim.AdamW(model.parameters()), batch, FP32, 1.0)
    assert read == [few["input_ids"].shape]


def test_its_time_is_in_the_phase_and_in_no_step(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 0.0
    real = time.perf_counter

    def clock() -> float:
        return real() + late

    def slow(*given: Any) -> str:
        nonlocal late
        late += 1000
        return first_pass(*given)

    monkeypatch.setattr(run_module, "first_pass", slow)
    monkeypatch.setattr("time.perf_counter", clock)
    result = do(spec_of(tiny_model, task_file, eval_answers=False), tmp_path)
    measures = result.measures
    assert measures.first_pass_seconds is not None
    assert measures.first_pass_seconds >= 1000
    assert measures.train_seconds is not None
    assert measures.train_seconds < 1000
    assert result.phases["train"].seconds >= 1000 + measures.train_seconds
    assert result.environment["attention"] == "flash (CPU)"
