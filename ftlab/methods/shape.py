"""The shape of a model: the names and sizes of its weights, without torch and without weights."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_EMBEDDINGS = ("embed_tokens", "wte", "wpe", "embed_in", "word_embeddings", "lm_head", "embed_out")
_LAYER = re.compile(r"\.(\d+)\.")
_TRANSPOSED = {"gpt2": ("c_attn", "c_proj", "c_fc")}
"""Layers whose weight is stored as (inputs, outputs): transformers' Conv1D."""


@dataclass(frozen=True)
class Linear:
    """A linear layer by its full name: `weight` is (outputs, inputs)."""

    name: str
    outputs: int
    inputs: int
    has_bias: bool

    @property
    def short_name(self) -> str:
        """As PEFT's `target_modules` name it: "q_proj"."""
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class ModelShape:
    """`weights` are the model's tensors by name, as its safetensors files hold them.

    `hidden` is the width of a token's vector, `key_width` that of the keys of one layer, all heads
    together; `positions` how many tokens the model can tell apart, `None` where it does not say.
    """

    weights: Mapping[str, tuple[int, ...]]
    architecture: str = ""
    hidden: int = 0
    key_width: int = 0
    positions: int | None = None

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """Every linear layer of the blocks: what PEFT means by "all-linear"."""
        transposed = _TRANSPOSED.get(self.architecture, ())
        return tuple(
            Linear(name, *(shape[::-1] if last in transposed else shape), has_bias)
            for key, shape in self.weights.items()
            if len(shape) == 2 and key.endswith(".weight")
            for name in [key.removesuffix(".weight")]
            for last, has_bias in [(name.rpartition(".")[2], f"{name}.bias" in self.weights)]
            if last not in _EMBEDDINGS
        )

    @cached_property
    def layers(self) -> int:
        """How many blocks the model has."""
        return max((block_of(key) for key in self.weights), default=-1) + 1

    @cached_property
    def biases(self) -> tuple[str, ...]:
        return tuple(key for key in self.weights if key.endswith(".bias"))

    @cached_property
    def total(self) -> int:
        """Parameters of the model; tied weights are in the file once."""
        return self.size_of(self.weights)

    @cached_property
    def has_experts(self) -> bool:
        """Whether blocks hold experts, whose matrices are one tensor in memory and many on disk."""
        return any(".experts." in key for key in self.weights)

    @cached_property
    def is_transposed(self) -> bool:
        """Whether its layers are transformers' Conv1D, which many PEFT types do not take."""
        return self.architecture in _TRANSPOSED

    def sizes(self, names: tuple[str, ...] | None) -> Mapping[tuple[int, int], int]:
        """How often each `(outputs, inputs)` comes up in the layers of those names; `None`: all."""
        if names not in self._sizes:
            layers = self.linears if names is None else self.named(names)
            self._sizes[names] = Counter((layer.outputs, layer.inputs) for layer in layers)
        return self._sizes[names]

    @cached_property
    def _sizes(self) -> dict[tuple[str, ...] | None, Mapping[tuple[int, int], int]]:
        return {}

    def size_of(self, names: Iterable[str]) -> int:
        """Parameters in the tensors of those names."""
        return sum(math.prod(self.weights[name]) for name in names)

    def named(self, names: Iterable[str]) -> tuple[Linear, ...]:
        """The linear layers whose name ends in one of those, as `target_modules` picks them."""
        ends = tuple(f".{name}" for name in names)
        return tuple(linear for linear in self.linears if f".{linear.name}".endswith(ends))


def block_of(name: str) -> int:
    """The number of the block that a tensor belongs to, from 0; -1 for one outside the blocks."""
    found = _LAYER.search(name)
    return int(found[1]) if found else -1


def shape_from(weights: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> ModelShape:
    """The shape of the weights of a model with that config.json.

    The widths are read as PEFT's `_prepare_prompt_learning_config` reads them.
    """
    inner = config.get("text_config")
    inner = inner if isinstance(inner, Mapping) and inner else config
    hidden = _first(inner, "hidden_size", "n_embd", "d_model")
    heads = _first(inner, "num_attention_heads", "n_head", "num_heads")
    key_heads = _first(inner, "num_key_value_heads")
    key_width = hidden
    if key_heads:
        key_width = (_first(inner, "head_dim") or (hidden // heads if heads else 0)) * key_heads
    return ModelShape(
        weights,
        architecture=str(config.get("model_type", "")),
        hidden=hidden,
        key_width=key_width,
        positions=_first(inner, "max_position_embeddings", "n_positions") or None,
    )


def _first(config: Mapping[str, Any], *names: str) -> int:
    """The first of those that the config holds as a whole number, else 0."""
    found = (config.get(name) for name in names)
    return next((value for value in found if type(value) is int), 0)
