"""A record of what torch hands out and takes back while something is computed.

It works on real tensors and on fake ones alike: each operation's results are looked at, and a
storage that was not seen before is an allocation, its end a release. What a kernel takes and gives
back within itself is not seen; `quantised.py` and `Intermediates` say where that matters.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from ftlab.prediction.allocator import EMPTY_CACHE, FIRST_PRODUCT, Allocation, rounded

Part = Literal["weights", "gradients", "optimizer", "activations", "temporary"]
PARTS: tuple[Part, ...] = ("weights", "gradients", "optimizer", "activations", "temporary")

Phase = Literal["before", "forward", "backward", "optimizer"]
_THREADS: tuple[Phase, ...] = ("forward", "backward")
"""What runs in a thread of its own; the optimizer runs in that of the forward pass."""

_DEVICE = torch.ops.prim.device.default  # `tensor.device`


@dataclass(frozen=True)
class Peak:
    """The most bytes that lived at one time, and the parts that they were."""

    bytes: int
    anatomy: dict[Part, int]


@dataclass(frozen=True)
class Rehearsal:
    """A part of the record, from `start` to `end`, that had happened once before `before`.

    All three are positions in the record. So the untimed first pass of a run, which allocates what
    a step's forward and backward pass do, need not be computed as well.
    """

    before: int
    start: int
    end: int


class AllocationLog(TorchDispatchMode):
    """Keeps every allocation and release in order. `phase` is to be set by whoever computes."""

    def __init__(self) -> None:
        super().__init__()
        self.phase: Phase = "before"
        self._order: list[tuple[int, bool]] = []
        self._emptied: set[int] = set()
        self._products: dict[Phase, int] = {}
        self._sizes: list[int] = []
        self._born: list[Phase] = []
        self._named: dict[int, Part] = {}
        self._died: dict[int, Phase] = {}
        self._living: dict[int, tuple[int, weakref.ref[Any]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here, and torch's guard against it takes its time."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is _DEVICE and isinstance(args[0], FakeTensor):
            return args[0].fake_device  # two of three calls; the long way takes a third of the time
        result = func(*args, **(kwargs or {}))
        self.see(result)
        return result

    def see(self, result: Any) -> None:
        """Notes the storages of a result that are new."""
        if isinstance(result, Tensor):
            if result.layout is torch.sparse_coo:  # SHiRA's change of a weight
                self.see((result._indices(), result._values()))
            elif result.layout is torch.strided:
                self._number(result)
        elif isinstance(result, tuple | list):
            for item in result:
                self.see(item)

    def name(self, tensors: Iterable[Tensor | None], part: Part) -> None:
        """Says what the storages of those tensors are for."""
        for tensor in tensors:
            if tensor is not None:
                self._named.setdefault(self._number(tensor), part)

    def empty_cache(self) -> None:
        """Notes that `torch.cuda.empty_cache` would be called now."""
        self._emptied.add(len(self._order))

    def multiplies(self) -> None:
        """Notes that a matrix product comes now, if it is the phase's first."""
        self._products.setdefault(self.phase, len(self._order))

    @property
    def position(self) -> int:
        """How much has happened so far, to name a part of it later."""
        return len(self._order)

    @property
    def living(self) -> int:
        """Bytes that live now."""
        return sum(self._sizes[number] for number, _ in self._living.values())

    def allocations(self, first: Rehearsal | None = None) -> list[Allocation]:
        """All that happened, in order, with the `first` pass put in where it belongs."""
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
            made.append(Allocation(number, self._sizes[number] if is_new else None))
        return made

    def _rehearsed(self, part: Rehearsal, threads: set[int]) -> list[Allocation]:
        """The part under numbers of its own, with all that it made given back at its end."""
        own, apart = set[int](), len(self._sizes)
        made: list[Allocation] = []
        for place, (number, is_new) in enumerate(self._order[part.start : part.end], part.start):
            if place in threads:
                made.append(FIRST_PRODUCT)
            if is_new:
                own.add(number)
                made.append(Allocation(number + apart, self._sizes[number]))
            elif number in own:
                own.remove(number)
                made.append(Allocation(number + apart, None))
        return made + [Allocation(number + apart, None) for number in sorted(own)]

    def peak(self, rounding: bool = True) -> Peak:
        """When most bytes lived; `rounding` counts each as the CUDA allocator does."""
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
        """The number of the tensor's storage, a new one where it was not seen before."""
        storage = tensor.untyped_storage()
        key = id(storage)
        known = self._living.get(key)
        if known is not None:
            return known[0]
        number = len(self._sizes)
        self._sizes.append(storage.nbytes())
        self._born.append(self.phase)
        self._order.append((number, True))

        def gone(_: Any) -> None:
            self._living.pop(key, None)
            self._died[number] = self.phase
            self._order.append((number, False))

        self._living[key] = number, weakref.ref(storage, gone)
        return number

    def _part(self, number: int) -> Part:
        """What was made in the forward pass and outlived it is an activation."""
        if number in self._named:
            return self._named[number]
        outlived = self._died.get(number) != "forward"
        return "activations" if self._born[number] == "forward" and outlived else "temporary"
