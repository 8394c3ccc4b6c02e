"""A plain LoRA as the adapter of a GGUF file: what llama.cpp adds to a base while it answers.

llama.cpp adds `alpha / rank * B·A` with one alpha for the file, and the rank of each tensor's own A
and B (src/llama-adapter.h). Layers of a smaller rank are filled up with zeros to the largest, which
changes nothing, so that one alpha gives every layer its scale.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ftlab.basics.errors import FtlabError
from ftlab.learn.matrices import Lora, Matrix, open_lora
from ftlab.methods.peft_rules import BASE_CHANGING_INITS, UNMERGEABLE
from ftlab.share.gguf_architectures import architecture_of, laid_out
from ftlab.share.gguf_export import (
    QUANT_VERSION,
    ROUNDINGS,
    Contents,
    Planned,
    config_of,
    target_name,
    tensor_names,
)
from ftlab.share.weights import adapter_config, kind_of

MERGED = "export it merged, without --adapter"


def why_no_plain_lora(folder: Path, label: str) -> str:
    """Why the weights in the folder are no adapter that GGUF can hold, with the way out; or ""."""
    content = kind_of(folder)
    if content == "model":
        return f"{label} gave a whole model and no adapter: export it without --adapter."
    if content == "weights":
        return f"{label} gave changed weights and no LoRA: {MERGED}."
    config = adapter_config(folder)
    kind = str(config.get("peft_type"))
    if kind in UNMERGEABLE:
        return (
            f"{label} is no LoRA, and it cannot be merged either: {UNMERGEABLE[kind]}. It cannot "
            "become a GGUF file; export a run of another method."
        )
    if kind != "LORA":
        return f"{label} is no LoRA but {kind}, and GGUF holds adapters of LoRA alone: {MERGED}."
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(BASE_CHANGING_INITS):
        return f"{label} changed the base as it began ({start}), so it adds to another: {MERGED}."
    if config.get("layer_replication"):
        return f"{label} repeats layers of the base: {MERGED}."
    try:
        lora = open_lora(folder)
    except FtlabError as error:
        return f"{error} Or {MERGED}."
    if len(lora.tensors.names) != 2 * len(lora.weights):
        return f"{label} learnt more than pairs of A and B, and GGUF holds these alone: {MERGED}."
    if len({round(_scale(lora, weight), 9) for weight in lora.weights}) > 1:
        return f"{label} has layers of several scales, and GGUF has one for all: {MERGED}."
    return ""


def _scale(lora: Lora, weight: str) -> float:
    return lora.pair(weight).scale


def adapter_contents(folder: Path, base: Path, kind: str, name: str, label: str) -> Contents:
    """What the LoRA in `folder` becomes, for the model in `base`; `name` is for people.

    Raises `FtlabError` if GGUF cannot hold it (`label` is its method).
    """
    reason = why_no_plain_lora(folder, label)
    if reason:
        raise FtlabError(reason)
    config = config_of(base, name)
    architecture = architecture_of(config, name)
    names = tensor_names(architecture, config)
    lora = open_lora(folder)
    if "lm_head.weight" in lora.weights and config.get("tie_word_embeddings"):
        raise FtlabError(
            f"{label} changes the output layer alone, which {name} shares with its embedding, and "
            f"llama.cpp has no such layer: {MERGED}."
        )
    rank = max(lora.pair(weight).rank for weight in lora.weights)
    tensors = []
    for weight in lora.weights:
        target = target_name(names, weight, name)
        down, up = _made(lora, weight, rank)

        def laid(make: Callable[[], Matrix] = up, weight: str = weight) -> Matrix:
            return laid_out(architecture, config, weight, make())

        pair = lora.pair(weight)
        tensors += [
            Planned(f"{target}.lora_a", (rank, pair.down.shape[1]), kind, down),
            Planned(f"{target}.lora_b", (pair.up.shape[0], rank), kind, laid),
        ]
    keys: dict[str, Any] = {
        "general.type": "adapter",
        "general.name": name,
        "general.file_type": int(ROUNDINGS[kind].file),
        "general.quantization_version": QUANT_VERSION,
        "adapter.type": "lora",
        "adapter.lora.alpha": float(_scale(lora, lora.weights[0]) * rank),
    }
    return Contents(architecture.gguf, keys, tuple(tensors))


def _made(lora: Lora, weight: str, rank: int) -> tuple[Callable[[], Matrix], Callable[[], Matrix]]:
    """How to read A (rank x in) and B (out x rank), filled up with zeros."""

    def down() -> Matrix:
        a = lora.pair(weight).down
        return np.pad(a, ((0, rank - a.shape[0]), (0, 0)))

    def up() -> Matrix:
        b = lora.pair(weight).up
        return np.pad(b, ((0, 0), (0, rank - b.shape[1])))

    return down, up
