"""Counts the work of a simulated step: operations of matrix products, bytes moved, calls of torch,
and 4-bit weights unpacked.

`AllocationLog` sees every operation of the step, and `WorkLog` counts it as well. Operations of
products have the formulas of `torch.utils.flop_counter`: a multiplication and an addition are two.
Bytes are what an operation reads and writes, as if nothing stayed in a cache between two of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from ftlab.prediction.duration import Work
from ftlab.training.allocations import AllocationLog

_NOT_FILLED = frozenset({
    "aten::_unsafe_view", "aten::_reshape_alias", "aten::empty", "aten::empty_like",
    "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided",
})  # fmt: skip
"""Operations that move no bytes, besides views."""

_READ_IN_PARTS = frozenset({
    "aten::embedding", "aten::index", "aten::index_select", "aten::gather",
})  # fmt: skip
"""They read as much of their first tensor as they write."""

_WRITTEN_IN_PARTS = frozenset({
    "aten::index_put_", "aten::_index_put_impl_", "aten::index_add_", "aten::scatter_add_",
    "aten::scatter_", "aten::index_copy_",
})  # fmt: skip
"""They write as much of their first tensor as they read of the others."""

_ONLY_WRITTEN = frozenset({"aten::copy_", "aten::zero_", "aten::fill_"})
_ON_PACKED_WEIGHTS = frozenset({
    "bitsandbytes::gemm_4bit", "bitsandbytes::int8_scaled_mm", "aten::linear",
})  # fmt: skip
"""Products that torch's counter does not know. `linear` is one only after weights were unpacked on
a GPU; elsewhere torch takes it apart."""
_UNPACKS: dict[str, Callable[[Any, Any], int]] = {
    "bitsandbytes::gemm_4bit": lambda args, result: math.prod(args[2]),
    "bitsandbytes::dequantize_4bit": lambda args, result: result.numel(),
}
"""Operations that unpack 4-bit weights, and how many numbers."""


_NOT_IN_EVERY_COUNTER = frozenset({
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_flash_attention_for_cpu_backward",
})  # fmt: skip
"""Attention that only newer counters know (torch 2.15; 2 % of a step with rows of 200 tokens). No
rate was fitted with it, so it is left out with every torch."""


class WorkLog(AllocationLog):
    """An allocation log that also adds up the work since `take` was called last.

    A view is a call as well: it costs the host's time. An operation on lists of tensors is one call
    for each `tensors_a_call` of them.
    """

    tensors_a_call = 1

    def __init__(self) -> None:
        super().__init__()
        self._narrow = self._wide = self._bytes = self._calls = self._unpacked = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        if result is NotImplemented:
            return result
        self._count(func, args, kwargs or {}, result)
        return result

    def take(self) -> Work:
        """Returns the work since the last call, and starts again."""
        work = Work(self._narrow, self._wide, self._bytes, self._calls, self._unpacked)
        self._narrow = self._wide = self._bytes = self._calls = self._unpacked = 0
        return work

    def _count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        kind = _kind(func)
        if kind.is_free:
            return
        self._calls += -(-len(args[0]) // self.tensors_a_call) if kind.is_of_lists else 1
        if not kind.moves:
            return
        self._bytes += _bytes(kind.name, args, kwargs, result)
        if kind.name in _UNPACKS:
            self._unpacked += _UNPACKS[kind.name](args, result)
        if kind.formula is None:
            return
        operations = kind.formula(*args, **kwargs, out_val=result)
        if args[0].element_size() <= 2:
            self._narrow += operations
        else:
            self._wide += operations


@dataclass(frozen=True)
class _Kind:
    """What is the same for all calls of an operation."""

    name: str
    is_free: bool
    moves: bool
    is_of_lists: bool
    formula: Callable[..., int] | None


@cache
def _kind(func: Any) -> _Kind:
    name = func._schema.name
    aliases = [each.alias_info for each in func._schema.returns]
    is_view = bool(aliases) and all(each is not None and not each.is_write for each in aliases)
    formula = flop_registry.get(func._overloadpacket)
    if name in _ON_PACKED_WEIGHTS:
        formula = _packed_product
    elif name in _NOT_IN_EVERY_COUNTER:
        formula = None
    return _Kind(
        name,
        name.startswith("prim::"),
        not is_view and name not in _NOT_FILLED,
        func.__name__.startswith(("_foreach_", "_fused_")),
        formula,
    )


def _packed_product(left: Tensor, *rest: Any, out_val: Tensor, **others: Any) -> int:
    return 2 * left.numel() * int(out_val.shape[-1])


def _bytes(name: str, args: Any, kwargs: Any, result: Any) -> int:
    written = sum(map(_size, _tensors(result)))
    if name in _READ_IN_PARTS:
        return 2 * written
    if name in _ONLY_WRITTEN:
        return sum(map(_size, _tensors(args)))
    if name in _WRITTEN_IN_PARTS:
        return 3 * sum(map(_size, _tensors(args[1:])))
    read = sum(map(_size, _tensors(args))) + sum(map(_size, _tensors(tuple(kwargs.values()))))
    # The optimizers' operations on lists return nothing and write what they read.
    return read + (written if result is not None else read)


def _size(tensor: Tensor) -> int:
    """Bytes of the tensor; an expanded one is read once."""
    whole = tensor.numel() * tensor.element_size()
    return whole if tensor.is_contiguous() else min(whole, tensor.untyped_storage().nbytes())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.layout is torch.strided:
            yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _tensors(each)
