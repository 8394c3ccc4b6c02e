"""A model without weights: built on torch's meta device, then given fake tensors on the CPU.

Fake tensors have shape, stride and dtype but no memory, and every operation on them gives fake
tensors again. Those on `meta` will not do: a cache of keys and values fails on them; those on
`cuda` end the process where torch is built for the CPU.

PEFT moves an adapter's weights to the base's device, but leaves some tensors on the host. Fake
tensors all lie on one device, so those are marked by a type of their own: each use copies them.
FRoD's are saved in their own type; `decompositions` copies them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from types import MappingProxyType
from typing import Any

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
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.words import did_you_mean
from ftlab.prediction.question import DeviceKind
from ftlab.prediction.source import check_sizes


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def empty_model(config: PretrainedConfig, dtype: torch.dtype, attention: str) -> Any:
    """The causal language model of that config on the meta device, its weights in that dtype.

    "sdpa" is left to transformers, which takes eager attention where a model has no other.
    """
    chosen = None if attention == "sdpa" else attention
    with default_dtype(dtype), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=chosen, trust_remote_code=False
        )
    return model


def make_fake(model: nn.Module) -> None:
    """Puts fake tensors in the place of all that the model holds; to be called in a fake mode.

    A tensor that is held in several places stays one, and a part of a larger one keeps all of it.
    PEFT keeps some outside parameters and buffers, in attributes and dictionaries.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}
    wholes: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            twin = _fake(tensor, wholes)
            made[id(tensor)] = (twin, tensor)  # the old one is kept, so its id is its own
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
    """`wholes` are those made so far of which tensors are a part, by their storage."""
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
    """Answers questions on values, which fake tensors have not.

    LoHa and LoKr ask whether a random number lies above a dropout that is 0: it does. bitsandbytes
    writes a number of its own down. VB-LoRA looks for infinite logits: there are none. WaveFT
    leaves out entries beyond the edge: none lies there. A mask over rows and positions picks as
    many of them as `picked` says, and those of a step that carry loss are known. AdaLoRA's rank
    pattern is a list of truth values, whose places are known.
    """

    def __init__(self, picked: int) -> None:
        super().__init__()
        self._picked = picked

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.isinf:
            return torch.tensor(False)  # as a constant, which can be asked
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
    """The index with the places of all entries instead of the mask."""
    if isinstance(index, tuple):
        return tuple(_with_places(part) for part in index)
    return torch.arange(len(index)) if _is_mask(index) else index


def read_config(config: Mapping[str, Any]) -> PretrainedConfig:
    """The config of a causal language model.

    Raises `FtlabError` for a model that needs code of its own, one that is already quantised, one
    larger than any published, one that transformers does not know, and one that is no causal
    language model.
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
    except Exception as error:  # a config class may refuse in any way
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


_STATE, _NO_KEY = _CacheKeyState(None), _DispatchCacheKey(())  # of tensors without symbols


class QuickFakeMode(FakeTensorMode):
    """torch's mode for dense tensors of known sizes, with one default dtype and no inference mode.

    torch remembers what an operation returned under a key that also tells sparse, conjugate and
    symbolic tensors apart; making these keys is a third of the time of a simulated step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Hashable, _DispatchCacheValidEntry | None] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here, and torch's guard against it takes its time."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = MappingProxyType({})
    ) -> Any:
        if _gives_nothing(func) and not any(map(_has_value, args[0])):
            return None
        if func in _DISPATCH_META_HANDLERS or func in _DISPATCH_HANDLE_DIRECTLY:
            return self.dispatch(func, types, args, kwargs)
        return self._cached_dispatch_impl(func, types, args, kwargs)

    def _cached_dispatch_impl(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        try:
            key = func, _key(args), _key(kwargs.items())
            is_known = key in self._known
        except TypeError:  # something without a hash, or a tensor that is not fake
            return super()._cached_dispatch_impl(func, types, args, kwargs)
        if is_known:
            known = self._known[key]
            if known is None:
                return self._dispatch_impl(func, types, args, kwargs)
            return self._output_from_cache_entry(_STATE, known, _NO_KEY, func, args)
        result = super()._cached_dispatch_impl(func, types, args, kwargs)
        self._known[key] = self._remembered(func, args, kwargs)
        return result

    def _remembered(self, func: Any, args: Any, kwargs: Any) -> _DispatchCacheValidEntry | None:
        """What torch has remembered; `None` of an operation that it always does anew."""
        try:
            entry = self.cache.get(self._cache_key(_STATE, func, args, kwargs))
        except _BypassDispatchCache:
            return None
        return entry if isinstance(entry, _DispatchCacheValidEntry) else None


@cache
def _gives_nothing(func: Any) -> bool:
    """Whether it changes a list of tensors in place, as optimizers do, and no more: torch would
    look at each of a thousand tensors, which takes half of the time of a deep model's step."""
    is_of_lists = func.__name__.startswith(("_foreach_", "_fused_"))
    return is_of_lists and not func._schema.returns


def _has_value(tensor: Any) -> bool:
    """Whether it is known what stands in it, as in Adam's count of its steps."""
    return not isinstance(tensor, FakeTensor) or tensor.constant is not None


def _key(values: Iterable[Any]) -> Hashable:
    """All that tells arguments apart; raises `TypeError` for a tensor with values."""
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
    return type(value), value  # 1 and 1.0 have one hash, and give different types
