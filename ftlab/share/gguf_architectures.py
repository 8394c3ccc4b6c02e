"""The architectures of transformers that are written as GGUF, and what llama.cpp is told of each.

GGUF stores weights in the layout of llama.cpp, which computes one graph per architecture. Here are
only those whose graph is the same as the model of transformers, each seen to give its logits
(tests/share/test_gguf_architectures.py). The names of keys and tensors are those of the `gguf`
package, and the values those of llama.cpp's own conversion (github.com/ggml-org/llama.cpp,
conversion/).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ftlab.basics.errors import FtlabError
from ftlab.basics.words import join_names
from ftlab.learn.matrices import Matrix

Config = Mapping[str, Any]
Value = int | float | bool | str

_NO_OTHER = "ask llama.cpp's convert_hf_to_gguf.py for it, with the folder of the merged model"


def _nothing(config: Config) -> dict[str, Value]:
    return {}


def _fits(config: Config) -> str:
    return ""


@dataclass(frozen=True)
class Architecture:
    """How one architecture is written.

    `gguf` is its name in GGUF. `pairs` says that llama.cpp rotates neighbouring values of a head,
    where transformers rotates each value of the first half with its partner of the second: rows of
    q and k are then stored in another order. `extras` says that the graph takes biases of all
    linear layers and factors of the frequencies, where a file has them. `keys` are further keys
    after the name, and `limit` says what of a configuration the graph does not have, or "".
    """

    gguf: str
    pairs: bool = False
    extras: bool = False
    keys: Callable[[Config], dict[str, Value]] = _nothing
    limit: Callable[[Config], str] = _fits


def _rotary_keys(config: Config) -> dict[str, Value]:
    return {"vocab_size": config["vocab_size"], "rope.dimension_count": head_size(config)}


def _granite_keys(config: Config) -> dict[str, Value]:
    names = {
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    }
    return _rotary_keys(config) | {key: float(config[name]) for key, name in names.items()}


def _whole_window(config: Config) -> str:
    if config.get("sliding_window") and config.get("use_sliding_window", True):
        return f"attends within a sliding window of {config['sliding_window']} tokens"
    return ""


def _usual_heads(config: Config) -> str:
    if head_size(config) * heads_of(config)[0] != config["hidden_size"]:
        return f"has heads of {head_size(config)} values, which are not its width in all"
    return _whole_window(config)


def _every_fourth(config: Config) -> str:
    """llama.cpp leaves out the rotation in every fourth layer, whatever the configuration says."""
    rotated = config.get("no_rope_layers")
    expected = [int((i + 1) % 4 != 0) for i in range(config["num_hidden_layers"])]
    if rotated is not None and rotated != expected:
        return "leaves out the rotation of positions in other layers than every fourth"
    return _whole_window(config)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", pairs=True, extras=True, keys=_rotary_keys),
    "mistral": Architecture(
        "llama", pairs=True, extras=True, keys=_rotary_keys, limit=_whole_window
    ),
    "qwen2": Architecture("qwen2", limit=_usual_heads),
    "qwen3": Architecture("qwen3", limit=_whole_window),
    "smollm3": Architecture("smollm3", pairs=True, keys=_rotary_keys, limit=_every_fourth),
    "granite": Architecture("granite", pairs=True, extras=True, keys=_granite_keys),
    "olmo2": Architecture("olmo2", limit=_usual_heads),
}
"""By `model_type` of transformers."""


def architecture_of(config: Config, model: str) -> Architecture:
    """Returns how to write the model with that config.json; `model` is its name in errors.

    Raises `FtlabError` if llama.cpp's graph of it is not known to be the same.
    """
    kind = str(config.get("model_type"))
    found = ARCHITECTURES.get(kind)
    if found is None:
        raise FtlabError(
            f"{model} has the architecture {kind}, which is not written as GGUF here; "
            f"{join_names(list(ARCHITECTURES))} are; {_NO_OTHER}."
        )
    reason = found.limit(config) or _other_limit(found, config)
    if reason:
        raise FtlabError(
            f"{model} {reason}, which llama.cpp's {found.gguf} does not, so it is not written as "
            "GGUF; use the merged model in safetensors, as `merge` saves it."
        )
    return found


def _other_limit(architecture: Architecture, config: Config) -> str:
    act = config.get("hidden_act", "silu")
    if act != "silu":
        return f"has the activation {act}"
    rope = rope_of(config)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        return f"scales its positions by {kind}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return "rotates a part of each head"
    if not architecture.extras and kind == "llama3":
        return "scales its positions by llama3"
    if not architecture.extras and (config.get("attention_bias") or config.get("mlp_bias")):
        return "has biases"
    return ""


def rope_of(config: Config) -> dict[str, Any]:
    """The parameters of the rotary embedding, in the form that transformers 5 saves or before."""
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    given = {"rope_theta": config.get("rope_theta", 10000.0)} | found
    return given | {"rope_type": given.get("rope_type") or given.get("type") or "default"}


def head_size(config: Config) -> int:
    size = config.get("head_dim")
    return int(size or config["hidden_size"] // config["num_attention_heads"])


def heads_of(config: Config) -> tuple[int, int]:
    """The numbers of heads of the queries, and of the keys and values."""
    heads = int(config["num_attention_heads"])
    return heads, int(config.get("num_key_value_heads") or heads)


def model_keys(architecture: Architecture, config: Config) -> dict[str, Value]:
    """The keys of the model, in full: sizes, positions and norms."""
    heads, groups = heads_of(config)
    rope = rope_of(config)
    keys: dict[str, Value] = {
        "block_count": config["num_hidden_layers"],
        "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": groups,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if config.get("head_dim"):
        keys |= {"attention.key_length": head_size(config)}
        keys |= {"attention.value_length": head_size(config)}
    if rope["rope_type"] == "linear":
        keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}
    keys |= architecture.keys(config)
    return {f"{architecture.gguf}.{key}": value for key, value in keys.items()}


def in_pairs(rows: Matrix, heads: int) -> Matrix:
    """Reorders the rows of q or k (or of its bias, or of `lora_B`) head by head: 0, n/2, 1, n/2+1 …

    The shape is (heads x head size, ...), and stays.
    """
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows.shape))


def laid_out(architecture: Architecture, config: Config, name: str, rows: Matrix) -> Matrix:
    """The tensor of that name in transformers, with its rows in the order of llama.cpp."""
    heads, groups = heads_of(config)
    if architecture.pairs and ".self_attn.q_proj." in name:
        return in_pairs(rows, heads)
    if architecture.pairs and ".self_attn.k_proj." in name:
        return in_pairs(rows, groups)
    return rows


def rope_factors(config: Config) -> Matrix | None:
    """What llama.cpp divides each frequency by, for Llama 3.1's scaling; shape (head size / 2).

    The formula is that of transformers (`_compute_llama3_parameters`).
    """
    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return None
    size = head_size(config)
    factor, low, high = (
        float(rope[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    context = float(rope["original_max_position_embeddings"])
    factors = []
    for i in range(0, size, 2):
        wavelength = 2 * math.pi * float(rope["rope_theta"]) ** (i / size)
        if wavelength < context / high:
            factors.append(1.0)
        elif wavelength > context / low:
            factors.append(factor)
        else:
            smooth = (context / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)
