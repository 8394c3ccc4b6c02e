"""The shape of a model: the names and sizes of its tensors, without torch or loaded weights."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_EMBEDDINGS = re.compile(r"embed|^(wte|wpe|lm_head)$")
_LAYER = re.compile(r"\.(\d+)\.")
_TRANSPOSED = {"gpt2": ("c_attn", "c_proj", "c_fc")}
"""Layers whose weight is stored as (inputs, outputs), as transformers' Conv1D does."""

_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
"""Names of the layers that route a token to experts."""

_ONE_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(\w+)\.weight")
_ALL_EXPERTS = re.compile(r"(.+\.experts)\.(gate_up_proj|down_proj)")
_FUSED_INTO = {
    "w1": "gate_up_proj", "w3": "gate_up_proj", "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj", "w2": "down_proj", "down_proj": "down_proj",
}  # fmt: skip
"""Maps an expert's matrix on disk to the fused matrix in memory, in transformers 5."""

PASSED_OVER: dict[str, tuple[str, ...]] = {
    "mamba": ("x_proj", "dt_proj", "out_proj"),
    "falcon_mamba": ("x_proj", "dt_proj", "out_proj"),
}
"""By architecture, layers whose weight the model passes to a kernel without calling the layer. An
adapter on one would get no gradient, and a quantised weight would be read as plain numbers."""

_FUSED = ("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss")
"""Architectures whose experts were verified to be fused matrices in memory."""


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
class Experts(Linear):
    """One layer of all `number` experts of a block, fused into one parameter.

    `name` is the parameter's full name: "model.layers.0.mlp.experts.down_proj".
    """

    number: int = 1


