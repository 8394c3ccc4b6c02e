"""Rows of one batch, each with its own LoRA adapter or none, on a clone of the base.

Each layer's base product is computed once for all rows. The adapters' matrices are concatenated:
h = x [A1 A2 …], all of h except the row's own slice is masked to zero, and h [B1; B2; …] is added.
This takes two small products per layer for any number of adapters; a base row has an empty slice.
Layers with the same input, such as q, k and v, have their h computed as one.

On a quantised base each adapter is multiplied with its own rows instead, in PEFT's order and
precision. There, a difference in the last bit changed the first token's logits by 1 to 8 %
(SmolLM2-135M in NF4), so the added values must be bit-identical to PEFT's. A CPU does this row by
row. A GPU multiplies all rows at once: many small kernels take long to launch, and which kernel is
used, and so its rounding, depends on the shape anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from ftlab.models.laid_out import WITH_SAME_INPUT, LaidOutLinear, SharedProduct
from ftlab.playground.attach import LowRank, Pair, clone_on_same_weights, is_quantised

Widths = tuple[tuple[int, ...], ...]
"""For each layer, the ranks of all adapters; 0 for one that has none."""


@dataclass
class _Batch:
    """The adapter number of each row in the next forward passes.

    The layers refer to this object, not to their model. This avoids a reference cycle, so an
    adapter's memory is freed as soon as it is no longer used.
    """

    device: torch.device
    rows: tuple[int, ...] = ()
    index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    _masks: dict[Widths, Tensor] = field(default_factory=dict)

    def set(self, rows: Sequence[int]) -> None:
        self.rows = tuple(rows)
        self.index = torch.tensor(self.rows, dtype=torch.long, device=self.device)
        self._masks.clear()

    def others(self, widths: Widths, device: torch.device) -> Tensor:
        """Mask (rows, 1, all ranks): true where the rank belongs to another row's adapter."""
        if widths not in self._masks:
            parts = []
            for of_layer in widths:
                mask = torch.ones(len(self.rows), 1, sum(of_layer), dtype=torch.bool)
                starts = list(accumulate(of_layer, initial=0))
                for row, adapter in enumerate(self.rows):
                    if adapter:
                        mask[row, 0, starts[adapter - 1] : starts[adapter]] = False
                parts.append(mask)
            self._masks[widths] = torch.cat(parts, dim=2).to(device)
        return self._masks[widths]


Layers = Mapping[str, Sequence[Pair | None]]
"""Each adapter's pair by the layer's name (`None`: the adapter has none for that layer)."""

Way = Callable[[nn.Module, Layers, _Batch], None]
"""Has those layers of a model add what the adapter of each row adds."""

Hook = Callable[..., Tensor]
"""A forward hook that also receives the batch."""


def way_of(base: PreTrainedModel) -> Way:
    """Chooses how the adapters' outputs are added on this base; decided only here."""
    if not is_quantised(base):
        return together
    return one_by_one if _device_of(base).type == "cpu" else at_once


class RowAdapters:
    """A clone of the base in which each row of a batch uses its own adapter, or none.

    `rows` gives each row's adapter: 0 is the base, i + 1 is `adapters[i]`. Every lane sets `rows`
    again. `way` defaults to `way_of(base)`.
    """

    def __init__(
        self, base: PreTrainedModel, adapters: Sequence[LowRank], way: Way | None = None
    ) -> None:
        self.model = clone_on_same_weights(base)
        self.adapters = tuple(adapters)
        self._batch = _Batch(_device_of(base))
        paths = dict.fromkeys(path for adapter in adapters for path in adapter.layers)
        layers = {path: [adapter.layers.get(path) for adapter in adapters] for path in paths}
        (way or way_of(base))(self.model, layers, self._batch)

    @property
    def rows(self) -> tuple[int, ...]:
        return self._batch.rows

    @rows.setter
    def rows(self, rows: Sequence[int]) -> None:
        assert all(0 <= row <= len(self.adapters) for row in rows)
        self._batch.set(rows)

    def number_of(self, adapter: LowRank) -> int:
        """Returns the number that stands for that adapter in `rows`."""
        if not adapter.layers:
            return 0
        return 1 + next(i for i, known in enumerate(self.adapters) if known is adapter)


