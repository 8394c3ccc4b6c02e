"""A log of allocations, and a model of PyTorch's CUDA caching allocator that replays it.

The log works on real and on fake tensors. It inspects the results of each operation: a new storage
is an allocation, and the end of a storage is a release. Memory that a kernel allocates and frees
internally is not recorded; `prediction/simulation/interceptions.py` handles the cases that matter.

The allocator is a model of `c10/cuda/CUDACachingAllocator.cpp` (torch 2.13) with its default
settings. Sizes are rounded up. Small and large blocks come from separate pools, and each stream has
pools of its own. The smallest free block that fits is taken and split. Freed neighbours are joined.
"""

from __future__ import annotations

import bisect
import weakref
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

ROUNDED_TO = 512
"""Every block size is a multiple of this (`kMinBlockSize`)."""

_MIB = 1 << 20
_SMALL = 1 * _MIB  # kSmallSize: largest block of the small pool
_SMALL_SEGMENT = 2 * _MIB  # kSmallBuffer: segment size of the small pool
_MIN_LARGE = 10 * _MIB  # kMinLargeAlloc: from this size on, a segment fits its block
_LARGE_SEGMENT = 20 * _MIB  # kLargeBuffer: segment size of smaller large blocks
_LARGE_ROUNDED_TO = 2 * _MIB  # kRoundLarge
_APART = 1 << 30  # gap between segments, so that blocks of two segments are never neighbours

WORKSPACES = 2
"""Forward and backward pass run in separate threads, and each thread has a cuBLAS workspace."""

_WORKSPACE, _LARGE_WORKSPACE = 8_519_680, 32 << 20
_LARGE_WORKSPACE_SINCE = 9  # compute capability: Hopper and Blackwell


def cublas_workspace(capability: tuple[int, int]) -> int:
    """Bytes that cuBLAS allocates once per thread, from the same allocator.

    `:4096:2:16:8` by default, 32 MiB on Hopper and Blackwell (`parseChosenWorkspaceSize` in
    aten/src/ATen/cuda/CublasHandlePool.cpp).
    """
    return _LARGE_WORKSPACE if capability[0] >= _LARGE_WORKSPACE_SINCE else _WORKSPACE


@dataclass(frozen=True)
class Allocation:
    """An allocation of `size` bytes on a stream; a release of the `number` if `size` is `None`."""

    number: int
    size: int | None
    stream: int = 0


EMPTY_CACHE = Allocation(-1, None)
"""Marks a call of `torch.cuda.empty_cache`."""

FIRST_PRODUCT = Allocation(-1, None)
"""Marks the first matrix product of a thread, when cuBLAS allocates its workspace."""


_Pool = tuple[int, bool]
"""The stream, and whether it is the pool of small blocks."""


@dataclass(eq=False)
class _Block:
    size: int
    address: int
    pool: _Pool
    is_free: bool = False
    before: _Block | None = None
    after: _Block | None = None


