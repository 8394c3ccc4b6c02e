"""The layers that PEFT picks by itself where a method names none, by architecture.

Copies of `TRANSFORMERS_MODELS_TO_…_TARGET_MODULES_MAPPING` in `peft.utils.constants` for causal
language models: importing PEFT takes seconds and torch. A test holds them against the originals.
"""

from __future__ import annotations

_NORMS = ("input_layernorm", "post_attention_layernorm", "norm")
_FOUR_NORMS = (*_NORMS[:2], "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm")

NORM_LAYERS: dict[str, tuple[str, ...]] = {
    "llama": _NORMS,
    "mistral": _NORMS,
    "gemma": _NORMS,
    "gemma2": _FOUR_NORMS,
    "gemma3_text": _FOUR_NORMS,
    "qwen2": ("post_attention_layernorm",),
    "qwen3": ("post_attention_layernorm",),
    "phi": ("input_layernorm", "final_layernorm"),
    "gpt2": ("ln_1", "ln_2", "ln_f"),
    "gptj": ("ln_1", "ln_f"),
    "bloom": ("input_layernorm", "post_attention_layernorm", "ln_f"),
    "falcon": ("input_layernorm", "post_attention_layernorm", "ln_f"),
}
"""What layer-norm tuning trains."""

_QUERY_VALUE_DOWN = ("q_proj", "v_proj", "down_proj")

IA3_LAYERS: dict[str, tuple[str, ...]] = {
    "llama": ("k_proj", "v_proj", "down_proj"),
    "llama4": _QUERY_VALUE_DOWN,
    "mistral": ("k_proj", "v_proj", "down_proj"),
    "mixtral": ("k_proj", "v_proj", "w2"),
    "gemma": _QUERY_VALUE_DOWN,
    "gemma2": _QUERY_VALUE_DOWN,
    "gemma3_text": _QUERY_VALUE_DOWN,
    "qwen2": _QUERY_VALUE_DOWN,
    "qwen3": _QUERY_VALUE_DOWN,
    "phi": ("q_proj", "v_proj", "fc2"),
    "opt": ("q_proj", "k_proj", "fc2"),
    "gpt2": ("c_attn", "mlp.c_proj"),
    "gptj": ("q_proj", "v_proj", "fc_out"),
    "gpt_neo": ("q_proj", "v_proj", "c_proj"),
    "gpt_neox": ("query_key_value", "dense_4h_to_h"),
    "gpt_bigcode": ("c_attn", "mlp.c_proj"),
    "bloom": ("query_key_value", "mlp.dense_4h_to_h"),
    "falcon": ("query_key_value", "dense_4h_to_h"),
}
"""The layers that IA3 scales."""

IA3_INPUTS = ("down_proj", "w2", "fc2", "c_proj", "fc_out", "dense_4h_to_h")
"""Last names of those whose inputs it scales (PEFT's `feedforward_modules`); else the outputs."""
