"""The processes of one run that is divided over several GPUs: ranks.

All ranks draw the same batch, and each computes some of its rows. Loss and gradients are of the
whole batch, so they are those of one process, but for the order of additions. A run of one process
is a run of one rank, for which nothing here does anything.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ftlab.tasks.formatting import FormattedExample, padded_length
from ftlab.training.step import Batch, collate

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for another: as long as the first one may take to write a whole model."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, from 0, and how many there are. The first one writes the records.

    Every rank must call `mean`, `gathered` and `wait`, and in the same order. `on_host` is torch's
    group of the ranks whose messages travel by way of the host; `None`: those of all do.
    """

    index: int = 0
    count: int = 1
    on_host: Any = None

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def are_several(self) -> bool:
        return self.count > 1

    def rows(self, examples: Sequence[T]) -> Sequence[T]:
        """Returns the own rows of a batch; if they cannot be divided evenly, the last ranks have
        one less."""
        least, more = divmod(len(examples), self.count)
        begin = self.index * least + min(self.index, more)
        return examples[begin : begin + least + (self.index < more)]

    def collate(self, examples: Sequence[FormattedExample], pad_id: int) -> Batch:
        """Builds the batch of the own rows; `tokens`, `padded` and `items` are of all ranks."""
        if not self.are_several:
            return collate(examples, pad_id)
        parts = [Ranks(index, self.count).rows(examples) for index in range(self.count)]
        padded = (len(part) * padded_length(one.length for one in part) for part in parts)
        return collate(parts[self.index], pad_id) | {
            "tokens": sum(example.length for example in examples),
            "padded": sum(padded),
            # The first token of a row has no loss.
            "items": sum(one.length - max(1, len(one.prompt_ids)) for one in examples),
        }

    def mean(self, value: Tensor) -> Tensor:
        """Returns the mean of the ranks' values."""
        if not self.are_several:
            return value
        total = value.detach().clone()
        torch.distributed.all_reduce(total)
        return total / self.count

    def gathered(self, value: T) -> list[T]:
        """Returns the value of each rank; it travels pickled, by way of the host."""
        if not self.are_several:
            return [value]
        found: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(found, value, group=self.on_host)
        return found

    def wait(self) -> None:
        """Waits until every rank is here."""
        self.gathered(None)


ONE_PROCESS = Ranks()


def join(index: int, count: int, file: Path, device: torch.device) -> Ranks:
    """Joins the other ranks of a run, which meet in the file, and returns this one.

    Environment variables of torchrun are neither read nor set: with them transformers' Trainer
    would wrap the model anew. Raises torch's `DistError` if the others do not come.
    """
    store = torch.distributed.FileStore(str(file), count)
    on_cuda = device.type == "cuda"
    if device.type == "cpu":
        _return_freed_blocks()
    torch.distributed.init_process_group(
        "nccl" if on_cuda else "gloo",
        store=store,
        rank=index,
        world_size=count,
        timeout=_TIMEOUT,
        device_id=device if on_cuda else None,
    )
    on_host = torch.distributed.new_group(backend="gloo", timeout=_TIMEOUT) if on_cuda else None
    return Ranks(index, count, on_host)


_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD in glibc's malloc.h
_RETURNED_BYTES = 1 << 20


def _return_freed_blocks() -> None:
    """Makes glibc return memory of a megabyte and more as soon as it is freed.

    Weights are gathered and freed for each pass of a block, between gradients that stay. In a heap
    that kept what is freed they left holes: full fine-tuning of 57 M weights over two ranks had a
    net peak of 879 MB, with this 653.
    """
    try:
        ctypes.CDLL("libc.so.6").mallopt(_MMAP_THRESHOLD, _RETURNED_BYTES)
    except (OSError, AttributeError):  # another C library
        return


def leave() -> None:
    """Leaves the other ranks, if there are any."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
