"""What a method does in the training loop beside the loss: its optimizer, its steps, its own term.

Which of them apply is read off the model that is trained, so an adapter that somebody configured
by hand gets the same as one of the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from peft import PeftModel, PeftType
from peft.tuners.adalora.layer import RankAllocator
from torch import Tensor, nn
from torch.optim import Optimizer

from ftlab.methods.registry import hooks_of
from ftlab.methods.spec import LoopHooks
from ftlab.methods.variant import Variant


def own_optimizer(
    variant: Variant, model: nn.Module, optimizer_class: type[Optimizer], options: dict[str, Any]
) -> Optimizer | None:
    """The optimizer of the method's own, made of the chosen one; `None` where it has none.

    `options` are the chosen optimizer's keyword arguments, `lr` and `weight_decay` among them.
    """
    own = variant.spec.optimizer
    return None if own is None else own.make(model, optimizer_class, options, variant.values())


def after_optimizer_step(model: nn.Module, step: int, skipped: Callable[[], bool]) -> None:
    """What a method does once the weights are updated and the gradients are still there.

    `step` counts from 1; `skipped` says whether its gradients overflowed.
    """
    hooks = _hooks(model)
    if hooks is not None:
        hooks.after_step(model, step, skipped)


def added_loss(model: nn.Module) -> Tensor | None:
    """The term that a method adds to the loss, `None` for none."""
    hooks = _hooks(model)
    return None if hooks is None else hooks.added_loss(model)


def _hooks(model: nn.Module) -> LoopHooks | None:
    if not isinstance(model, PeftModel):
        return None
    config: Any = model.active_peft_config
    return hooks_of(config.peft_type)


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


def state_of(optimizer: Optimizer) -> Iterable[Tensor]:
    """The tensors of an optimizer's state."""
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
