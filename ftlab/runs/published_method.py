"""What a published result calls its method, in our words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ftlab.methods.registry import BASE_METHOD, METHODS
from ftlab.words import plain_line

# What a LoRA may set and still be plain LoRA: where it sits, how wide it is, how it is scaled.
_PLAIN_LORA = frozenset({
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout",
    "fan_in_fan_out", "modules_to_save", "init_lora_weights", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core",
    "qalora_group_size", "target_parameters", "ensure_weight_tying", "runtime_config",
})  # fmt: skip
_LORA_NAMES = {"corda_config": "corda", "lora_ga_config": "lora-ga", "eva_config": "eva"}
_OPTIMIZERS = {"lora-fa": "lora_fa", "lorafa": "lora_fa", "lora-plus": "lora_plus"}
# What PEFT calls a method that is ours; those of LoRA's kind are told apart by `_lora_kind`.
_SAME = {
    name.upper(): name
    for name in (
        "adalora", "vera", "randlora", "loha", "lokr", "miss", "fourierft", "shira", "oft", "boft",
        "hra", "ia3", "p_tuning", "prefix_tuning",
    )
} | {"LN_TUNING": "layer_norm", "PROMPT_TUNING": "prompt_tuning"}  # fmt: skip
_ON_FOUR_BITS = {"lora": "qlora", "dora": "qdora"}


def method_of(config: Mapping[str, Any] | None, dtype: str, optimizer: str) -> str:
    """Our id of the method where it is the very same, else a lower-case one of its own.

    LoRA with a feature of its own (DoRA, rsLoRA, a special start or optimizer) is not LoRA here.
    """
    if config is None:
        return "full"
    given = config.get("peft_type")
    kind = given if isinstance(given, str) else ""
    bits = dtype if dtype in ("int4", "int8") else None
    name = _lora_kind(config, optimizer) if kind == "LORA" else _SAME.get(kind) or _other(kind)
    if bits == "int4" and name in _ON_FOUR_BITS:
        return _ON_FOUR_BITS[name]
    if bits == "int8" and name == "lora":
        return "lora_int8"
    return f"{name}-{bits}" if bits else name


def _lora_kind(config: Mapping[str, Any], optimizer: str) -> str:
    start = config.get("init_lora_weights", True)
    features = [
        name
        for name in sorted(config)
        if name not in _PLAIN_LORA and config[name] not in (None, False, "none", {}, [], 0)
    ]
    if isinstance(start, str) and start != "gaussian":
        return "pissa" if start.startswith("pissa") and not features else _other(start)
    if features:
        short = features[0].removeprefix("use_").removesuffix("_config")
        alone = len(features) == 1 and short in ("dora", "rslora")
        return short if alone else _other(_LORA_NAMES.get(features[0], short))
    if optimizer.lower().startswith("adam"):
        return "lora"
    return _OPTIMIZERS.get(slug(optimizer, 30)) or _other(optimizer)


def _other(name: str) -> str:
    """An id for what is none of our methods, and is not named like one of them either."""
    made = slug(name, 30) or "adapter"
    return f"{made}-variant" if made in (BASE_METHOD, *METHODS) else made


def result_label(experiment: str, model: str, method: str) -> str:
    """ "lora/llama-3.2-3B-rank32" of Llama-3.2-3B -> "LoRA rank32"."""
    folder, _, rest = plain(experiment, 100).rpartition("/")
    name = model.rpartition("/")[2].lower()
    if name and rest.lower().startswith(f"{name}-"):
        rest = rest[len(name) + 1 :]
    kind = METHODS[method].label if method in METHODS else folder or method
    return f"{kind} {rest}".strip()


def hyperparameters(config: Mapping[str, Any]) -> str:
    """The few settings that say how large an adapter is, as in "r 32, alpha 64"."""
    shown = {"r": "r", "lora_alpha": "alpha", "num_virtual_tokens": "tokens", "adapter_len": "len"}
    parts = [
        f"{label} {config[name]}" for name, label in shown.items() if _is_small(config.get(name))
    ]
    targets = config.get("target_modules")
    if isinstance(targets, list) and all(isinstance(target, str) for target in targets):
        parts.append("layers " + " ".join(sorted(targets)))
    elif isinstance(targets, str):
        parts.append(f"layers {targets}")
    return plain(", ".join(parts), 160)


def _is_small(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9


def plain(text: str, most: int = 200) -> str:
    """What others wrote, as one line that is not too long."""
    return plain_line(text, most)


def slug(text: str, most: int) -> str:
    """Lower-case letters, digits, - and _ alone; empty where the text has none."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower())[:most].strip("-_")
