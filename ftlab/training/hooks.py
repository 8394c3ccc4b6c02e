"""What a method does in the training loop beside the loss: its optimizer, its steps, its own term.

Which of them apply is read off the model that is trained, so an adapter that somebody configured
by hand gets the same as one of the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from peft import PeftModel, PeftType
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from peft.tuners.adalora.layer import RankAllocator
from torch import Tensor, nn
from torch.optim import Optimizer

from ftlab.methods.spec import Value
from ftlab.methods.variant import Variant


def own_optimizer(
    variant: Variant, model: nn.Module, optimizer_class: type[Optimizer], options: dict[str, Any]
) -> Optimizer | None:
    """The optimizer of the method's own, made of the chosen one; `None` where it has none.

    `options` are the chosen optimizer's keyword arguments, `lr` and `weight_decay` among them.
    """
    values = variant.values()
    match variant.spec.optimizer:
        case "lora_plus":
            return _lora_plus(model, optimizer_class, options, values)
        case "lora_fa":
            return _lora_fa(model, options, values)
        case _:
            return None


def _lora_plus(
    model: Any,
    optimizer_class: type[Optimizer],
    options: dict[str, Any],
    values: Mapping[str, Value],
) -> Optimizer:
    return create_loraplus_optimizer(
        model, optimizer_class, loraplus_lr_ratio=float(values["ratio"]), **options
    )


def _lora_fa(model: Any, options: dict[str, Any], values: Mapping[str, Value]) -> Optimizer:
    return create_lorafa_optimizer(
        model,
        r=int(values["r"]),
        lora_alpha=int(values["alpha"]),
        lr=float(options["lr"]),
        weight_decay=float(options.get("weight_decay", 0.0)),
    )


def after_optimizer_step(model: nn.Module, step: int, skipped: Callable[[], bool]) -> None:
    """What a method does once the weights are updated and the gradients are still there.

    `step` counts from 1. AdaLoRA hands out its ranks by gradients (Zhang et al. 2023, section 3.2);
    while it does, a step that was `skipped` because its gradients overflowed tells it nothing, and
    an infinite score would stay for good.
    """
    tuner: Any = adalora(model)
    if tuner is None:
        return
    config = tuner.peft_config[tuner.trainable_adapter_name]
    if step < config.total_step - config.tfinal and skipped():
        return
    tuner.update_and_allocate(step)


def added_loss(model: nn.Module) -> Tensor | None:
    """The term that a method adds to the loss, `None` for none.

    AdaLoRA's keeps its directions orthogonal: the mean over the matrices A and B of
    ||A Aᵀ - I|| and ||Bᵀ B - I||, times its weight (Zhang et al. 2023, equation 4). PEFT adds it
    only where the model itself returns the loss.
    """
    tuner: Any = adalora(model)
    if tuner is None:
        return None
    weight = float(tuner.peft_config[tuner.trainable_adapter_name].orth_reg_weight)
    if weight == 0:
        return None
    terms = []
    for name, matrix in model.named_parameters():
        if "lora_A" in name:
            product = matrix @ matrix.T
        elif "lora_B" in name:
            product = matrix.T @ matrix
        else:
            continue
        identity = torch.eye(len(product), dtype=product.dtype, device=product.device)
        terms.append(torch.linalg.matrix_norm(product - identity))
    return weight * torch.stack(terms).mean()


def rank_allocator(model: nn.Module) -> RankAllocator | None:
    """What hands out AdaLoRA's ranks, by scores that it keeps of each weight; `None` without it."""
    tuner: Any = adalora(model)
    return None if tuner is None else tuner.rankallocator


def rank_scores(allocator: RankAllocator) -> dict[str, dict[str, Tensor]]:
    """The scores by kind and weight, each of the weight's shape; those that it works with."""
    return {kind: getattr(allocator, kind) for kind in ("ipt", "exp_avg_ipt", "exp_avg_unc")}


def adalora(model: nn.Module) -> Any:
    """AdaLoRA's tuner where the model wears one that hands out ranks."""
    if isinstance(model, PeftModel):
        config: Any = model.active_peft_config
        if config.peft_type == PeftType.ADALORA:
            return model.base_model
    return None
