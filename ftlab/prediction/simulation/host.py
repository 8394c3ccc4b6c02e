"""Tensors that PEFT leaves in the host's memory, and copies to the GPU whenever they are used.

It moves an adapter's weights to the base's device, but not these. Fake tensors all lie on one
device, so what a layer that computes in 64 bits never has is marked by its type: each use copies
it. FRoD's are saved in their own type; `decompositions` copies them.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from peft.tuners.frod.layer import FrodLayer
from torch import Tensor, nn

from ftlab.prediction.question import DeviceKind

_MARKED = frozenset({"boft_P"})
_COPIED = frozenset({"frod_V", "frod_U", "frod_s_indices", "frod_s_size"})


def put_on_host(model: nn.Module) -> None:
    """Marks the buffers of a model in a fake mode."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name in _MARKED:
                setattr(module, name, buffer.to(torch.float64))


def on_device(model: nn.Module, device: DeviceKind) -> Iterator[Tensor]:
    """Parameters and buffers that are in the device's memory all the time."""
    away = _sent_away(model) if device == "cuda" else frozenset()
    yield from (parameter for parameter in model.parameters() if id(parameter) not in away)
    for name, buffer in model.named_buffers():
        on_host = buffer.dtype is torch.float64 or not _COPIED.isdisjoint(name.split("."))
        if device != "cuda" or not on_host:
            yield buffer


def _sent_away(model: nn.Module) -> frozenset[int]:
    """Weights of the base that FRoD needs no more in a step, and sends to the host, by their id."""
    layers = (module for module in model.modules() if isinstance(module, FrodLayer))
    return frozenset(
        id(layer.get_base_layer().weight)
        for layer in layers
        if any(layer.runtime_offload_base_weight.values())
    )
