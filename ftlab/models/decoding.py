"""Greedy answers to prompts that the model has already read, all rows of several batches at once.

transformers' `generate` reads prompts padded on the left, copies the whole cache for each new
token, and computes rows that have ended until the last one ends. Here the prompts come from a pass
that also gave the loss, so they were padded on the right and needed no mask. That pass also gave
the first tokens of each answer: up to the first that differs from the reference, they follow from
it (as drafted tokens do in Leviathan et al. 2023, "Fast inference from transformers via speculative
decoding"). Keys and values are moved to one block of memory, where each row ends at the same place;
rows leave it as they end.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, GenerationConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ftlab.basics.errors import FtlabError
from ftlab.models.generation import virtual_tokens
from ftlab.models.packed import has_four_bits, packed_layers

_CACHE_NAMES = ("cache", "past_key_values")

_OVERRIDDEN = frozenset({
    "bos_token_id", "eos_token_id", "pad_token_id", "do_sample", "temperature", "top_k", "top_p",
    "min_p", "typical_p", "max_length", "max_new_tokens", "repetition_penalty", "use_cache",
    "transformers_version", "_from_model_config",
})  # fmt: skip
"""Defaults of a model for `generate` that have no effect on a greedy answer with our settings."""


@dataclass(frozen=True)
class ReadPrompts:
    """Prompts as a batch of the model's own cache, and the first tokens of each answer.

    Row i has `lengths[i]` tokens, soft ones included: the prompt and all but the last token of
    `begun[i]`, which has one token at least. The cache may hold more tokens after them.
    """

    cache: DynamicCache
    lengths: Sequence[int]
    begun: Sequence[Sequence[int]]

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values in one row."""
        rows, tokens = len(self.lengths), self.cache.get_seq_length()
        return sum(t.nbytes for pair in _pairs(self.cache) for t in pair) // (rows * tokens)


def begun_answer(
    likeliest: Sequence[int], reference: Sequence[int], stop_ids: Collection[int], most: int
) -> list[int]:
    """The first tokens of a greedy answer, as a pass over prompt and reference shows them.

    `likeliest` has the token with the largest logit at each place of the reference. It is the next
    one of the answer as long as the answer is the reference before that place.
    """
    begun: list[int] = []
    for token, expected in zip(likeliest, reference, strict=True):
        begun.append(token)
        if token != expected or has_ended(begun, stop_ids, most):
            break
    return begun


def has_ended(answer: Sequence[int], stop_ids: Collection[int], most: int) -> bool:
    """Whether the answer has a stop token at its end, or `most` tokens."""
    return answer[-1] in stop_ids or len(answer) >= most


def cache_of(output: Any) -> DynamicCache | None:
    """The cache in a model's output, whatever its name there."""
    return next((output[name] for name in _CACHE_NAMES if output.get(name) is not None), None)


def takes_cache_as(base: PreTrainedModel) -> str:
    """The name of the cache among the arguments of the model's forward pass."""
    takes = inspect.signature(base.forward).parameters
    return next(name for name in _CACHE_NAMES if name in takes)


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

    None of the answers that were begun has ended.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    callee: Any = base if virtual_tokens(model) else model
    answers = [list(begun) for batch in batches for begun in batch.begun]
    lengths = [length for batch in batches for length in batch.lengths]
    begin = max(lengths)
    steps = max_new_tokens - min(map(len, answers))
    cache = DynamicCache()
    cache.layers.extend(_in_one_block(batches, lengths, begin + steps))
    mask = torch.ones((len(answers), begin), dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, : begin - length] = 0
    rows = OpenRows(base, callee, cache, mask.to(next(model.parameters()).device))
    open_answers = list(answers)
    while open_answers:
        tokens = rows.step([answer[-1] for answer in open_answers]).argmax(dim=-1)
        for answer, token in zip(open_answers, tokens.tolist(), strict=True):
            answer.append(token)
        is_open = [not has_ended(answer, stop_ids, max_new_tokens) for answer in open_answers]
        places = _closing_gaps(is_open)
        if places:
            rows.keep(places)
        open_answers = [open_answers[place] for place in places]
    return answers


