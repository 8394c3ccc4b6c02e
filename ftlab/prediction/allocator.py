"""What PyTorch's CUDA caching allocator reserves for a record of allocations.

A model of `c10/cuda/CUDACachingAllocator.cpp` (torch 2.13) with its default settings and one
stream: sizes are rounded up, small and large blocks come from pools of their own, the smallest
free block that fits is taken and split, and freed neighbours are joined. No torch is needed.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass, field

ROUNDED_TO = 512
"""Every size is a multiple of it (`kMinBlockSize`)."""

_MIB = 1 << 20
_SMALL = 1 * _MIB  # kSmallSize: up to this a block comes from the small pool
_SMALL_SEGMENT = 2 * _MIB  # kSmallBuffer: what the small pool asks the driver for
_MIN_LARGE = 10 * _MIB  # kMinLargeAlloc: from this on a segment is as large as it must be
_LARGE_SEGMENT = 20 * _MIB  # kLargeBuffer: what a smaller large block asks the driver for
_LARGE_ROUNDED_TO = 2 * _MIB  # kRoundLarge
_APART = 1 << 30  # between segments, so that blocks of two are never neighbours

WORKSPACES = 2
"""Forward and backward run in threads of their own, and each has a workspace."""

_WORKSPACE, _LARGE_WORKSPACE = 8_519_680, 32 << 20
_LARGE_WORKSPACE_SINCE = 9  # compute capability: Hopper, and Blackwell after it


def cublas_workspace(capability: tuple[int, int]) -> int:
    """Bytes that cuBLAS takes once a thread, from the same allocator.

    `:4096:2:16:8` by default, 32 MiB on Hopper and Blackwell (`parseChosenWorkspaceSize` in
    aten/src/ATen/cuda/CublasHandlePool.cpp).
    """
    return _LARGE_WORKSPACE if capability[0] >= _LARGE_WORKSPACE_SINCE else _WORKSPACE


@dataclass(frozen=True)
class Allocation:
    """Some bytes handed out under a number, or given back: then `size` is `None`."""

    number: int
    size: int | None


EMPTY_CACHE = Allocation(-1, None)
"""Stands for a call of `torch.cuda.empty_cache`."""

FIRST_PRODUCT = Allocation(-1, None)
"""Stands for a thread's first matrix product, at which cuBLAS takes its workspace."""


@dataclass(eq=False)
class _Block:
    size: int
    address: int
    is_small: bool
    is_free: bool = False
    before: _Block | None = None
    after: _Block | None = None


@dataclass
class CachingAllocator:
    """Bytes now and at most; `reserved` counts what the driver was asked for."""

    allocated: int = 0
    reserved: int = 0
    most_allocated: int = 0
    most_reserved: int = 0
    _free: dict[bool, list[tuple[int, int, _Block]]] = field(
        default_factory=lambda: {True: [], False: []}
    )
    _taken: dict[int, _Block] = field(default_factory=dict)
    _top: int = 0

    def allocate(self, number: int, size: int) -> None:
        wanted = rounded(size)
        block = self._take(wanted)
        self._split(block, wanted)
        self._taken[number] = block
        self.allocated += block.size
        self.most_allocated = max(self.most_allocated, self.allocated)

    def release(self, number: int) -> None:
        block = self._taken.pop(number)
        self.allocated -= block.size
        if block.before is not None and block.before.is_free:
            earlier = block.before
            self._withdraw(earlier)
            block = _join(earlier, block)
        if block.after is not None and block.after.is_free:
            self._withdraw(block.after)
            block = _join(block, block.after)
        self._offer(block)

    def empty_cache(self) -> None:
        """Gives the segments back that nothing lies in, as `torch.cuda.empty_cache` does."""
        for blocks in self._free.values():
            for item in [x for x in blocks if x[2].before is None and x[2].after is None]:
                blocks.remove(item)
                self.reserved -= item[0]

    def _take(self, size: int) -> _Block:
        """The smallest free block that is large enough, else a new segment."""
        is_small = size <= _SMALL
        blocks = self._free[is_small]
        place = bisect.bisect_left(blocks, size, key=lambda item: item[0])
        if place < len(blocks):
            block = blocks.pop(place)[2]
            block.is_free = False
            return block
        segment = _segment_size(size)
        block = _Block(segment, self._top, is_small)
        self._top += segment + _APART
        self.reserved += segment
        self.most_reserved = max(self.most_reserved, self.reserved)
        return block

    def _split(self, block: _Block, size: int) -> None:
        """Cuts off what is not needed, where the rest is large enough to be of use."""
        rest = block.size - size
        if rest < ROUNDED_TO if block.is_small else rest <= _SMALL:
            return
        left = _Block(rest, block.address + size, block.is_small, before=block, after=block.after)
        if block.after is not None:
            block.after.before = left
        block.size, block.after = size, left
        self._offer(left)

    def _offer(self, block: _Block) -> None:
        block.is_free = True
        bisect.insort(
            self._free[block.is_small], (block.size, block.address, block), key=lambda x: x[:2]
        )

    def _withdraw(self, block: _Block) -> None:
        blocks = self._free[block.is_small]
        del blocks[bisect.bisect_left(blocks, (block.size, block.address), key=lambda x: x[:2])]
        block.is_free = False


def rounded(size: int) -> int:
    """The size of the block that holds so many bytes."""
    return max(ROUNDED_TO, -(-size // ROUNDED_TO) * ROUNDED_TO)


def replay(allocations: Iterable[Allocation], workspace: int = _WORKSPACE) -> CachingAllocator:
    """The allocator after those allocations, one after another.

    The workspaces are taken at their threads' first products and kept; first of all, where the
    record does not say when those are.
    """
    made = list(allocations)
    allocator = CachingAllocator()
    taken = sum(item is FIRST_PRODUCT for item in made)
    for place in range(taken, WORKSPACES):
        allocator.allocate(-2 - place, workspace)
    for item in made:
        if item is EMPTY_CACHE:
            allocator.empty_cache()
        elif item is FIRST_PRODUCT:
            taken -= 1
            allocator.allocate(-2 - taken, workspace)
        elif item.size is None:
            allocator.release(item.number)
        else:
            allocator.allocate(item.number, item.size)
    return allocator


def _segment_size(size: int) -> int:
    if size <= _SMALL:
        return _SMALL_SEGMENT
    if size < _MIN_LARGE:
        return _LARGE_SEGMENT
    return -(-size // _LARGE_ROUNDED_TO) * _LARGE_ROUNDED_TO


def _join(block: _Block, following: _Block) -> _Block:
    block.size += following.size
    block.after = following.after
    if block.after is not None:
        block.after.before = block
    return block
