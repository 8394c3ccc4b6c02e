"""Many LoRA adapters as rows of one batch on one base.

Each layer's base product is computed once for all rows. The adapters' ranks are laid side by side:
h = x [A1 A2 …], everything but a row's own slice is masked to zero, and h [B1; B2; …] is added. Two
small products a layer however many adapters there are; a row of the base has an empty slice.

On a quantised base each adapter is multiplied with its own rows instead, in PEFT's order and
precision. There a last bit that is rounded otherwise moved the first token's logits by 1 to 8 %
(SmolLM2-135M in NF4), so what is added must be PEFT's to the bit. On a CPU that is done one row
after another. On a GPU, where many small products take their time in being started and kernels
choose by shape anyway, all rows are multiplied at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftlab.playground.wearing import LowRank, Pair, clone_on_same_weights, is_quantised


@dataclass
class _Batch:
    """What each row of the coming forwards wears.

    The hooks refer to this and not to the model that they are on: without that circle an adapter's
    memory is free as soon as nobody wears it.
    """

    device: torch.device
    rows: tuple[int, ...] = ()
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    _masks: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def set(self, rows: Sequence[int]) -> None:
        self.rows = tuple(rows)
        self.index = torch.tensor(self.rows, dtype=torch.long, device=self.device)
        self._masks.clear()

    def others(self, widths: tuple[int, ...], device: torch.device) -> Tensor:
        """(rows, 1, all ranks): true where the rank is not of the row's own adapter."""
        if widths not in self._masks:
            mask = torch.ones(len(self.rows), 1, sum(widths), dtype=torch.bool)
            starts = list(accumulate(widths, initial=0))
            for row, adapter in enumerate(self.rows):
                if adapter:
                    mask[row, 0, starts[adapter - 1] : starts[adapter]] = False
            self._masks[widths] = mask.to(device)
        return self._masks[widths]


Hook = Callable[..., Tensor]
"""A forward hook, which gets the batch as well."""

Way = Callable[[Sequence[Pair | None]], Sequence[Hook]]
"""Makes a layer's hooks from what each adapter has for that layer."""


def way_of(base: PreTrainedModel) -> Way:
    """How rows get what their adapters add on this base: decided here alone."""
    if not is_quantised(base):
        return together
    return one_by_one if _device_of(base).type == "cpu" else at_once


class RowAdapters:
    """A clone of the base in which each row of a batch wears an adapter of its own, or none.

    `rows` says what each row wears: 0 is the base, i + 1 is `adapters[i]`. It is set for every lane
    anew. `way` is the base's own where none is given.
    """

    def __init__(
        self, base: PreTrainedModel, adapters: Sequence[LowRank], way: Way | None = None
    ) -> None:
        self.model = clone_on_same_weights(base)
        self.adapters = tuple(adapters)
        self._batch = _Batch(_device_of(base))
        way = way or way_of(base)
        for path in dict.fromkeys(path for adapter in adapters for path in adapter.layers):
            layer = self.model.get_submodule(path)
            for hook in way([adapter.layers.get(path) for adapter in adapters]):
                layer.register_forward_hook(partial(hook, batch=self._batch))

    @property
    def rows(self) -> tuple[int, ...]:
        return self._batch.rows

    @rows.setter
    def rows(self, rows: Sequence[int]) -> None:
        assert all(0 <= row <= len(self.adapters) for row in rows)
        self._batch.set(rows)

    def wears(self, adapter: LowRank) -> int:
        """The number of that adapter in `rows`."""
        if not adapter.layers:
            return 0
        return 1 + next(i for i, known in enumerate(self.adapters) if known is adapter)


def together(pairs: Sequence[Pair | None]) -> list[Hook]:
    worn = [pair for pair in pairs if pair]
    hook = partial(
        _add_together,
        down=torch.cat([pair.a for pair in worn]).t().contiguous(),
        up=torch.cat([pair.b * pair.scaling for pair in worn], dim=1).t().contiguous(),
        widths=tuple(len(pair.a) if pair else 0 for pair in pairs),
    )
    return [hook]


