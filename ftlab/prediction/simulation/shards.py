"""Divides a simulated model over ranks, by the code that divides a run's (`training.sharding`).

The group of ranks is torch's "fake" one, which sends nothing: this process is rank 0, whose parts
are the largest. FSDP's hooks gather and free weights as in a run, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from ftlab.basics.errors import FtlabError
from ftlab.training.allocations import AllocationLog
from ftlab.training.sharding import units_of


@contextmanager
def ranks(count: int) -> Iterator[DeviceMesh | None]:
    """Yields so many ranks that exchange nothing; `None` for one. Call it outside of a fake mode.

    Raises `FtlabError` in a process that is a rank of a real group.
    """
    if count == 1:
        yield None
        return
    if torch.distributed.is_initialized():
        raise FtlabError(
            "Memory over several cards cannot be simulated in a process of a run over several; "
            "predict it with Plan or the command predict."
        )
    torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)
    try:
        yield init_device_mesh("cpu", (count,))
    finally:
        torch.distributed.destroy_process_group()


def divide(model: nn.Module, mesh: DeviceMesh | None) -> None:
    """Divides a model of fake tensors over the ranks, before its optimizer is made."""
    if mesh is not None:
        for unit in units_of(model):
            fully_shard(unit, mesh=mesh)


_GLOO_COPIES = {
    torch.ops.c10d._allgather_base_.default: 0,  # the output
    torch.ops.c10d._reduce_scatter_base_.default: 1,  # the input
}
"""Operations for which gloo allocates a copy of the whole, and which argument that is. NCCL does
not; its own buffers are outside torch's allocator, as CUDA's context is."""


def gloo_copies(log: AllocationLog, func: Any, args: Any) -> None:
    """Logs the copy that gloo makes for the time of an exchange, if `func` is one."""
    place = _GLOO_COPIES.get(func)
    if place is not None:
        with log:
            log.name([torch.empty_like(args[place])], "communication")
