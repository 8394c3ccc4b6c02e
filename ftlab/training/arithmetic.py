"""The precision in which a model computes."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ftlab.models.loading import compute_dtype
from ftlab.settings.training import DtypePolicy


@dataclass(frozen=True)
class Arithmetic:
    """The precision of forward and backward under one dtype policy.

    Under `bf16` and `mixed` products are computed in 16 bits over weights of any type, so fp32
    adapters stay fp32 masters. fp16 (CUDA without bf16) is left to the Trainer, which scales the
    gradients.
    """

    policy: DtypePolicy
    device: torch.device

    @property
    def needs_grad_scaler(self) -> bool:
        return compute_dtype(self.policy, self.device) is torch.float16

    def context(self) -> AbstractContextManager[None]:
        dtype = compute_dtype(self.policy, self.device)
        if dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)


def compute_adapters_in_low_precision(model: nn.Module) -> None:
    """Stops PEFT from raising every layer's input to the fp32 of the adapter's masters.

    Autocast then computes the adapter's two products in 16 bits, as it does the base's.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010 - typed as a Tensor
