"""Peak memory from formulas, for models that cannot be simulated; less exact, and labelled so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ftlab.methods.variant import Variant
from ftlab.prediction.question import Step

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
_PACKED_BITS = {"nf4": 4.5, "nf4-double": 4.127, "int8": 8.0}
"""Bits per weight, including its share of the scales (Dettmers et al. 2023, section 3)."""

_STATE_BYTES = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 0}
_RESERVED = 1.05  # ratio of reserved to allocated bytes: the median of published runs
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class Dimensions:
    """The sizes of a decoder that determine its activations."""

    hidden: int
    layers: int
    heads: int
    vocabulary: int


def dimensions(config: Mapping[str, Any]) -> Dimensions | None:
    """Reads the sizes; `None` if the config lacks one, and for a mixture of experts."""
    inner = config.get("text_config") or config
    if any(inner.get(name) for name in _EXPERTS):
        return None
    found = [
        next((inner[name] for name in names if isinstance(inner.get(name), int)), None)
        for names in (
            ("hidden_size", "n_embd", "d_model"),
            ("num_hidden_layers", "n_layer", "num_layers"),
            ("num_attention_heads", "n_head", "num_heads"),
            ("vocab_size",),
        )
    ]
    hidden, layers, heads, vocabulary = found
    if hidden is None or layers is None or heads is None or vocabulary is None:
        return None
    return Dimensions(hidden, layers, heads, vocabulary)


def memory_breakdown(
    size: Dimensions, variant: Variant, step: Step, trainable: int, total: int
) -> dict[str, int]:
    """Returns the bytes of each part at the peak, assumed to be the backward pass of the logits."""
    width = _BYTES[step.weights]
    is_adapter = variant.spec.is_adapter
    base = total - trainable if is_adapter else total
    weights = base * width + (4 * trainable if is_adapter else 0)
    if step.packing is not None:
        outside = size.vocabulary * size.hidden
        weights = round((base - outside) * _PACKED_BITS[step.packing] / 8) + outside * width
        weights += 4 * trainable
    state = _STATE_BYTES[step.optimizer]
    if not is_adapter and step.optimizer == "adamw":
        state = 2 * width
    tokens = step.batch * step.length
    kept = step.batch * (step.completion_tokens or step.length)
    return {
        "weights": weights,
        "gradients": trainable * (4 if is_adapter else width) if step.accumulation > 1 else 0,
        "optimizer": trainable * state,
        "activations": _activations(size, step, tokens) + kept * size.vocabulary * (width + 4),
        "temporary": kept * size.vocabulary * 2 * 4,  # the softmax's gradient, and that of the loss
    }


def reserved(parts: Mapping[str, int]) -> int:
    return round(_RESERVED * sum(parts.values()))


def _activations(size: Dimensions, step: Step, tokens: int) -> int:
    """Returns 34 s b h bytes per layer in 16 bits, plus 5 a s² b if attention stores its scores.

    Source: Korthikanti et al. 2022, equation 2. With checkpointing each layer keeps its input.
    """
    scale = _BYTES[step.weights] / 2
    layer = 34 * tokens * size.hidden
    if step.attention == "eager":
        layer += 5 * size.heads * step.length * tokens
    if step.checkpointing:
        return round(scale * (2 * tokens * size.hidden * size.layers + layer))
    return round(scale * layer * size.layers)