class SharedDown:
    """h = x [A1 A2 …], masked, of layers that get the same input: computed at the first of them.

    `add` is called for each layer, then `join` once.
    """

    def __init__(self, batch: _Batch) -> None:
        self._batch = batch
        self._parts: list[Tensor] = []
        self._widths: Widths = ()

    def add(self, pairs: Sequence[Pair | None]) -> int:
        """Returns the number of that layer."""
        self._parts += [pair.a for pair in pairs if pair]
        widths = tuple(len(pair.a) if pair else 0 for pair in pairs)
        self._widths += (widths,)
        return len(self._widths) - 1

    def join(self) -> None:
        self._down = torch.cat(self._parts).t().contiguous()
        self._parts.clear()
        self.product = SharedProduct([sum(of_layer) for of_layer in self._widths])

    def of(self, layer: int, x: Tensor) -> Tensor:
        """Returns that layer's h, (rows * length, its ranks), for the input `x`, (rows, length,
        width) or (rows * length, width). Raises `RuntimeError` for another number of rows."""
        return self.product.part(layer, x, self._masked)

    def _masked(self, x: Tensor) -> Tensor:
        _check(x, self._batch)
        h = x.to(self._down.dtype).reshape(-1, x.shape[-1]) @ self._down
        # A mask, not a product with zeros: an overflow in one adapter would give NaN in every row.
        others = self._batch.others(self._widths, h.device)
        h.view(len(self._batch.rows), -1, h.shape[1]).masked_fill_(others, 0)
        return h


class _Added:
    """Adds each row's own low-rank product to a layer's output, in place."""

    def __init__(self, shared: SharedDown, pairs: Sequence[Pair | None]) -> None:
        self.shared, self._number = shared, shared.add(pairs)
        ups = [pair.b * pair.scaling for pair in pairs if pair]
        self.up = torch.cat(ups, dim=1).t().contiguous()

    def to(self, output: Tensor, x: Tensor) -> Tensor:
        """Returns the layer's `output` for the input `x`; both as in `SharedDown.of`, or flat."""
        h, up = self.shared.of(self._number, x), self.up
        if output.dtype != up.dtype:  # the model keeps this layer in fp32
            h, up = h.to(output.dtype), up.to(output.dtype)
        output.view(-1, output.shape[-1]).addmm_(h, up)
        return output


class RowLinear(nn.Module):
    """A linear layer of the base, whose weight it shares, with the adapters of its rows.

    It is a module, since a forward hook on the layer takes as long as the adapters' products. It
    calls `mm` or `addmm` directly, as `torch.nn.functional.linear` does with flattened rows, if the
    layer's weight is not laid out.
    """

    def __init__(self, layer: nn.Linear, added: _Added) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.laid_out = layer.laid_out if isinstance(layer, LaidOutLinear) else None
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        if self.laid_out is not None:
            return self.added.to(self.laid_out.linear(x, self.weight, self.bias), x)
        flat, weight = x.reshape(-1, self.in_features), self.weight.t()
        if self.bias is None:
            output = torch.mm(flat, weight)
        else:
            output = torch.addmm(self.bias, flat, weight)
        return self.added.to(output, x).view(*x.shape[:-1], self.out_features)


def together(model: nn.Module, layers: Layers, batch: _Batch) -> None:
    """Replaces the model's layers by `RowLinear`.

    Layers of other kinds than torch's own, and those with hooks, get a forward hook.
    """
    shared: dict[tuple[str, object, int], SharedDown] = {}
    for path in [path for path, _ in model.named_modules() if path in layers]:  # as they compute
        pairs = layers[path]
        parent, _, name = path.rpartition(".")
        group = next((names for names in WITH_SAME_INPUT if name in names), name)
        layer = model.get_submodule(path)
        width = next(pair.a.shape[1] for pair in pairs if pair)
        added = _Added(shared.setdefault((parent, group, width), SharedDown(batch)), pairs)
        if _is_plain(layer):
            setattr(model.get_submodule(parent), name, RowLinear(layer, added))
        else:
            layer.register_forward_hook(partial(_hook, added=added))
    for down in shared.values():
        down.join()


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    changed = layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer)
    return type(layer) in (nn.Linear, LaidOutLinear) and not changed


