"""Many LoRA adapters as rows of one batch on one base.

Each layer's base product is computed once for all rows. The adapters' ranks are laid side by side:
h = x [A1 A2 …], everything but a row's own slice is masked to zero, and h [B1; B2; …] is added. Two
small products a layer however many adapters there are; a row of the base has an empty slice.

On a quantised base each adapter is multiplied with its own rows instead, in PEFT's order and
precision. There a last bit that is rounded otherwise moved the first token's logits by 1 to 8 %
(SmolLM2-135M in NF4), so what is added must be PEFT's to the bit.
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

    rows: tuple[int, ...] = ()
    _masks: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def set(self, rows: Sequence[int]) -> None:
        self.rows = tuple(rows)
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


class RowAdapters:
    """A clone of the base in which each row of a batch wears an adapter of its own, or none.

    `rows` says what each row wears: 0 is the base, i + 1 is `adapters[i]`. It is set for every lane
    anew.
    """

    def __init__(self, base: PreTrainedModel, adapters: Sequence[LowRank]) -> None:
        self.model = clone_on_same_weights(base)
        self.adapters = tuple(adapters)
        self._batch = _Batch()
        for path in dict.fromkeys(path for adapter in adapters for path in adapter.layers):
            pairs = [adapter.layers.get(path) for adapter in adapters]
            add = partial(_add_apart, pairs=pairs) if is_quantised(base) else _together(pairs)
            layer = self.model.get_submodule(path)
            layer.register_forward_hook(partial(add, batch=self._batch))

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


def _together(pairs: Sequence[Pair | None]) -> Callable[..., Tensor]:
    worn = [pair for pair in pairs if pair]
    return partial(
        _add_together,
        down=torch.cat([pair.a for pair in worn]).t().contiguous(),
        up=torch.cat([pair.b * pair.scaling for pair in worn], dim=1).t().contiguous(),
        widths=tuple(len(pair.a) if pair else 0 for pair in pairs),
    )


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


def _add_apart(
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


def _checked(x: Tensor, batch: _Batch) -> Tensor:
    """Some models lay rows end to end; (rows, length, width) is the rule."""
    rows = len(batch.rows)
    if x.shape[0] != rows and (x.dim() != 2 or x.shape[0] % rows):
        raise RuntimeError(f"{x.shape[0]} rows where {rows} wear adapters")
    return x
