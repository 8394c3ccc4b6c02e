"""The optimizer of a run on fake tensors: the same state, and the same temporary tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ftlab.methods.variant import Variant
from ftlab.prediction.question import Step
from ftlab.training.hooks import own_optimizer

_RATE = 1e-4
_BLOCK = 256  # numbers that share a scale (Dettmers et al. 2022, section 2.1)
_SMALLEST = 4_096  # parameters of fewer numbers keep fp32 state (bitsandbytes' min_8bit_size)


class EightBitAdamW(Optimizer):
    """State as bitsandbytes' 8-bit AdamW lays it out; its kernel takes nothing beside it.

    Paged state lies in memory that torch's allocator does not count. `in_32_bits` are parameters,
    by their id, whose state is not packed.
    """

    def __init__(
        self,
        params: Any,
        lr: float = _RATE,
        is_paged: bool = False,
        in_32_bits: frozenset[int] = frozenset(),
    ) -> None:
        super().__init__(params, {"lr": lr})
        self._is_paged = is_paged
        self._in_32_bits = in_32_bits

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = self._state(parameter)

    def _state(self, parameter: Tensor) -> dict[str, Any]:
        if parameter.numel() < _SMALLEST or id(parameter) in self._in_32_bits:
            return {name: torch.zeros_like(parameter, dtype=torch.float32) for name in "mv"}
        blocks = -(-parameter.numel() // _BLOCK)
        scales = {f"absmax_{name}": torch.zeros(blocks) for name in "mv"}
        if self._is_paged:
            return scales
        return scales | {name: torch.zeros_like(parameter, dtype=torch.uint8) for name in "mv"}


def make_optimizer(model: nn.Module, variant: Variant, step: Step) -> Optimizer:
    """The method's own where it has one, else the chosen one, over what learns.

    AdamW of the standard loop computes on all parameters at once (`foreach`, torch's default on
    CUDA); the app's own step takes the fused one.
    """
    options: dict[str, Any] = {"lr": _RATE}
    chosen: Any = EightBitAdamW
    if step.optimizer == "adamw":
        chosen = torch.optim.AdamW
        options |= {"fused": True} if step.is_own else {"foreach": True}
    elif step.optimizer == "paged_adamw_8bit":
        options |= {"is_paged": True}
    own = own_optimizer(variant, model, chosen, options)
    if own is not None:
        return own
    if chosen is EightBitAdamW:
        options |= {"in_32_bits": _embeddings(model)}
    made: Optimizer = chosen([p for p in model.parameters() if p.requires_grad], **options)
    return made


def _embeddings(model: nn.Module) -> frozenset[int]:
    """Whose 8-bit state the Trainer keeps in 32 bits (`Trainer.create_optimizer`)."""
    layers = (module for module in model.modules() if isinstance(module, nn.Embedding))
    return frozenset(id(parameter) for layer in layers for parameter in layer.parameters())
