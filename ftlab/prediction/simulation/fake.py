"""A model without weights: fake tensors on the CPU, in 4 or 8 bits too.

Fake tensors have shape, stride and dtype but no memory, and operations on them return fake tensors.
They cannot be on `meta`, because a key-value cache fails there, and not on `cuda`, because that
ends the process if torch is built for the CPU.

PEFT moves an adapter's weights to the base's device, but leaves some tensors on the host. All fake
tensors are on one device, so host tensors are marked by a special dtype: each use copies them.
FRoD's tensors keep their dtype, because they are saved; `starts.py` copies them.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from inspect import signature
from types import MappingProxyType
from typing import Any, Literal

import torch
from peft.tuners.frod.layer import FrodLayer
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    _DISPATCH_HANDLE_DIRECTLY,
    _DISPATCH_META_HANDLERS,
    DataDependentOutputException,
    FakeTensor,
    FakeTensorMode,
    _BypassDispatchCache,
    _CacheKeyState,
    _DispatchCacheKey,
    _DispatchCacheValidEntry,
)
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.words import did_you_mean
from ftlab.models.loading import kept_whole
from ftlab.models.packed import forbid_repacking, has_four_bits, packed_layers, scales_of_layer
from ftlab.prediction.question import DeviceKind
from ftlab.prediction.source import check_sizes
from ftlab.training.allocations import AllocationLog


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def empty_model(config: PretrainedConfig, dtype: torch.dtype, attention: str) -> Any:
    """Returns the causal language model of the config on the meta device, with weights in `dtype`.

    For "sdpa" transformers chooses, and falls back to eager attention if the model has no other.
    """
    chosen = None if attention == "sdpa" else attention
    with default_dtype(dtype), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=chosen, trust_remote_code=False
        )
    return model


def make_fake(model: nn.Module) -> None:
    """Replaces all tensors of the model by fake tensors; call it in a fake mode.

    A shared tensor stays shared, and a view stays a view of its whole storage. PEFT keeps some
    tensors outside parameters and buffers, in attributes and dictionaries.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}
    wholes: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            twin = _fake(tensor, wholes)
            made[id(tensor)] = (twin, tensor)  # keeps the old one, so that its id is not reused
        return made[id(tensor)][0]

    for module in model.modules():
        stores: list[dict[str, Any]] = [module._parameters, module._buffers, module.__dict__]
        stores += [
            value
            for name, value in module.__dict__.items()
            if isinstance(value, dict) and not name.startswith("_")
        ]
        for store in stores:
            for name, value in list(store.items()):
                if isinstance(value, Tensor):
                    store[name] = fake(value)


def _fake(tensor: Tensor, wholes: dict[int, Tensor]) -> Tensor:
    """Returns the fake tensor; `wholes` holds the full storages of views so far."""
    storage, size = tensor.untyped_storage(), tensor.element_size()
    if storage.nbytes() > tensor.numel() * size:
        whole = wholes.setdefault(
            storage._cdata,
            torch.empty(storage.nbytes() // size, dtype=tensor.dtype, device="cpu"),
        )
        twin = whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    else:
        twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(twin, requires_grad=tensor.requires_grad)
    return twin


class Guesses(TorchFunctionMode):
    """Answers operations that need values, which fake tensors lack.

    - LoHa and LoKr check whether a random number is above a dropout of 0: True.
    - bitsandbytes reads one number with `item`: 0.
    - VB-LoRA checks for infinite logits: none.
    - WaveFT drops entries outside the matrix: none.
    - A mask over rows and positions selects `picked` of them, the known number with loss in a step.
    - AdaLoRA's rank pattern is a list of booleans, whose indices are known.
    """

    def __init__(self, picked: int) -> None:
        super().__init__()
        self._picked = picked

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.isinf:
            return torch.tensor(False)  # a constant, whose value is known
        if func is Tensor.__getitem__ and _has_truths(args[1]):
            return args[0][_with_places_of_truths(args[1])]
        if func is Tensor.__getitem__ and _picks_entries(args[1]):
            return args[0][_with_places(args[1])]
        if func is Tensor.__getitem__ and _is_mask(args[1]):
            tensor, mask = args
            places = torch.zeros(self._picked, dtype=torch.long)
            return tensor.reshape(-1, *tensor.shape[mask.dim() :])[places]
        if func is Tensor.nonzero:
            return torch.zeros(self._picked, args[0].dim(), dtype=torch.long)
        try:
            return func(*args, **(kwargs or {}))
        except DataDependentOutputException:
            if func is Tensor.__bool__:
                return True
            if func is Tensor.item:
                return 0.0
            raise


def _has_truths(index: Any) -> bool:
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, list) and part and isinstance(part[0], bool) for part in parts)


