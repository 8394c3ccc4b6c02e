"""A lane: rows that one model carries forward together, one token a turn.

Generation is ours here, not transformers' `generate`, because that runs one batch to its end: lanes
take turns token by token, so that all panes stream at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, PeftType
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from ftlab.errors import FtlabError
from ftlab.models.generation import generation_inputs, left_padded, virtual_tokens
from ftlab.playground.rows import RowAdapters

_PREFIXES = (PeftType.PREFIX_TUNING, PeftType.CARTRIDGE)
"""Prompt methods whose soft tokens are keys and values, not embeddings."""


@dataclass(frozen=True)
class Start:
    """What the first forward of a lane is given."""

    model: Any
    inputs: dict[str, Tensor]
    cache: DynamicCache


class Lane:
    """Rows of one model and their cache. Positions that padding fills are masked throughout.

    `prefill` and `step` return fp32 logits of the next token, (rows, vocabulary).
    """

    def __init__(
        self, model: PreTrainedModel | PeftModel | RowAdapters, prompts: Sequence[Sequence[int]],
        pad_id: int,
    ) -> None:  # fmt: skip
        self._adapters = model if isinstance(model, RowAdapters) else None
        self._model = model.model if isinstance(model, RowAdapters) else model
        self._prompts = list(prompts)
        self._pad_id = pad_id
        self._cache: DynamicCache | None = None
        self._mask: Tensor | None = None
        self._is_padded = False
        self._callee: Any = None
        self._takes: frozenset[str] = frozenset()

    def prefill(self) -> Tensor:
        """Reads the prompts."""
        device = next(self._model.parameters()).device
        start = _start(self._model, left_padded(self._prompts, self._pad_id, device))
        self._callee, self._cache = start.model, start.cache
        self._takes = _parameters(start.model)
        self._mask = start.inputs.pop("attention_mask")
        self._is_padded = not bool(self._mask.all())
        return self._forward(**start.inputs)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Reads one more token in each row."""
        assert self._mask is not None
        mask = self._mask
        self._mask = torch.cat([mask, mask.new_ones(mask.shape[0], 1)], dim=1)
        return self._forward(input_ids=torch.tensor(tokens, device=mask.device)[:, None])

    def keep(self, rows: Sequence[int]) -> None:
        """Drops all other rows."""
        assert self._cache is not None
        assert self._mask is not None
        if len(rows) == self._mask.shape[0]:
            return
        picked = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(picked)
        self._mask = self._mask[picked]
        self._is_padded = not bool(self._mask.all())
        if self._adapters is not None:
            self._adapters.rows = [self._adapters.rows[row] for row in rows]

    def _forward(self, **inputs: Tensor) -> Tensor:
        assert self._mask is not None
        new = next(iter(inputs.values())).shape[1]
        options: dict[str, Any] = {}
        if self._is_padded:
            positions = (self._mask.cumsum(1) - 1).clamp(min=0)[:, -new:]
            options = {"attention_mask": self._mask, "position_ids": positions}
        options = {name: value for name, value in options.items() if name in self._takes}
        options |= {_cache_name(self._takes): self._cache}
        output = self._callee(**inputs, **options, use_cache=True, logits_to_keep=1)
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _start(model: PreTrainedModel | PeftModel, batch: dict[str, Tensor]) -> Start:
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    if isinstance(model, PeftModel) and virtual_tokens(model):
        kind = model.active_peft_config.peft_type
        if kind in _PREFIXES:
            return _start_with_prefix(model, batch)
        callee, inputs = generation_inputs(model, batch)
        return Start(callee, inputs, DynamicCache(config=base.config))
    return Start(model, batch, DynamicCache(config=base.config))


def _start_with_prefix(model: PeftModel, batch: dict[str, Tensor]) -> Start:
    """The prefix stands in the cache, and every row looks at it.

    transformers 5.24 passes over a prefix that PEFT hands to `generate`; a forward takes it.
    """
    rows = batch["input_ids"].shape[0]
    soft = batch["attention_mask"].new_ones(rows, virtual_tokens(model))
    mask = torch.cat([soft, batch["attention_mask"]], dim=1)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": mask}
    prefix: Any = model.get_prompt(batch_size=rows)
    return Start(model.get_base_model(), inputs, prefix)


def _parameters(model: Any) -> frozenset[str]:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return frozenset(inspect.signature(base.forward).parameters)


def _cache_name(parameters: Collection[str]) -> str:
    """A model without a cache would take one without a word and forget all but the last token."""
    for name in ("cache", "past_key_values"):
        if name in parameters:
            return name
    raise FtlabError(
        "This model keeps no cache of what it has read, so it cannot answer token by token here; "
        "choose another base model."
    )
