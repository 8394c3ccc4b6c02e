"""Makes the memory of a model that is divided over ranks visible to an allocation log.

FSDP frees gathered weights by resizing their storages, which no operation shows, and its own shape
calculations run operations on tensors of the whole size, which take no memory (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from torch import Tensor
from torch.distributed.fsdp._fully_shard import _fsdp_collectives, _fsdp_param
from torch.distributed.tensor import _dispatch, _sharding_prop
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.utils._python_dispatch import _disable_current_modes

from ftlab.training.allocations import AllocationLog


@contextmanager
def shards_logged(log: AllocationLog) -> Iterator[None]:
    """Logs gathered weights as they come and go, and names the buffers of the exchange."""
    free, allocate = _fsdp_param.free_storage, _fsdp_param.alloc_storage
    buffers = _fsdp_collectives.DefaultAllocMixin
    buffer, shapes = buffers.allocate, ShardingPropagator._propagate_tensor_meta_non_cached

    def freed(tensor: Tensor) -> None:
        free(tensor)
        log.resize(tensor)

    def allocated(tensor: Tensor) -> None:
        allocate(tensor)
        log.resize(tensor)
        log.name([tensor], "gathered")

    def exchanged(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        tensor = buffer(self, *args, **kwargs)
        log.name([tensor], "communication")
        return tensor

    def unseen(self: Any, *args: Any) -> Any:
        with _disable_current_modes():
            return shapes(self, *args)

    with (
        patch.object(_fsdp_param, "free_storage", freed),
        patch.object(_fsdp_param, "alloc_storage", allocated),
        patch.object(buffers, "allocate", exchanged),
        patch.object(ShardingPropagator, "_propagate_tensor_meta_non_cached", unseen),
        # Else no result of these calculations is kept while a fake mode is active.
        patch.object(_dispatch, "_are_we_tracing", lambda: False),
        # No shard here is strided, and the search for one takes the square of the weights' number.
        patch.object(_sharding_prop, "_propagate_use_strided_shard_flag", lambda *_: None),
    ):
        yield
