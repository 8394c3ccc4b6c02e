"""Greedy answers to prompts that the model has already read, all rows of several batches at once.

transformers' `generate` reads prompts padded on the left, copies the whole cache for each new
token, and computes rows that have ended until the last one ends. Here the prompts come from a pass
that also gave the loss, so they were padded on the right and needed no mask. Their keys and values
are moved to one block of memory, where each row ends at the same place; rows leave it as they end.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ftlab.models.generation import virtual_tokens
from ftlab.models.loading import has_four_bits, packed_layers

_CACHE_NAMES = ("cache", "past_key_values")

_OVERRIDDEN = frozenset({
    "bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_k", "top_p",
    "min_p", "typical_p", "max_length", "max_new_tokens", "repetition_penalty", "use_cache",
    "transformers_version", "_from_model_config",
})  # fmt: skip
"""Defaults of a model for `generate` that have no effect on a greedy answer with our settings."""


@dataclass(frozen=True)
class ReadPrompts:
    """Prompts as a batch of the model's own cache: row i has its prompt from `soft` on.

    The cache may hold more tokens after each prompt. `soft` is the number of soft tokens before it
    (`virtual_tokens`).
    """

    cache: DynamicCache
    prompts: Sequence[Sequence[int]]
    soft: int

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values in one row."""
        rows, tokens = len(self.prompts), self.cache.get_seq_length()
        return sum(t.nbytes for pair in _pairs(self.cache) for t in pair) // (rows * tokens)


def cache_of(output: Any) -> DynamicCache | None:
    """The cache in a model's output, whatever its name there."""
    return next((output[name] for name in _CACHE_NAMES if output.get(name) is not None), None)


def answers_what_it_read(model: PreTrainedModel | PeftModel) -> bool:
    """Whether `greedy_answers` is exact for this model; decided only here.

    Each layer must keep the keys and values of all tokens, because those of a completion are cut
    off and rows are moved: a sliding window and a state have no such entries. In 8 bits a row's
    numbers depend on the other rows, because outliers are found over the whole batch (LLM.int8). A
    model whose own defaults change the choice of tokens (`suppress_tokens`, for example) is left to
    `generate`.
    """
    if any(not has_four_bits(layer) for layer in packed_layers(model)):
        return False
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    takes = inspect.signature(base.forward).parameters
    if "attention_mask" not in takes or not any(name in takes for name in _CACHE_NAMES):
        return False
    layers = DynamicCache(config=base.config).layers
    defaults: GenerationConfig | None = getattr(base, "generation_config", None)
    changed = defaults.to_diff_dict() if defaults is not None else {}
    chooses = {name for name, value in changed.items() if value} - _OVERRIDDEN
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers) and not chooses


def greedy_answers(
    model: PreTrainedModel | PeftModel,
    batches: list[ReadPrompts],
    max_new_tokens: int,
    stop_ids: Collection[int],
) -> list[list[int]]:
    """One answer per prompt as token ids, with its stop token. Empties `batches`.

    The last token of each prompt is read again: the next token follows from its output.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    callee: Any = base if virtual_tokens(model) else model
    takes = inspect.signature(base.forward).parameters
    device = next(model.parameters()).device
    prompts = [prompt for batch in batches for prompt in batch.prompts]
    lengths = [batch.soft + len(prompt) - 1 for batch in batches for prompt in batch.prompts]
    begin = max(lengths)
    blocks = _in_one_block(batches, lengths, begin + max_new_tokens)
    cache = DynamicCache()
    cache.layers.extend(blocks)
    mask = torch.ones((len(prompts), begin + max_new_tokens), dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, : begin - length] = 0
    mask = mask.to(device)
    positions = torch.tensor(lengths, device=device)[:, None]
    tokens = torch.tensor([prompt[-1] for prompt in prompts], device=device)
    options: dict[str, Any] = {next(n for n in _CACHE_NAMES if n in takes): cache}
    if "logits_to_keep" in takes:
        options["logits_to_keep"] = 1
    answers: list[list[int]] = [[] for _ in prompts]
    open_rows = list(range(len(prompts)))
    for new in range(max_new_tokens):
        if "position_ids" in takes:
            options["position_ids"] = positions + new
        seen = mask[:, : begin + new + 1]
        output = callee(input_ids=tokens[:, None], attention_mask=seen, use_cache=True, **options)
        tokens = output.logits[:, -1].float().argmax(dim=-1)
        chosen = tokens.tolist()
        for row, token in zip(open_rows, chosen, strict=True):
            answers[row].append(token)
        places = _closing_gaps([token not in stop_ids for token in chosen])
        if not places:
            break
        if len(places) < len(chosen):
            kept = torch.tensor(places, device=device)
            for block in blocks:
                block.keep(places)
            mask, positions, tokens = mask[kept], positions[kept], tokens[kept]
            open_rows = [open_rows[place] for place in places]
    return answers


def _closing_gaps(is_open: Sequence[bool]) -> list[int]:
    """The places of the open rows; those from the end come to the places of closed ones."""
    count = sum(is_open)
    last = [place for place in range(count, len(is_open)) if is_open[place]]
    return [place if is_open[place] else last.pop() for place in range(count)]


class _Block(DynamicLayer):
    """One layer's keys and values, (rows, heads, capacity, width), in memory allocated once."""

    def __init__(self, keys: Tensor, values: Tensor, filled: int) -> None:
        super().__init__()
        self._room = (keys, values)
        self.device = keys.device
        self.is_initialized = True
        self._show(len(keys), filled)

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        rows, begin = self._rows, self._filled
        end = begin + key_states.shape[-2]
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:rows, :, begin:end] = new
        return self._show(rows, end)

    def keep(self, places: Sequence[int]) -> None:
        """Row i becomes the one at `places[i]`, which is i or one after the rows that are kept."""
        to = [row for row, place in enumerate(places) if row != place]
        if to:
            source = [places[row] for row in to]
            for room in self._room:
                shown = room[:, :, : self._filled]
                shown[to] = shown[source]
        self._show(len(places), self._filled)

    def _show(self, rows: int, filled: int) -> tuple[Tensor, Tensor]:
        self._rows, self._filled = rows, filled
        self.keys, self.values = (room[:rows, :, :filled] for room in self._room)
        return self.keys, self.values


def _pairs(cache: DynamicCache) -> list[tuple[Tensor, Tensor]]:
    layers: list[Any] = cache.layers
    return [(layer.keys, layer.values) for layer in layers]


def _in_one_block(
    batches: list[ReadPrompts], lengths: Sequence[int], capacity: int
) -> list[_Block]:
    """Moves all rows to one cache, each with its last token at the same place; layer by layer, so
    that hardly more memory is used than the batches had."""
    begin = max(lengths)
    parts = [_pairs(batch.cache) for batch in batches]
    batches.clear()
    blocks = []
    for layer in range(len(parts[0])):
        rooms = []
        for kind in range(2):
            of_batches = [part[layer][kind] for part in parts]
            one = of_batches[0]
            shape = (len(lengths), one.shape[1], capacity, one.shape[3])
            room = one.new_zeros(shape)  # zeros: padding is masked, but must be finite
            rows = (row for tensor in of_batches for row in tensor)
            for place, (row, length) in enumerate(zip(rows, lengths, strict=True)):
                room[place, :, begin - length : begin] = row[:, :length]
            rooms.append(room)
        for part in parts:
            part[layer] = (rooms[0][:0], rooms[1][:0])  # frees the batch's own
        blocks.append(_Block(rooms[0], rooms[1], begin))
    return blocks
