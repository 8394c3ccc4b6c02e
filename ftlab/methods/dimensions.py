"""The shape of a model: the names and sizes of its weights, without torch and without weights."""

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
"""Layers whose weight is stored as (inputs, outputs): transformers' Conv1D."""

_ROUTERS = frozenset({"gate", "router", "shared_expert_gate"})
"""Names of the layers that choose the experts of a token."""

_ONE_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(\w+)\.weight")
_ALL_EXPERTS = re.compile(r"(.+\.experts)\.(gate_up_proj|down_proj)")
_FUSED_INTO = {
    "w1": "gate_up_proj", "w3": "gate_up_proj", "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj", "w2": "down_proj", "down_proj": "down_proj",
}  # fmt: skip
"""The matrix in memory that each of an expert's on disk is a part of, in transformers 5."""

PASSED_OVER: dict[str, tuple[str, ...]] = {
    "mamba": ("x_proj", "dt_proj", "out_proj"),
    "falcon_mamba": ("x_proj", "dt_proj", "out_proj"),
}
"""Layers whose weight the model hands to a kernel instead of calling the layer, by architecture:
an adapter on one would get no gradient, and bits of a packed weight would be taken for numbers."""

_FUSED = ("mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v3", "gpt_oss")
"""Architectures of which it was seen that their experts are such matrices in memory."""


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
    """A layer that each of a block's `number` experts has, held together as one parameter.

    The full name is the parameter's: "model.layers.0.mlp.experts.down_proj".
    """

    number: int = 1


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
        """Every linear layer of the blocks, without those of experts held as one matrix.

        A router that is no `nn.Linear` in memory is among them: its weight looks the same.
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
        """The linear layers that an adapter may be laid over.

        Not routers, which choose experts and are learnt with a loss of their own. Not layers whose
        weight the model multiplies with by itself, so that an adapter is passed over. Not the
        feed-forward layers beside fused experts: PEFT takes their names for those of the experts
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
        """The matrices of experts, as they are in memory: on disk each expert has its own."""
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
                if self.architecture == "gpt_oss":  # its matrices are stored the other way round
                    outputs, inputs = inputs, outputs
                found[key] = [number, outputs, inputs]
        return tuple(
            Experts(name, outputs, inputs, has_bias=False, number=number)
            for name, (number, outputs, inputs) in found.items()
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
        """Whether blocks hold experts."""
        return any(".experts." in key for key in self.weights)

    def _is_fused(self, key: str) -> bool:
        """Whether a tensor on disk is a part of a matrix of all experts in memory."""
        one = _ONE_EXPERT.fullmatch(key)
        return self.architecture in _FUSED and one is not None and one[3] in _FUSED_INTO

    @property
    def is_known(self) -> bool:
        """Whether layers and experts in memory can be told from the files."""
        return not self.has_experts or self.architecture in _FUSED

    @cached_property
    def is_transposed(self) -> bool:
        """Whether its layers are transformers' Conv1D, which many PEFT types do not take."""
        return self.architecture in _TRANSPOSED

    def sizes(self, names: tuple[str, ...] | None) -> Mapping[tuple[int, int], int]:
        """How often each `(outputs, inputs)` comes up in the adaptable layers of those names.

        `None`: all.
        """
        if names not in self._sizes:
            layers = self.adaptable_of(names)
            self._sizes[names] = Counter((layer.outputs, layer.inputs) for layer in layers)
        return self._sizes[names]

    @cached_property
    def _sizes(self) -> dict[tuple[str, ...] | None, Mapping[tuple[int, int], int]]:
        return {}

    def adaptable_of(self, names: tuple[str, ...] | None) -> tuple[Linear, ...]:
        """The adaptable layers whose name ends in one of those; `None`: all."""
        if names is None:
            return self.adaptable
        named = {linear.name for linear in self.named(names)}
        return tuple(linear for linear in self.adaptable if linear.name in named)

    def size_of(self, names: Iterable[str]) -> int:
        """Parameters in the tensors of those names."""
        return sum(math.prod(self.weights[name]) for name in names)

    def named(self, names: Iterable[str]) -> tuple[Linear, ...]:
        """The linear layers whose name ends in one of those, as `target_modules` picks them."""
        ends = tuple(f".{name}" for name in names)
        return tuple(linear for linear in self.linears if f".{linear.name}".endswith(ends))


def is_router(name: str) -> bool:
    """Whether the layer of that full name chooses among experts."""
    return not _ROUTERS.isdisjoint(name.split("."))


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
