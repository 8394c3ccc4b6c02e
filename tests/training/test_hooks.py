"""What a method does beside the loss: its own optimizer, AdaLoRA's budget, its own term."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from ftlab.basics.errors import NotApplicable
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant, parse_variant
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.formatting import FileTokenizer, FormattedExample, PromptFormatter
from ftlab.tasks.spec import Example, Message
from ftlab.training.model import added_loss, apply_method, count_parameters
from ftlab.training.step import Arithmetic, OrderedExamples, collate
from ftlab.training.trainer import FairTrainer, has_diverged, train, training_arguments

FP32 = Arithmetic("fp32", torch.device("cpu"))


def trained(
    folder: Path, scratch: Path, variant: Variant, steps: int, batch: int = 4, accumulation: int = 1
) -> tuple[Any, FairTrainer, list[float]]:
    """The model after some steps on a few examples, its trainer, and the losses reported."""
    formatter = PromptFormatter(FileTokenizer(folder))
    examples: list[FormattedExample] = [
        formatter.format(Example((Message("user", f"question {n}"),), f"answer {n % 3}"))
        for n in range(4)
    ]
    torch.manual_seed(0)
    model = apply_method(
        AutoModelForCausalLM.from_pretrained(folder), variant, "fp32", False, RunPlan(10, "")
    )
    settings = TrainingSettings(
        steps=steps, batch_size=batch, accumulation=accumulation, schedule="constant",
        warmup_steps=0,
    )  # fmt: skip
    losses: list[float] = []
    trainer, _ = train(
        model,
        variant,
        OrderedExamples(examples, list(range(4)) * steps),
        training_arguments(settings, 1e-2, 0, FP32, scratch),
        FP32,
        lambda items: collate(items, 0),
        lambda event: losses.append(event["loss"]),
    )
    return model, trainer, losses


def test_lora_plus_gives_b_a_rate_so_many_times_that_of_a(tiny_model: Path, tmp_path: Path) -> None:
    model, trainer, _ = trained(tiny_model, tmp_path, parse_variant("lora_plus:ratio=4"), 1)
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
    model, _, losses = trained(tiny_model, tmp_path, Variant("lora_fa"), 3)
    a = [p for name, p in model.named_parameters() if "lora_A" in name]
    b = [p for name, p in model.named_parameters() if "lora_B" in name]
    assert not any(p.requires_grad for p in a)
    assert all(p.abs().sum() > 0 for p in b)
    assert count_parameters(model)[0] == sum(p.numel() for p in b)
    assert losses[-1] < losses[0]


def test_adalora_ends_with_the_ranks_that_its_budget_allows(
    tiny_model: Path, tmp_path: Path
) -> None:
    model, _, _ = trained(tiny_model, tmp_path, parse_variant("adalora:r=2,init_r=4"), 10)
    kept = model.peft_config["default"].rank_pattern
    assert sum(sum(ranks) for ranks in kept.values()) == 2 * len(kept)


def test_the_loss_that_is_reported_is_that_of_the_task_alone(
    tiny_model: Path, tmp_path: Path
) -> None:
    heavy, trainer, with_term = trained(
        tiny_model, tmp_path / "a", parse_variant("adalora:orthogonality=1"), 1
    )
    light, _, without = trained(
        tiny_model, tmp_path / "b", parse_variant("adalora:orthogonality=0"), 1
    )
    assert trainer.added_loss > 0.1
    assert with_term == pytest.approx(without, rel=1e-5)
    assert added_loss(light) is None
    term = added_loss(heavy)
    assert term is not None
    assert term.requires_grad


def test_accumulation_adds_the_term_of_the_method_once(tiny_model: Path, tmp_path: Path) -> None:
    whole, one, _ = trained(tiny_model, tmp_path / "a", Variant("adalora"), 1, 4, 1)
    parts, four, _ = trained(tiny_model, tmp_path / "b", Variant("adalora"), 1, 1, 4)
    assert four.added_loss == pytest.approx(one.added_loss, rel=1e-5)
    for (name, left), (_, right) in zip(
        whole.named_parameters(), parts.named_parameters(), strict=True
    ):
        torch.testing.assert_close(right, left, rtol=1e-3, atol=2e-5, msg=name)


def test_a_method_with_nothing_to_train_says_so_before_it_begins(
    tiny_model: Path, tmp_path: Path
) -> None:
    with pytest.raises(NotApplicable, match="BitFit: this model has no biases"):
        trained(tiny_model, tmp_path, Variant("bitfit"), 1)


def test_only_the_last_blocks_learn(tiny_model: Path, tmp_path: Path) -> None:
    before = dict(AutoModelForCausalLM.from_pretrained(tiny_model).named_parameters())
    model, _, _ = trained(tiny_model, tmp_path, parse_variant("last_layers:layers=1"), 2)
    last = model.config.num_hidden_layers - 1
    for name, parameter in model.named_parameters():
        learns = f"layers.{last}." in name or name == "model.norm.weight"
        assert parameter.requires_grad == learns, name
        assert torch.equal(parameter, before[name]) != learns, name


@pytest.mark.parametrize(
    ("losses", "diverged"),
    [
        ([2.0] * 20, False),
        ([2.0, 9.0, 9.0, 9.0, 9.0], False),  # too few to tell
        ([2.0, *[9.0] * 5], True),
        ([0.1, *[0.5] * 5], False),  # five times as much, yet small
        ([6.0, *[9.0] * 5], False),  # three nats more, yet not twice as much
        ([2.0, *[9.0] * 5, *[1.0] * 5], False),
    ],
)
def test_a_loss_far_above_its_start_for_five_steps_has_diverged(
    losses: list[float], diverged: bool
) -> None:
    assert has_diverged(losses) is diverged