def _hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, added: _Added) -> Tensor:
    return added.to(output, inputs[0])


def one_by_one(model: nn.Module, layers: Layers, batch: _Batch) -> None:
    for path, pairs in layers.items():
        hook = partial(_add_one_by_one, batch=batch, pairs=pairs)
        model.get_submodule(path).register_forward_hook(hook)


def _add_one_by_one(
    layer: nn.Module,
    inputs: tuple[Tensor, ...],
    output: Tensor,
    batch: _Batch,
    pairs: Sequence[Pair | None],
) -> Tensor:
    """A forward hook: adds each adapter's product row by row, with the same rounding as PEFT."""
    x = inputs[0]
    _check(x, batch)
    sums = output.clone()
    for adapter, own, added in zip(
        batch.rows, x.chunk(len(batch.rows)), sums.chunk(len(batch.rows)), strict=True
    ):
        pair = pairs[adapter - 1] if adapter else None
        if pair is not None:
            low = F.linear(own.to(pair.a.dtype), pair.a)
            added += (F.linear(low, pair.b) * pair.scaling).to(added.dtype)
    return sums


def at_once(model: nn.Module, layers: Layers, batch: _Batch) -> None:
    for path, pairs in layers.items():
        for hook in hooks_at_once(pairs):
            model.get_submodule(path).register_forward_hook(partial(hook, batch=batch))


def hooks_at_once(pairs: Sequence[Pair | None]) -> list[Hook]:
    """One hook per rank: a product padded with zeros to another rank is rounded differently."""
    ranks = sorted({len(pair.a) for pair in pairs if pair})
    return [_of_one_rank([p if p and len(p.a) == rank else None for p in pairs]) for rank in ranks]


def _of_one_rank(pairs: Sequence[Pair | None]) -> Hook:
    """Index 0 of the stacked matrices is for rows that get nothing from this hook."""
    own = [pair for pair in pairs if pair]
    places = [0]
    for pair in pairs:
        places.append(max(places) + 1 if pair else 0)
    down = torch.stack([torch.zeros_like(own[0].a), *(pair.a for pair in own)])
    up = torch.stack([torch.zeros_like(own[0].b), *(pair.b for pair in own)])
    return partial(
        _add_at_once,
        down=down,
        up=up,
        scaling=up.new_tensor([0.0, *(pair.scaling for pair in own)]).view(-1, 1, 1),
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
    """As `_add_one_by_one`, but for all rows at once. Nothing here synchronises with the device."""
    x, rows = inputs[0], len(batch.rows)
    _check(x, batch)
    place = places.index_select(0, batch.index)
    own, sums = x.reshape(rows, -1, x.shape[-1]), output.reshape(rows, -1, output.shape[-1])
    own, down = own.to(down.dtype), down.index_select(0, place)
    if down.shape[1] > 1:
        low = torch.bmm(own, down.transpose(1, 2))
    else:  # with rank 1, this operand order sums in the same order as PEFT
        low = torch.bmm(down, own.transpose(1, 2)).transpose(1, 2)
    added = torch.bmm(low, up.index_select(0, place).transpose(1, 2))
    added = (added * scaling.index_select(0, place)).to(sums.dtype)
    # `where`, not a sum with zeros: in a base row, infinity * 0 would add NaN.
    return torch.where((place > 0).view(-1, 1, 1), sums + added, sums).view_as(output)


def _device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _check(x: Tensor, batch: _Batch) -> None:
    """Checks that `x` is (rows, length, width), or (rows * length, width) as in some models."""
    rows = len(batch.rows)
    if x.shape[0] != rows and (x.dim() != 2 or x.shape[0] % rows):
        raise RuntimeError(f"{x.shape[0]} rows in a batch with {rows} adapter numbers")
