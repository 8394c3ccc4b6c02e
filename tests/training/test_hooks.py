"""Effects of methods besides the loss: their own optimizer, AdaLoRA's budget, an added term."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from ftlab.basics.errors import NotApplicable
from ftlab.training.model import added_loss, count_parameters
from tests.training.steps import take_steps


def test_lora_plus_gives_b_a_rate_so_many_times_that_of_a(tiny_model: Path, tmp_path: Path) -> None:
    model, trainer, _ = take_steps(tiny_model, tmp_path, "lora_plus:ratio=4", steps=1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert trainer.optimizer is not None
    rates = {
        names[id(parameter)].split(".lora_")[1][0]: group["lr"]
        for group in trainer.optimizer.param_groups
        for parameter in group["params"]
    }
    assert rates == {"A": pytest.approx(1e-2), "B": pytest.approx(4e-2)}


def test_lora_fa_leaves_a_as_it_was_drawn_and_counts_b_alone(
    tiny_model: Path, tmp_path: Path
) -> None:
    model, _, meter = take_steps(tiny_model, tmp_path, "lora_fa", steps=3, batch_size=8)
    a = [p for name, p in model.named_parameters() if "lora_A" in name]
    b = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert not any(p.requires_grad for p in a)
    assert all(p.abs().sum() > 0 for p in b)
    assert count_parameters(model)[0] == sum(p.numel() for p in b)
    assert meter.losses[-1] < meter.losses[0]


def test_adalora_ends_with_the_ranks_that_its_budget_allows(
    tiny_model: Path, tmp_path: Path
) -> None:
    model, _, _ = take_steps(tiny_model, tmp_path, "adalora:r=2,init_r=4", steps=10)
    kept = model.peft_config["default"].rank_pattern
    assert sum(sum(ranks) for ranks in kept.values()) == 2 * len(kept)


def test_the_loss_that_is_reported_is_that_of_the_task_alone(
    tiny_model: Path, tmp_path: Path
) -> None:
    (heavy, trainer, with_term), (light, _, without) = (
        take_steps(
            tiny_model, tmp_path / weight, f"adalora:orthogonality={weight}", steps=1, planned=10
        )
        for weight in "10"
    )
    assert trainer.added_loss > 0.1
    assert with_term.losses == pytest.approx(without.losses, rel=1e-5)
    assert added_loss(light) is None
    term = added_loss(heavy)
    assert term is not None
    assert term.requires_grad


def test_accumulation_adds_the_term_of_the_method_once(tiny_model: Path, tmp_path: Path) -> None:
    (whole, one, _), (parts, four, _) = (
        take_steps(
            tiny_model, tmp_path / str(rows), "adalora", steps=1, batch_size=rows,
            accumulation=4 // rows, planned=10,
        )
        for rows in (4, 1)
    )  # fmt: skip
    assert four.added_loss == pytest.approx(one.added_loss, rel=1e-5)
    for (name, left), (_, right) in zip(
        whole.named_parameters(), parts.named_parameters(), strict=True
    ):
        torch.testing.assert_close(right, left, rtol=1e-3, atol=2e-5, msg=name)


def test_a_method_with_nothing_to_train_says_so_before_it_begins(
    tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotApplicable, match="BitFit: this model has no biases"):
        take_steps(tiny_model, tmp_path, "bitfit", steps=1)


def test_only_the_last_blocks_learn(tiny_model: Path, tmp_path: Path) -> None:
    before = dict(AutoModelForCausalLM.from_pretrained(tiny_model).named_parameters())
    model, _, _ = take_steps(tiny_model, tmp_path, "last_layers:layers=1", steps=2)
    last = model.config.num_hidden_layers - 1
    for name, parameter in model.named_parameters():
        learns = f"layers.{last}." in name or name == "model.norm.weight"
        assert parameter.requires_grad == learns, name
        assert torch.equal(parameter, before[name]) != learns, name
