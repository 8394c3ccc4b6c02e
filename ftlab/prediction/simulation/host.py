"""Buffers that PEFT leaves in the host's memory, and copies to the GPU whenever they are used.

It moves an adapter's weights to the base's device, but not these. Fake tensors all lie on one
device, so such a buffer is told by its type: as no layer computes in 64 bits, each use copies it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

_NAMES = frozenset({"boft_P"})


def put_on_host(model: nn.Module) -> None:
    """Marks the buffers of a model in a fake mode."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name in _NAMES:
                setattr(module, name, buffer.to(torch.float64))


def on_device(model: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers that are in the GPU's memory all the time."""
    yield from model.parameters()
    for _, buffer in model.named_buffers():
        if buffer.dtype is not torch.float64:
            yield buffer