def _with_places_of_truths(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_with_places_of_truths(part) for part in index)
    return [place for place, is_so in enumerate(index) if is_so] if _has_truths(index) else index


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype is torch.bool


def _picks_entries(index: Any) -> bool:
    """Whether the index has a mask over one dimension."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(_is_mask(part) and part.dim() == 1 for part in parts)


def _with_places(index: Any) -> Any:
    """Returns the index with the indices of all entries instead of the mask."""
    if isinstance(index, tuple):
        return tuple(_with_places(part) for part in index)
    return torch.arange(len(index)) if _is_mask(index) else index


def read_config(config: Mapping[str, Any]) -> PretrainedConfig:
    """Returns the config of a causal language model.

    Raises `FtlabError` for a model that needs its own code, is already quantised, is larger than
    any published model, is unknown to transformers, or is not a causal language model.
    """
    check_sizes(config)
    if "auto_map" in config:
        raise FtlabError(
            "The model needs code of its own (auto_map in its config), which ftlab never runs; "
            "choose a model that transformers knows by itself."
        )
    if config.get("quantization_config"):
        raise FtlabError(
            "The config is that of a quantised checkpoint; give that of the model it was made "
            "from, and choose the precision of the base here."
        )
    kind = str(config.get("model_type") or "")
    if not kind:
        raise FtlabError(
            "The config names no model_type, so it is no transformers config.json; give the file "
            "as the model's repository has it."
        )
    if kind not in CONFIG_MAPPING:
        nearest = did_you_mean(kind, list(CONFIG_MAPPING))
        raise FtlabError(f"transformers has no model_type '{kind[:60]}'.{nearest}")
    try:
        made = CONFIG_MAPPING[kind].from_dict(dict(config))
    except Exception as error:  # a config class may raise any error
        raise FtlabError(
            f"The config of this {kind} model cannot be read: {one_line(error)[:200].rstrip('.')}."
        ) from error
    if type(made) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise FtlabError(
            f"A {kind} model is no causal language model; choose one that writes text from left "
            "to right."
        )
    return made


_MARKED = frozenset({"boft_P"})
_COPIED = frozenset({"frod_V", "frod_U", "frod_s_indices", "frod_s_size"})


def put_on_host(model: nn.Module) -> None:
    """Marks the buffers that stay on the host, by dtype float64; call it in a fake mode."""
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name in _MARKED:
                setattr(module, name, buffer.to(torch.float64))


def on_device(model: nn.Module, device: DeviceKind) -> Iterator[Tensor]:
    """Yields the parameters and buffers that are permanently in the device's memory."""
    away = _sent_away(model) if device == "cuda" else frozenset()
    yield from (parameter for parameter in model.parameters() if id(parameter) not in away)
    for name, buffer in model.named_buffers():
        on_host = buffer.dtype is torch.float64 or not _COPIED.isdisjoint(name.split("."))
        if device != "cuda" or not on_host:
            yield buffer


def _sent_away(model: nn.Module) -> frozenset[int]:
    """Returns the ids of base weights that FRoD does not need in a step and moves to the host."""
    layers = (module for module in model.modules() if isinstance(module, FrodLayer))
    return frozenset(
        id(layer.get_base_layer().weight)
        for layer in layers
        if any(layer.runtime_offload_base_weight.values())
    )


_STATE, _NO_KEY = _CacheKeyState(None), _DispatchCacheKey(())  # for tensors without symbolic sizes
# torch 2.13 asks for the operation to make its result from a cache entry, torch 2.15 does not.
_ASKS_FOR_FUNCTION = "func" in signature(FakeTensorMode._output_from_cache_entry).parameters