@dataclass(frozen=True, eq=False)
class ModelShape:
    """`weights` maps the names of the model's tensors, as in its safetensors files, to shapes.

    `hidden` is the hidden size, `key_width` the width of one layer's keys over all heads,
    `positions` the maximum number of tokens (`None` if the config does not give it). Shapes are
    compared by identity, which makes them keys of caches.
    """

    weights: Mapping[str, tuple[int, ...]]
    architecture: str = ""
    hidden: int = 0
    key_width: int = 0
    positions: int | None = None

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """All linear layers of the blocks, without those of fused experts.

        Includes routers that are not an `nn.Linear` in memory: their weight looks the same.
        """
        transposed = _TRANSPOSED.get(self.architecture, ())
        return tuple(
            Linear(name, *(shape[::-1] if last in transposed else shape), has_bias)
            for key, shape in self.weights.items()
            if len(shape) == 2 and key.endswith(".weight")
            for name in [key.removesuffix(".weight")]
            for last, has_bias in [(name.rpartition(".")[2], f"{name}.bias" in self.weights)]
            if not _EMBEDDINGS.search(last) and not self._is_fused(key)
        )

    @cached_property
    def adaptable(self) -> tuple[Linear, ...]:
        """The linear layers that an adapter can be attached to.

        Excludes routers, which select experts and are trained with a separate loss; layers in
        `PASSED_OVER`, where an adapter has no effect; and the feed-forward layers beside fused
        experts, because PEFT confuses their names with those of the experts
        (`_convert_peft_config_moe` in peft/utils/transformers_weight_conversion.py).
        """
        passed_over = PASSED_OVER.get(self.architecture, ())
        taken = tuple(_FUSED_INTO) if self.experts else ()
        return tuple(
            linear
            for linear in self.linears
            if not is_router(linear.name)
            and linear.short_name not in passed_over
            and linear.short_name not in taken
        )

    @cached_property
    def experts(self) -> tuple[Experts, ...]:
        """The fused expert matrices as in memory; on disk each expert may have its own."""
        found: dict[str, list[int]] = {}
        for key, shape in self.weights.items():
            one, all_ = _ONE_EXPERT.fullmatch(key), _ALL_EXPERTS.fullmatch(key)
            if one and self._is_fused(key):
                fused = _FUSED_INTO[one[3]]
                entry = found.setdefault(f"{one[1]}.{fused}", [0, 0, shape[1]])
                entry[0] = max(entry[0], int(one[2]) + 1)
                if one[2] == "0":
                    entry[1] += shape[0]
            elif all_ and len(shape) == 3:
                number, outputs, inputs = shape
                if self.architecture == "gpt_oss":  # its matrices are stored transposed
                    outputs, inputs = inputs, outputs
                found[key] = [number, outputs, inputs]
        return tuple(
            Experts(name, outputs, inputs, has_bias=False, number=number)
            for name, (number, outputs, inputs) in found.items()
        )

    @cached_property
    def layers(self) -> int:
        """The number of blocks of the model."""
        return max((block_of(key) for key in self.weights), default=-1) + 1

    @cached_property
    def biases(self) -> tuple[str, ...]:
        return tuple(key for key in self.weights if key.endswith(".bias"))

    @cached_property
    def total(self) -> int:
        """The model's parameter count; tied weights count once, as in the file."""
        return self.size_of(self.weights)

    @cached_property
    def has_experts(self) -> bool:
        """Whether the model is a mixture of experts."""
        return any(".experts." in key for key in self.weights)

    def _is_fused(self, key: str) -> bool:
        """Whether a tensor on disk is part of a fused expert matrix in memory."""
        one = _ONE_EXPERT.fullmatch(key)
        return self.architecture in _FUSED and one is not None and one[3] in _FUSED_INTO

    @property
    def is_known(self) -> bool:
        """Whether the layers and experts in memory can be derived from the files."""
        return not self.has_experts or self.architecture in _FUSED

    @cached_property
    def is_transposed(self) -> bool:
        """Whether its layers are transformers' Conv1D, which many PEFT types do not support."""
        return self.architecture in _TRANSPOSED

    def sizes(self, names: tuple[str, ...] | None) -> Mapping[tuple[int, int], int]:
        """The number of adaptable layers with those names per `(outputs, inputs)`; `None`: all."""
        if names not in self._sizes:
            layers = self.adaptable_of(names)
            self._sizes[names] = Counter((layer.outputs, layer.inputs) for layer in layers)
        return self._sizes[names]

    @cached_property
    def _sizes(self) -> dict[tuple[str, ...] | None, Mapping[tuple[int, int], int]]:
        return {}

    def adaptable_of(self, names: tuple[str, ...] | None) -> tuple[Linear, ...]:
        """The adaptable layers whose name ends with one of `names`; `None`: all."""
        if names is None:
            return self.adaptable
        named = {linear.name for linear in self.named(names)}
        return tuple(linear for linear in self.adaptable if linear.name in named)

    def size_of(self, names: Iterable[str]) -> int:
        """The parameter count of the named tensors."""
        return sum(math.prod(self.weights[name]) for name in names)

    def named(self, names: Iterable[str]) -> tuple[Linear, ...]:
        """The linear layers whose name ends with one of `names`, as in `target_modules`."""
        ends = tuple(f".{name}" for name in names)
        return tuple(linear for linear in self.linears if f".{linear.name}".endswith(ends))


def is_router(name: str) -> bool:
    """Whether the layer with that full name is a router of experts."""
    return not _ROUTERS.isdisjoint(name.split("."))


def block_of(name: str) -> int:
    """The index of a tensor's block, from 0; -1 if it is outside of the blocks."""
    found = _LAYER.search(name)
    return int(found[1]) if found else -1


def shape_from(weights: Mapping[str, tuple[int, ...]], config: Mapping[str, Any]) -> ModelShape:
    """The shape of a model with these weights and this config.json.

    Reads the widths in the same way as PEFT's `_prepare_prompt_learning_config`.
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
    """The first of these config values that is an integer, else 0."""
    found = (config.get(name) for name in names)
    return next((value for value in found if type(value) is int), 0)
