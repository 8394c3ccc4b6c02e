"""Checkpoints of a training: written between two steps, read when the same run is resumed.

The Trainer writes optimizer, schedule and random state. This module writes the trainable weights
and AdaLoRA's state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ftlab.basics.errors import FtlabError
from ftlab.training.model import rank_allocator, rank_scores

WEIGHTS, ALLOCATION, PATTERN = "learner.safetensors", "allocation.safetensors", "ranks.json"


def save_learner(model: nn.Module, folder: Path) -> None:
    """Writes every trainable weight, and AdaLoRA's ranks with their scores."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_on_cpu(_learning(model)), folder / WEIGHTS)
    allocator = rank_allocator(model)
    if allocator is None:
        return
    scores = {
        f"{kind}/{name}": score
        for kind, stored in rank_scores(allocator).items()
        for name, score in stored.items()
    }
    save_file(_on_cpu(scores), folder / ALLOCATION)
    pattern = allocator.peft_config.rank_pattern
    (folder / PATTERN).write_text(json.dumps(pattern), encoding="utf-8")


def load_learner(model: nn.Module, folder: Path) -> None:
    """Restores the weights; raises `FtlabError` if they do not match the model's."""
    weights = dict(model.named_parameters())  # all: LoRA-FA's optimizer freezes some later
    saved = load_file(folder / WEIGHTS)
    if not saved or any(
        name not in weights
        or weights[name].shape != value.shape
        or weights[name].dtype != value.dtype
        for name, value in saved.items()
    ):
        raise FtlabError(
            f"The checkpoint '{folder.name}' holds other weights than those that learn in this "
            "model; run it again."
        )
    with torch.no_grad():
        for name, value in saved.items():
            weights[name].copy_(value)
    allocator = rank_allocator(model)
    if allocator is None:
        return
    device = next(iter(weights.values())).device
    for key, score in load_file(folder / ALLOCATION, device=str(device)).items():
        kind, _, name = key.partition("/")
        rank_scores(allocator)[kind][name] = score
    allocator.peft_config.rank_pattern = json.loads((folder / PATTERN).read_text(encoding="utf-8"))


def _learning(model: nn.Module) -> dict[str, Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
