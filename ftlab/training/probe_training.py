"""Twenty steps of a method on the tiny model, by the parts that a run is trained with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ftlab.errors import FtlabError
from ftlab.methods.spec import BasePrecision, RunPlan
from ftlab.methods.variant import Variant
from ftlab.training.hooks import added_loss, after_optimizer_step, own_optimizer
from ftlab.training.loss import completion_losses
from ftlab.training.model import apply_method, count_parameters, save_initial
from ftlab.training.probe_model import TinyModel, fixed_batch

STEPS = 20
FALL = 0.05
"""The share of its first value that the loss must lose for it to have fallen."""

LADDER = (1, 4, 16, 64)
"""Multiples of a method's own learning rate, tried in this order until the loss falls."""

EARLY = 2
"""The step whose gradients are kept: at the first one half of LoRA's are zero."""


@dataclass(frozen=True)
class Trained:
    """A model after its steps. `losses` are those before each step, and the one after the last.

    `gradients` are those of step `EARLY`, by the names of the parameters that learn.
    """

    model: Any
    losses: tuple[float, ...]
    gradients: dict[str, Tensor] = field(repr=False)
    trainable: int
    initial: Path | None

    @property
    def fell(self) -> bool:
        return self.losses[-1] <= (1 - FALL) * self.losses[0]

    @property
    def change(self) -> str:
        return f"{self.losses[0]:.2f} to {self.losses[-1]:.2f}"


def train_tiny(
    tiny: TinyModel,
    variant: Variant,
    precision: BasePrecision | None,
    rate: float,
    scratch: Path,
    steps: int = STEPS,
    checkpointing: bool = False,
) -> Trained:
    """Trains the variant on the fixed batch; `rate` is the learning rate, held constant.

    Raises what the parts raise, and `FtlabError` if a loss is no number.
    """
    base = tiny.load(precision)
    torch.manual_seed(0)
    model: Any = apply_method(
        base, variant, "fp32", checkpointing, RunPlan(STEPS, str(tiny.folder))
    )
    initial = save_initial(model, scratch / "initial")
    if checkpointing:  # as transformers' Trainer turns it on
        model.activation_checkpointing_enable(
            activation_checkpointing_kwargs={"use_reentrant": False}
        )
    model.train()
    options: dict[str, Any] = {"lr": rate, "weight_decay": 0.0}
    optimizer = own_optimizer(variant, model, torch.optim.AdamW, options) or torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], **options
    )
    batch, losses, gradients = fixed_batch(), [], {}
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = completion_losses(model, batch)[0].mean()
        losses.append(_finite(loss, step))
        added = added_loss(model)
        (loss if added is None else loss + added).backward()
        if step == EARLY:
            gradients = {
                name: parameter.grad.clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }
        optimizer.step()
        after_optimizer_step(model, step, lambda: False)
    with torch.no_grad():
        losses.append(_finite(completion_losses(model, batch)[0].mean(), steps))
    model.zero_grad()
    trainable, _ = count_parameters(model)
    return Trained(model, tuple(losses), gradients, trainable, initial)


def climb(
    tiny: TinyModel, variant: Variant, precision: BasePrecision | None, scratch: Path
) -> tuple[int, Trained]:
    """The first rung of `LADDER` on which the loss falls, and what was trained there.

    Where it falls on none, the lowest rung. A rung on which the loss is no number is passed over,
    unless all are.
    """
    tried: dict[int, Trained] = {}
    error: FtlabError | None = None
    for times in LADDER:
        rate = times * variant.spec.learning_rate
        try:
            tried[times] = train_tiny(tiny, variant, precision, rate, scratch / str(times))
        except NotANumber as reason:
            error = reason
            continue
        if tried[times].fell:
            return times, tried[times]
    if not tried:
        assert error is not None
        raise error
    return next(iter(tried.items()))


class NotANumber(FtlabError):
    """A loss that is infinite or NaN."""


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NotANumber(f"the loss is no number at step {step}")
    return value
