"""4-bit and 8-bit bases with fake tensors: bitsandbytes' layers around weights without memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from ftlab.models.loading import has_four_bits, kept_whole, packed_layers, scales_of_layer
from ftlab.training.allocations import AllocationLog

Precision = Literal["nf4", "nf4-double", "int8"]

_BLOCK, _NESTED_BLOCK = 64, 256
"""Weights per scale, and scales per outer scale (Dettmers et al. 2023, section 3)."""


def quantisation(precision: Precision, compute: torch.dtype) -> BitsAndBytesConfig:
    """Returns transformers' config; without 8-bit outliers, because they depend on values."""
    if precision == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=precision == "nf4-double",
        bnb_4bit_compute_dtype=compute,
    )


def quantise(model: Any, precision: Precision, compute: torch.dtype) -> Any:
    """Replaces the layers of a meta-device model by bitsandbytes', except the output layer."""
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    config = quantisation(precision, compute)
    with torch.device("meta"):
        model = replace_with_bnb_linear(
            model,
            modules_to_not_convert=kept_whole(model.config.model_type) or ["lm_head"],
            quantization_config=config,
        )
    model.is_quantized = True
    model.config.quantization_config = config
    if precision == "int8":
        model.is_loaded_in_8bit = True
    else:
        model.is_loaded_in_4bit = True
    for layer in packed_layers(model):
        layer.is_nested = precision == "nf4-double"
        layer.requires_grad_(False)
    return model


def make_weights_fake(model: nn.Module, dtype: torch.dtype) -> None:
    """Gives every layer its packed weight and its scales; call it in a fake mode."""
    shared = torch.empty(256)  # the code of 8-bit scales, which all layers share
    for layer in packed_layers(model):
        if has_four_bits(layer):
            _four_bits(layer, dtype, shared)
        else:
            _eight_bits(layer)


def unpacked(layer: Any) -> Tensor:
    """Returns the unpacked weight, as DoRA needs it; a plain layer's weight is returned as is."""
    weight: Any = layer.weight
    state = getattr(weight, "quant_state", None)
    if state is None:
        return weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(weight.data, state)


def logical_size(parameter: Any) -> int:
    """Returns the number of logical values; a packed weight holds two per byte."""
    state = getattr(parameter, "quant_state", None)
    return int(parameter.numel() if state is None else state.shape.numel())


def _four_bits(layer: Any, dtype: torch.dtype, nested_code: Tensor) -> None:
    from bitsandbytes.functional import QuantState

    size = layer.out_features * layer.in_features
    blocks = -(-size // _BLOCK)
    nested: dict[str, Any] = {}
    absmax = torch.empty(blocks)
    if layer.is_nested:
        absmax = torch.empty(blocks, dtype=torch.uint8)
        outer = QuantState(
            absmax=torch.empty(-(-blocks // _NESTED_BLOCK)), blocksize=_NESTED_BLOCK,
            code=nested_code, dtype=torch.float32,
        )  # fmt: skip
        nested = {"offset": torch.empty(()), "state2": outer}
    state = QuantState(
        absmax=absmax, shape=torch.Size((layer.out_features, layer.in_features)), dtype=dtype,
        blocksize=_BLOCK, code=torch.empty(16), quant_type="nf4", **nested,
    )  # fmt: skip
    packed = torch.empty((size + 1) // 2, 1, dtype=torch.uint8)
    weight: Any = nn.Parameter(packed, requires_grad=False)
    weight.quant_state, weight.bnb_quantized, weight.module = state, True, layer
    layer._parameters["weight"] = weight
    layer.quant_state = state


def _eight_bits(layer: Any) -> None:
    shape = (layer.out_features, layer.in_features)
    weight: Any = nn.Parameter(torch.empty(shape, dtype=torch.int8), requires_grad=False)
    weight.CB, weight.SCB = weight.data, torch.empty(layer.out_features)
    weight.has_fp16_weights = False
    layer._parameters["weight"] = weight
    layer.state.CB = layer.state.SCB = None


_NUMBER = re.compile(r"(\d+)")


def log_loading(model: nn.Module, loaded: torch.dtype, log: AllocationLog) -> None:
    """Logs the allocations of loading a model in a fake mode; `loaded` is the file's dtype."""
    packed = {id(layer.weight): layer for layer in packed_layers(model)}
    frozen = list(_frozen(model))
    room = sum(
        weight.numel() * (weight.element_size() if id(weight) in packed else loaded.itemsize)
        for weight in frozen
    )
    log.name([torch.empty(room, dtype=torch.uint8)], "temporary")  # released at once
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
    """Yields the frozen weights in the order of names in a checkpoint."""
    named = ((name, weight) for name, weight in model.named_parameters())
    for _, weight in sorted(named, key=lambda item: _order(item[0])):
        if not weight.requires_grad:
            yield weight


def _order(name: str) -> list[str | int]:
    return [int(part) if part.isdigit() else part for part in _NUMBER.split(name)]