class OpenRows:
    """Rows that a model continues from a cache. Padding positions are always masked.

    `callee` is the module to call, `base` the one whose arguments count. `mask`, (rows, tokens), is
    0 at padding; it covers the cache, or what is read first. `read` and `step` return fp32 logits
    of the next token, (rows, vocabulary). Raises `FtlabError` for a model without a cache.
    """

    def __init__(self, base: Any, callee: Any, cache: DynamicCache, mask: Tensor) -> None:
        self._takes = frozenset(inspect.signature(base.forward).parameters)
        if not any(name in self._takes for name in _CACHE_NAMES):
            raise FtlabError(  # the model would see only the last token
                "This model keeps no cache of what it has read, so it cannot answer token by token "
                "here; choose another base model."
            )
        self._callee = callee
        self._takes_cache_as = takes_cache_as(base)
        self.cache = cache
        self._layers: list[Any] = cache.layers
        self.mask = mask
        self._is_padded = not bool(mask.all())

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Reads one more token in each row."""
        for place, layer in enumerate(self._layers):
            if type(layer) is not DynamicLayer:  # a window or a state, which has no room to fill
                continue
            keys, values = layer.keys, layer.values
            if keys is not None and values is not None:
                self._layers[place] = _Block(keys, values, keys.shape[-2])  # else copied each time
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
        return self.read(input_ids=torch.tensor(tokens, device=self.mask.device)[:, None])

    def keep(self, places: Sequence[int]) -> None:
        """Row i becomes the one at `places[i]`; all others are dropped."""
        if list(places) == list(range(len(self.mask))):
            return
        kept = torch.tensor(places, device=self.mask.device)
        for layer in self._layers:
            if isinstance(layer, _Block):
                layer.keep(places)
            else:
                layer.batch_select_indices(kept)
        self.mask = self.mask[kept]
        self._is_padded = not bool(self.mask.all())

    def can_join(self, other: OpenRows) -> bool:
        """Whether `join` is possible: both keep the keys and values of all tokens in each layer."""
        layers = [*self._layers, *other._layers]
        return all(type(layer) in (DynamicLayer, _Block) for layer in layers)

    def join(self, other: OpenRows) -> None:
        """Appends the other's rows. All rows end at the same place; shorter ones are padded before
        their first token. The other must not be used afterwards; if memory is out, this one is as
        it was."""
        end = max(self.mask.shape[1], other.mask.shape[1])
        blocks = []
        for pair in zip(self._layers, other._layers, strict=True):
            keys, values = ([getattr(layer, name) for layer in pair] for name in ("keys", "values"))
            blocks.append(_Block(_joined(keys, end), _joined(values, end), end))
        self._layers[:] = blocks
        masks = [rows.mask for rows in (self, other)]
        self.mask = torch.cat([pad(mask, (end - mask.shape[1], 0)) for mask in masks])
        self._is_padded = not bool(self.mask.all())

    def drop_padding(self, least: int) -> None:
        """Drops the first tokens, if at least so many of them are padding in every row."""
        count = int(self.mask.any(dim=0).int().argmax())
        if count < least or not self.can_join(self):
            return
        for place, layer in enumerate(self._layers):
            keys, values = layer.keys[:, :, count:], layer.values[:, :, count:]
            self._layers[place] = _Block(keys.clone(), values.clone(), keys.shape[2])
        self.mask = self.mask[:, count:]
        self._is_padded = not bool(self.mask.all())

    def read(self, **inputs: Tensor) -> Tensor:
        """Reads tokens that the mask covers already: prompts, at first."""
        new = next(iter(inputs.values())).shape[1]
        options: dict[str, Any] = {"logits_to_keep": 1}
        if self._is_padded:
            positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -new:]
            options |= {"attention_mask": self.mask, "position_ids": positions}
        options = {name: value for name, value in options.items() if name in self._takes}
        options[self._takes_cache_as] = self.cache
        output = self._callee(**inputs, **options, use_cache=True)
        logits: Tensor = output.logits[:, -1].float()
        return logits


def _closing_gaps(is_open: Sequence[bool]) -> list[int]:
    """The places of the open rows; those from the end come to the places of closed ones."""
    count = sum(is_open)
    last = [place for place in range(count, len(is_open)) if is_open[place]]
    return [place if is_open[place] else last.pop() for place in range(count)]


SPARE_TOKENS = 64
"""Room for so many more tokens is made when a block is full."""


class _Block(DynamicLayer):
    """One layer's keys and values, (rows, heads, capacity, width), in memory that is filled up."""

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
        if end > self._room[0].shape[2]:
            keys, values = self._shown()
            self._room = (_longer(keys, end), _longer(values, end))
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:rows, :, begin:end] = new
        return self._show(rows, end)

    def keep(self, places: Sequence[int]) -> None:
        """Row i becomes the one at `places[i]`: in place if that is i or one after those kept."""
        to = [row for row, place in enumerate(places) if row != place]
        source = [places[row] for row in to]
        if any(place < len(places) for place in source):
            keys, values = self._shown()
            self._room = (keys[list(places)], values[list(places)])
        elif to:
            for room in self._room:
                shown = room[:, :, : self._filled]
                shown[to] = shown[source]
        self._show(len(places), self._filled)

    def _show(self, rows: int, filled: int) -> tuple[Tensor, Tensor]:
        self._rows, self._filled = rows, filled
        self.keys, self.values = keys, values = self._shown()
        return keys, values

    def _shown(self) -> tuple[Tensor, Tensor]:
        keys, values = self._room
        return keys[: self._rows, :, : self._filled], values[: self._rows, :, : self._filled]


def _longer(filled: Tensor, end: int) -> Tensor:
    room = filled.new_zeros((*filled.shape[:2], end + SPARE_TOKENS, filled.shape[3]))
    room[:, :, : filled.shape[2]] = filled
    return room


def _joined(parts: Sequence[Tensor], end: int) -> Tensor:
    """Stacks rows, each (rows, heads, tokens, width), with their last tokens at `end`, and leaves
    room for more. Zeros: padding is masked, but must be finite."""
    rows = sum(len(part) for part in parts)
    shape = (rows, parts[0].shape[1], end + SPARE_TOKENS, parts[0].shape[3])
    room, row = parts[0].new_zeros(shape), 0
    for part in parts:
        room[row : row + len(part), :, end - part.shape[2] : end] = part
        row += len(part)
    return room


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
