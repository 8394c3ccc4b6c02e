"""What loading a base in fewer bits leaves in the allocator, beside the weights themselves.

transformers asks for the room of all packed weights at once, then copies each weight in 16 bits to
the device and packs it there. As PEFT prepares the base, what was not packed is turned to fp32. The
room of what was given back stays reserved, and later tensors fit into it or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ftlab.models.loading import packed_layers, scales_of_layer
from ftlab.prediction.simulation.allocations import AllocationLog
from ftlab.prediction.simulation.quantised import logical_size

_NUMBER = re.compile(r"(\d+)")


def log_loading(model: nn.Module, loaded: torch.dtype, log: AllocationLog) -> None:
    """Records it for a model in a fake mode, whose weights were in `loaded` in the file."""
    packed = {id(layer.weight): layer for layer in packed_layers(model)}
    frozen = list(_frozen(model))
    room = sum(
        weight.numel() * (weight.element_size() if id(weight) in packed else loaded.itemsize)
        for weight in frozen
    )
    log.name([torch.empty(room, dtype=torch.uint8)], "temporary")  # given back at once
    copies: list[tuple[Tensor, Tensor]] = []
    for weight in frozen:
        if id(weight) in packed:
            wide = torch.empty(logical_size(weight), dtype=loaded)
            log.name([wide], "temporary")
            log.name([*scales_of_layer(packed[id(weight)]), weight], "weights")
            del wide
        elif weight.dtype is loaded:
            log.name([weight], "weights")
        else:
            copies.append((weight, torch.empty_like(weight, dtype=loaded)))
            log.name([copies[-1][1]], "temporary")
    while copies:
        weight, _ = copies.pop(0)
        log.name([weight], "weights")


def _frozen(model: nn.Module) -> Iterator[Any]:
    """The weights that do not learn, in the order of a checkpoint's names."""
    named = ((name, weight) for name, weight in model.named_parameters())
    for _, weight in sorted(named, key=lambda item: _order(item[0])):
        if not weight.requires_grad:
            yield weight


def _order(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in _NUMBER.split(name)]
