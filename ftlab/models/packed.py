"""Layers whose weights bitsandbytes holds in 4 or 8 bits: where they are, what belongs to them, and
weights that stay unpacked for a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from ftlab.models.laid_out import can_lay_out, in_layout, product

Multiply = Callable[[Tensor, Tensor | None], Tensor]
"""Multiplies an input by one weight, and adds the bias."""


def packed_layers(model: nn.Module) -> Iterator[Any]:
    """The bitsandbytes layers, found by class name, so that bitsandbytes need not be installed."""
    kinds = ("Linear4bit", "Linear8bitLt")  # PEFT's layers around them have the same names
    return (
        module
        for module in model.modules()
        if type(module).__name__ in kinds and type(module).__module__.startswith("bitsandbytes.")
    )


def has_four_bits(layer: nn.Module) -> bool:
    """Whether a packed layer has 4-bit weights; otherwise they have 8 bits."""
    return type(layer).__name__ == "Linear4bit"


def scales_of(model: nn.Module) -> Iterator[Tensor]:
    """The tensors that belong to packed weights but are not parameters of the model."""
    for layer in packed_layers(model):
        yield from scales_of_layer(layer)


def scales_of_layer(layer: Any) -> Iterator[Tensor]:
    """The same for one layer."""
    if not has_four_bits(layer):
        yield layer.weight.SCB
        return
    state = layer.weight.quant_state
    yield from (state.absmax, state.code)
    if state.nested:
        yield from (state.offset, state.state2.absmax, state.state2.code)


def forbid_repacking(model: nn.Module) -> None:
    """Keeps 4-bit weights in the layout that training supports.

    On a CPU with AVX512-BF16, bitsandbytes repacks a `Linear4bit` in place at the first forward
    pass in eval mode without gradient. After that, training gets no gradient and no error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 - typed as a Tensor


@contextmanager
def unpacked_on_cpu(model: nn.Module, room: int, laid_out: bool = False) -> Iterator[int]:
    """Keeps 4-bit weights unpacked meanwhile, if they are on a CPU and take at most `room` bytes.

    Yields the bytes they take. On a CPU bitsandbytes unpacks a weight for each product, so the
    outputs are the same bit for bit; they have no gradient. A GPU has kernels of its own, which add
    in another order. `laid_out` has bf16 weights in oneDNN's layout instead, in the same room.
    """
    layers = [layer for layer in packed_layers(model) if has_four_bits(layer)]
    on_cpu = all(layer.weight.device.type == "cpu" for layer in layers)
    taken = sum(map(_unpacked_bytes, layers))
    if not on_cpu or taken > room:
        yield 0
        return
    try:
        for layer in layers:
            layer.forward = partial(_product, layer, _multiplier(_unpacked(layer), laid_out))
        yield taken
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _unpacked_bytes(layer: Any) -> int:
    return int(layer.in_features * layer.out_features * layer.compute_dtype.itemsize)


def _unpacked(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    state = copy(layer.weight.quant_state)
    state.dtype = layer.compute_dtype
    weight: Tensor = dequantize_4bit(layer.weight.data, state)
    return weight


def _multiplier(weight: Tensor, laid_out: bool) -> Multiply:
    if laid_out and can_lay_out(weight, exact=True):
        return partial(product, in_layout(weight))
    return lambda given, bias: functional.linear(given, weight, bias)


def _product(layer: Any, multiply: Multiply, given: Tensor) -> Tensor:
    dtype = layer.compute_dtype
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return multiply(given.to(dtype), bias).to(given.dtype)
