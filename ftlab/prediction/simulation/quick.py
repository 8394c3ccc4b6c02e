"""Fake tensors for less time: a shorter key to what an operation gave for tensors alike."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cache
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torch._subclasses.fake_tensor import (
    _DISPATCH_HANDLE_DIRECTLY,
    _DISPATCH_META_HANDLERS,
    FakeTensor,
    FakeTensorMode,
    _BypassDispatchCache,
    _CacheKeyState,
    _DispatchCacheKey,
    _DispatchCacheValidEntry,
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