def _add_together(
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
    batch: _Batch,
    down: Tensor,
    up: Tensor,
    widths: tuple[int, ...],
) -> Tensor:
    """A forward hook: the layer's output and each row's own low-rank product."""
    x, rows = _checked(inputs[0], batch), len(batch.rows)
    low = x.reshape(-1, x.shape[-1]).to(down.dtype) @ down
    # Not a product with zeros: what overflows in one adapter would be no number in every row.
    low = low.view(rows, -1, down.shape[1]).masked_fill(batch.others(widths, low.device), 0)
    flat = output.reshape(-1, output.shape[-1])
    if flat.dtype != up.dtype:  # a layer that its model keeps in fp32
        low, up = low.to(flat.dtype), up.to(flat.dtype)
    return torch.addmm(flat, low.view(-1, down.shape[1]), up).view_as(output)


def one_by_one(pairs: Sequence[Pair | None]) -> list[Hook]:
    return [partial(_add_one_by_one, pairs=pairs)]


def _add_one_by_one(
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
    batch: _Batch,
    pairs: Sequence[Pair | None],
) -> Tensor:
    """The same, one row after another and rounded as PEFT rounds."""
    x = _checked(inputs[0], batch)
    sums = output.clone()
    for adapter, own, added in zip(
        batch.rows, x.chunk(len(batch.rows)), sums.chunk(len(batch.rows)), strict=True
    ):
        pair = pairs[adapter - 1] if adapter else None
        if pair is not None:
            low = F.linear(own.to(pair.a.dtype), pair.a)
            added += (F.linear(low, pair.b) * pair.scaling).to(added.dtype)
    return sums


def at_once(pairs: Sequence[Pair | None]) -> list[Hook]:
    """A hook for each rank: a product filled up with zeros to another rank is rounded otherwise."""
    ranks = sorted({len(pair.a) for pair in pairs if pair})
    return [_of_one_rank([p if p and len(p.a) == rank else None for p in pairs]) for rank in ranks]


def _of_one_rank(pairs: Sequence[Pair | None]) -> Hook:
    """Place 0 of the stacked matrices is for rows that get nothing here."""
    worn = [pair for pair in pairs if pair]
    places = [0]
    for pair in pairs:
        places.append(max(places) + 1 if pair else 0)
    down = torch.stack([torch.zeros_like(worn[0].a), *(pair.a for pair in worn)])
    up = torch.stack([torch.zeros_like(worn[0].b), *(pair.b for pair in worn)])
    return partial(
        _add_at_once,
        down=down,
        up=up,
        scaling=up.new_tensor([0.0, *(pair.scaling for pair in worn)]).view(-1, 1, 1),
        places=torch.tensor(places, device=up.device),
    )


def _add_at_once(
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
    batch: _Batch,
    down: Tensor,
    up: Tensor,
    scaling: Tensor,
    places: Tensor,
) -> Tensor:
    """The same for all rows, each rounded as PEFT rounds. Nothing here waits for the device."""
    x, rows = _checked(inputs[0], batch), len(batch.rows)
    place = places.index_select(0, batch.index)
    own, sums = x.reshape(rows, -1, x.shape[-1]), output.reshape(rows, -1, output.shape[-1])
    own, down = own.to(down.dtype), down.index_select(0, place)
    if down.shape[1] > 1:
        low = torch.bmm(own, down.transpose(1, 2))
    else:  # in this order a product with one vector is summed up as PEFT's is
        low = torch.bmm(down, own.transpose(1, 2)).transpose(1, 2)
    added = torch.bmm(low, up.index_select(0, place).transpose(1, 2))
    added = (added * scaling.index_select(0, place)).to(sums.dtype)
    # Not a sum with zeros: what is no number in the base's own row must not be made one.
    return torch.where((place > 0).view(-1, 1, 1), sums + added, sums).view_as(output)


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _checked(x: Tensor, batch: _Batch) -> Tensor:
    """Some models lay rows end to end; (rows, length, width) is the rule."""
    rows = len(batch.rows)
    if x.shape[0] != rows and (x.dim() != 2 or x.shape[0] % rows):
        raise RuntimeError(f"{x.shape[0]} rows where {rows} wear adapters")
    return x
