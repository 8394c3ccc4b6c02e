"""Cards without bf16: fp16 with scaled gradients, emulated on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ftlab.methods.registry import METHODS
from ftlab.methods.spec import RunPlan
from ftlab.methods.variant import Variant, parse_variant
from ftlab.prediction.question import Question, Step, ask_about
from ftlab.records.resume import Checkpoint, Earlier
from ftlab.training import trainer as trainer_module
from ftlab.training.model import apply_method
from ftlab.training.run import steps_of
from ftlab.training.trainer import FairTrainer
from tests.training.steps import take_steps

T4, L4 = (7, 5), (8, 9)


class ScaledTrainer(FairTrainer):
    """The trainer as accelerate sets it up for fp16 on a GPU, with a scaler for the CPU."""

    first_scale = 2.0**16

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        self.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=self.first_scale)
        self.accelerator.native_amp = True
        self.accelerator.state._mixed_precision = "fp16"


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> type[ScaledTrainer]:
    monkeypatch.setattr(trainer_module, "FairTrainer", ScaledTrainer)
    monkeypatch.setattr(ScaledTrainer, "first_scale", 2.0**16)
    return ScaledTrainer


def overflow_first(model: nn.Module, times: int = 1) -> None:
    """Has the gradients of the first steps overflow, as too large a scale does."""
    left = [times]

    def spoil(gradient: torch.Tensor) -> torch.Tensor:
        if not left[0]:
            return gradient
        left[0] -= 1
        return gradient * float("inf")

    learns = [p for p in model.parameters() if p.requires_grad][-1]  # B: LoRA-FA freezes A
    learns.register_hook(spoil)


ADAPTERS = [m for m in METHODS.values() if m.is_adapter and m.base_precision is None]


@pytest.mark.parametrize("method", ADAPTERS, ids=lambda m: m.id)
def test_no_weight_that_learns_is_in_fp16(method: Any, tiny_model: Path) -> None:
    """Of methods that lie over a base in fp16; a model that learns itself is loaded in fp32."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float16)
    model = apply_method(base, Variant(method.id), "bf16", False, RunPlan(10, str(tiny_model)))
    learning = [p.dtype for p in model.parameters() if p.requires_grad]
    assert learning
    assert set(learning) == {torch.float32}
    frozen = {p.dtype for p in model.parameters() if not p.requires_grad}
    assert torch.float16 in frozen


@pytest.mark.usefixtures("scaled")
def test_layer_norms_learn_under_a_gradient_scaler(tiny_model: Path, tmp_path: Path) -> None:
    _, _, meter = take_steps(tiny_model, tmp_path, "layer_norm", steps=6)
    assert meter.losses[-1] < meter.losses[0]


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("variant", ["lora", "full", "lora_fa"])
def test_steps_that_overflowed_are_counted_and_changed_nothing(
    variant: str, tiny_model: Path, tmp_path: Path
) -> None:
    weights: list[dict[str, torch.Tensor]] = []

    def keep(trainer: FairTrainer) -> None:
        assert isinstance(trainer.model, nn.Module)
        weights.append({n: w.clone() for n, w in trainer.model.named_parameters()})

    model, _, meter = take_steps(
        tiny_model, tmp_path, variant, keep, steps=1, change=overflow_first
    )
    assert meter.skipped == 1
    assert all(torch.equal(w, weights[0][n]) for n, w in model.named_parameters())
    _, _, meter = take_steps(
        tiny_model, tmp_path, variant, steps=5, change=lambda m: overflow_first(m, 2)
    )
    assert meter.skipped == 2
    assert meter.losses[-1] < meter.losses[0]


@pytest.mark.usefixtures("scaled")
def test_steps_that_overflowed_before_a_run_was_cut_off_still_count(
    tiny_model: Path, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []
    take_steps(
        tiny_model, tmp_path, "lora", report=events.append, steps=5,
        change=lambda m: overflow_first(m, 2),
    )  # fmt: skip
    checkpoint = Checkpoint(5, {}, 1.0, None, None, 1, 1, 0.0)
    assert steps_of(Earlier(checkpoint, tuple(events), (5,))).skipped == 2


@pytest.mark.usefixtures("scaled")
def test_a_step_that_overflowed_tells_adalora_nothing(tiny_model: Path, tmp_path: Path) -> None:
    model, _, meter = take_steps(
        tiny_model, tmp_path, "adalora", steps=8, change=lambda m: overflow_first(m, 2)
    )
    assert meter.skipped == 2
    assert all(weight.isfinite().all() for weight in model.parameters())
    kept = model.peft_config["default"].rank_pattern
    assert kept, "its ranks were handed out all the same"


def question(method: str, capability: tuple[int, int], own: bool = True) -> Question:
    config = {"model_type": "llama"}
    step = Step(128, completion_tokens=20 if own else None, capability=capability)
    return ask_about(config, [parse_variant(method)], step)[0]


@pytest.mark.parametrize(
    ("method", "capability", "weights", "mixed"),
    [
        ("full", T4, "fp32", True),
        ("last_layers", T4, "fp32", True),
        ("lora", T4, "fp16", False),
        ("qlora", T4, "fp16", False),
        ("full", L4, "bf16", False),
        ("lora", L4, "bf16", False),
    ],
)
def test_a_run_is_predicted_with_the_weights_that_it_loads(
    method: str, capability: tuple[int, int], weights: str, mixed: bool
) -> None:
    step = question(method, capability).step
    assert (step.weights, step.mixed) == (weights, mixed)


def test_the_standard_loop_is_predicted_as_it_is_asked_for() -> None:
    assert question("full", T4, own=False).step.weights == "bf16"