class QuickFakeMode(FakeTensorMode):
    """torch's mode for dense tensors of known sizes, with one default dtype and no inference mode.

    torch caches the result of an operation under a key that also covers sparse, conjugate and
    symbolic tensors. Building these keys takes a third of the time of a simulated step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Hashable, _DispatchCacheValidEntry | None] = {}

    @property
    def avoid_device_init(self) -> bool:
        """Returns False: no tensor here is on CUDA.

        torch built for CUDA would else pretend to have a card on a machine without one. Its
        backward pass then starts a thread for that card, and none works in a fork any more.
        """
        return False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Returns False: nothing is compiled here, and torch's Dynamo guard is slow."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = MappingProxyType({})
    ) -> Any:
        # torch would process each of a thousand tensors: half of the time of a deep model's step.
        if _gives_nothing(func) and not any(map(_has_value, args[0])):
            return None
        if func in _DISPATCH_META_HANDLERS or func in _DISPATCH_HANDLE_DIRECTLY:
            return self.dispatch(func, types, args, kwargs)
        return self._cached_dispatch_impl(func, types, args, kwargs)

    def _cached_dispatch_impl(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        try:
            key = func, _key(args), _key(kwargs.items())
            is_known = key in self._known
        except TypeError:  # an unhashable value, or a tensor that is not fake
            return super()._cached_dispatch_impl(func, types, args, kwargs)
        if is_known:
            known = self._known[key]
            if known is None:
                return self._dispatch_impl(func, types, args, kwargs)
            asked: tuple[Any, ...] = (func, args) if _ASKS_FOR_FUNCTION else (args,)
            return self._output_from_cache_entry(_STATE, known, _NO_KEY, *asked)
        result = super()._cached_dispatch_impl(func, types, args, kwargs)
        self._known[key] = self._remembered(func, args, kwargs)
        return result

    def _remembered(self, func: Any, args: Any, kwargs: Any) -> _DispatchCacheValidEntry | None:
        """Returns torch's cache entry; `None` for an operation that torch does not cache."""
        try:
            entry = self.cache.get(self._cache_key(_STATE, func, args, kwargs))
        except _BypassDispatchCache:
            return None
        return entry if isinstance(entry, _DispatchCacheValidEntry) else None


@cache
def _gives_nothing(func: Any) -> bool:
    """Whether it only changes a list of tensors in place, as optimizers do."""
    is_of_lists = func.__name__.startswith(("_foreach_", "_fused_"))
    return is_of_lists and not func._schema.returns


def _has_value(tensor: Any) -> bool:
    """Whether its value is known, as for Adam's step counter."""
    return not isinstance(tensor, FakeTensor) or tensor.constant is not None


def _key(values: Iterable[Any]) -> Hashable:
    """Returns a cache key of the arguments; raises `TypeError` for a tensor with values."""
    return tuple([_key_of(value) for value in values])


def _key_of(value: Any) -> Hashable:
    if isinstance(value, FakeTensor):
        if value.constant is not None:
            raise TypeError("it has a value")
        return (
            value.dtype, value.shape, value.stride(), value.storage_offset(), value.requires_grad,
            value.fake_device,
        )  # fmt: skip
    if isinstance(value, Tensor):
        raise TypeError("it is not fake")
    if isinstance(value, list | tuple):
        return _key(value)
    return type(value), value  # 1 and 1.0 are equal, but give different result types


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
    forbid_repacking(model)
    for layer in packed_layers(model):
        layer.is_nested = precision == "nf4-double"
        layer.requires_grad_(False)
    return model


def make_weights_fake(model: nn.Module, dtype: torch.dtype, shares_code: bool) -> None:
    """Gives every layer its packed weight and its scales; call it in a fake mode.

    `shares_code`: the code of 8-bit scales, 1 kB, is one for all layers, as on a GPU.
    """
    code = torch.empty(256)
    for layer in packed_layers(model):
        if has_four_bits(layer):
            _four_bits(layer, dtype, code if shares_code else torch.empty_like(code))
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
