"""A model without weights: built on torch's meta device, then given fake tensors on the CPU.

Fake tensors have shape, stride and dtype but no memory, and every operation on them gives fake
tensors again. Those on `meta` will not do: a cache of keys and values fails on them; those on
`cuda` end the process where torch is built for the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, PretrainedConfig


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