@dataclass
class CachingAllocator:
    """Current and peak bytes; `reserved` counts memory requested from the driver."""

    allocated: int = 0
    reserved: int = 0
    most_allocated: int = 0
    most_reserved: int = 0
    _free: defaultdict[_Pool, list[tuple[int, int, _Block]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    _taken: dict[int, _Block] = field(default_factory=dict)
    _top: int = 0

    def allocate(self, number: int, size: int, stream: int = 0) -> None:
        wanted = rounded(size)
        block = self._take(wanted, (stream, wanted <= _SMALL))
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
        """Releases empty segments, as `torch.cuda.empty_cache` does."""
        for blocks in self._free.values():
            for item in [x for x in blocks if x[2].before is None and x[2].after is None]:
                blocks.remove(item)
                self.reserved -= item[0]

    def _take(self, size: int, pool: _Pool) -> _Block:
        """Returns the smallest free block that is large enough, else a new segment."""
        blocks = self._free[pool]
        place = bisect.bisect_left(blocks, size, key=lambda item: item[0])
        if place < len(blocks):
            block = blocks.pop(place)[2]
            block.is_free = False
            return block
        segment = _segment_size(size)
        block = _Block(segment, self._top, pool)
        self._top += segment + _APART
        self.reserved += segment
        self.most_reserved = max(self.most_reserved, self.reserved)
        return block

    def _split(self, block: _Block, size: int) -> None:
        """Splits off the unused rest of the block if it is large enough."""
        rest = block.size - size
        _, is_small = block.pool
        if rest < ROUNDED_TO if is_small else rest <= _SMALL:
            return
        left = _Block(rest, block.address + size, block.pool, before=block, after=block.after)
        if block.after is not None:
            block.after.before = left
        block.size, block.after = size, left
        self._offer(left)

    def _offer(self, block: _Block) -> None:
        block.is_free = True
        bisect.insort(
            self._free[block.pool], (block.size, block.address, block), key=lambda x: x[:2]
        )

    def _withdraw(self, block: _Block) -> None:
        blocks = self._free[block.pool]
        del blocks[bisect.bisect_left(blocks, (block.size, block.address), key=lambda x: x[:2])]
        block.is_free = False


def rounded(size: int) -> int:
    """Returns the size of the block for an allocation of `size` bytes."""
    return max(ROUNDED_TO, -(-size // ROUNDED_TO) * ROUNDED_TO)


def replay(allocations: Iterable[Allocation], workspace: int = _WORKSPACE) -> CachingAllocator:
    """Returns the allocator after it has replayed the allocations in order.

    Each workspace is allocated at the first product of its thread and never freed. If the log has
    no mark for that product, the workspace is allocated at the start.
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
            allocator.allocate(item.number, item.size, item.stream)
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


Part = Literal[
    "weights", "gradients", "optimizer", "gathered", "communication", "activations", "temporary"
]
PARTS: tuple[Part, ...] = get_args(Part)
"""`gathered` are the whole layers of a model that is divided over several GPUs, and `communication`
the buffers in which its parts are exchanged; the others are then those of one GPU."""

Phase = Literal["before", "forward", "backward", "optimizer"]
_THREADS: tuple[Phase, ...] = ("forward", "backward")
"""Phases with a thread of their own; the optimizer runs in the thread of the forward pass."""

_DEVICE = torch.ops.prim.device.default  # `tensor.device`


@dataclass(frozen=True)
class Peak:
    """The most bytes that were allocated at one time, and their breakdown by part."""

    bytes: int
    anatomy: dict[Part, int]


@dataclass(frozen=True)
class Rehearsal:
    """A part of the log, from `start` to `end`, that is replayed once more before `before`.

    All three are positions in the log. It stands for the untimed first pass of a run, which
    allocates the same as the forward and backward pass of a step, so it is not simulated again.
    """

    before: int
    start: int
    end: int


class AllocationLog(TorchDispatchMode):
    """Records every allocation and release in order; the caller sets `phase`."""

    def __init__(self) -> None:
        super().__init__()
        self.phase: Phase = "before"
        self._order: list[tuple[int, bool]] = []
        self._emptied: set[int] = set()
        self._products: dict[Phase, int] = {}
        self._sizes: list[int] = []
        self._born: list[Phase] = []
        self._streams: list[int] = []
        self._known_streams: dict[Any, int] = {torch.cpu.current_stream(): 0}
        self._named: dict[int, Part] = {}
        self._died: dict[int, Phase] = {}
        self._living: dict[int, tuple[int, weakref.ref[Any]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Returns False: nothing is compiled here, and torch's Dynamo guard is slow."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # two of three calls; dispatch takes a third of the time
        if DTensor in types:
            return NotImplemented  # its operations on this process's own part come next
        result = func(*args, **(kwargs or {}))
        self.see(result)
        return result

    def see(self, result: Any) -> None:
        """Records the new storages of a result."""
        if isinstance(result, DTensor):
            self.see(result.to_local())
        elif isinstance(result, Tensor):
            if result.layout is torch.sparse_coo:  # SHiRA's delta of a weight
                self.see((result._indices(), result._values()))
            elif result.layout is torch.strided:
                self._number(result)
        elif isinstance(result, tuple | list):
            for item in result:
                self.see(item)

    def name(self, tensors: Iterable[Tensor | None], part: Part) -> None:
        """Assigns the storages of the tensors to a part; the first one stays.

        Gradients are views of the buffer in which they were added up.
        """
        for tensor in tensors:
            if tensor is not None:
                number = self._number(tensor)
                if self._named.get(number, "communication") == "communication":
                    self._named[number] = part

    def resize(self, tensor: Tensor) -> None:
        """Records that the tensor's storage was given another size, which may be none."""
        known = self._living.pop(id(tensor.untyped_storage()), None)
        if known is not None:
            self._release(known[0])
        if tensor.untyped_storage().nbytes():
            self._number(tensor)

    def empty_cache(self) -> None:
        """Records that `torch.cuda.empty_cache` would be called now."""
        self._emptied.add(len(self._order))

    def multiplies(self) -> None:
        """Records that a matrix product comes now, if it is the first of the phase."""
        self._products.setdefault(self.phase, len(self._order))

    @property
    def position(self) -> int:
        """The current position in the log, for a `Rehearsal`."""
        return len(self._order)

    @property
    def living(self) -> int:
        """Bytes allocated now."""
        return sum(self._sizes[number] for number, _ in self._living.values())

    def allocations(self, first: Rehearsal | None = None) -> list[Allocation]:
        """Returns all events in order, with the `first` pass inserted at its position."""
        made: list[Allocation] = []
        threads = {place for phase, place in self._products.items() if phase in _THREADS}
        for place, (number, is_new) in enumerate(self._order):
            if first is not None and place == first.before:
                made += self._rehearsed(first, threads)
                threads = {each for each in threads if not first.start <= each < first.end}
            if place in self._emptied:
                made.append(EMPTY_CACHE)
            if place in threads:
                made.append(FIRST_PRODUCT)
            made.append(self._allocation(number) if is_new else Allocation(number, None))
        return made

    def _allocation(self, number: int, apart: int = 0) -> Allocation:
        return Allocation(number + apart, self._sizes[number], self._streams[number])

    def _rehearsed(self, part: Rehearsal, threads: set[int]) -> list[Allocation]:
        """Returns the part with new numbers; everything it allocated is released at its end."""
        own, apart = set[int](), len(self._sizes)
        made: list[Allocation] = []
        for place, (number, is_new) in enumerate(self._order[part.start : part.end], part.start):
            if place in threads:
                made.append(FIRST_PRODUCT)
            if is_new:
                own.add(number)
                made.append(self._allocation(number, apart))
            elif number in own:
                own.remove(number)
                made.append(Allocation(number + apart, None))
        return made + [Allocation(number + apart, None) for number in sorted(own)]

    def peak(self, rounding: bool = True) -> Peak:
        """Returns the peak; with `rounding` sizes are rounded as by the CUDA allocator."""
        sizes = [rounded(size) if rounding else size for size in self._sizes]
        now = most = at = 0
        for place, (number, is_new) in enumerate(self._order):
            now += sizes[number] if is_new else -sizes[number]
            if now > most:
                most, at = now, place
        living: set[int] = set()
        for number, is_new in self._order[: at + 1]:
            (living.add if is_new else living.discard)(number)
        anatomy: dict[Part, int] = dict.fromkeys(PARTS, 0)
        for number in living:
            anatomy[self._part(number)] += sizes[number]
        return Peak(most, anatomy)

    def _number(self, tensor: Tensor) -> int:
        """Returns the number of the tensor's storage; a new storage gets a new number."""
        if isinstance(tensor, DTensor):
            tensor = tensor.to_local()
        storage = tensor.untyped_storage()
        key = id(storage)
        known = self._living.get(key)
        if known is not None:
            return known[0]
        number = len(self._sizes)
        self._sizes.append(storage.nbytes())
        self._born.append(self.phase)
        stream = torch.cpu.current_stream()  # a simulated step's tensors are there
        self._streams.append(self._known_streams.setdefault(stream, len(self._known_streams)))
        self._order.append((number, True))

        def gone(_: Any) -> None:
            self._living.pop(key, None)
            self._release(number)

        self._living[key] = number, weakref.ref(storage, gone)
        return number

    def _release(self, number: int) -> None:
        self._died[number] = self.phase
        self._order.append((number, False))

    def _part(self, number: int) -> Part:
        """Returns the part; a storage from the forward pass that outlives it is an activation."""
        if number in self._named:
            return self._named[number]
        outlived = self._died.get(number) != "forward"
        return "activations" if self._born[number] == "forward" and outlived else "temporary"
