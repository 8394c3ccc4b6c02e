"""Adapters that ask for values, which a model without weights has not.

What they compute has a known size, so a stand-in of that size is put in its place; what they train
is as it would be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from peft.tuners.adalora.layer import AdaLoraLayer
from peft.tuners.boft.layer import BOFTLayer
from peft.tuners.lora import dora
from peft.tuners.prompt_tuning.model import PromptEmbedding
from peft.tuners.shira import config as shira_config
from peft.tuners.shira import layer as shira_layer
from peft.tuners.shira.layer import ShiraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ftlab.prediction.simulation.decompositions import frod_without_values, known_decompositions
from ftlab.prediction.simulation.quantised import unpacked


@contextmanager
def known_starts(on_cuda: bool) -> Iterator[None]:
    """Has adapters start without asking for values.

    BOFT's permutation matrices are identities with one butterfly factor; SHiRA draws at random
    which entries of a weight it learns, and `complete` gives it places of no value; DoRA unpacks a
    packed weight for the length of its rows; a prompt from text starts from that text's tokens.
    """
    start = PromptEmbedding.__init__

    def permutation(self: Any, n: int, b: int, r: int = 3, n_butterfly_factor: int = 1) -> range:
        return range(n)

    def matrix(self: Any, indices: range) -> Tensor:
        return torch.zeros(len(indices), len(indices))

    def empty(layer: Any) -> Tensor:
        if isinstance(layer, Conv1D):  # never packed, and with inputs first
            return torch.empty(layer.weight.shape)
        return torch.empty(layer.out_features, layer.in_features)

    def from_vocabulary(self: Any, config: Any, words: Any) -> None:
        start(self, replace(config, prompt_tuning_init="SAMPLE_VOCAB"), words)

    with (
        known_decompositions(on_cuda),
        patch.object(dora, "dequantize_module_weight", empty),
        patch.object(PromptEmbedding, "__init__", from_vocabulary),
        patch.object(BOFTLayer, "block_butterfly_perm", permutation),
        patch.object(BOFTLayer, "perm2mat", matrix),
        patch.object(shira_config, "random_mask", lambda base_layer, r, **_: None),
    ):
        yield


class _Placed(torch.autograd.Function):
    """The sum of values that keeps what a sparse tensor of them keeps for the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(values, places.to(torch.int64))
        return values.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        values, _ = ctx.saved_tensors
        return gradients[0].expand_as(values), None


@contextmanager
def known_changes(on_cuda: bool) -> Iterator[None]:
    """Has SHiRA add its entries to a weight without a sparse tensor, which has no storage.

    What that holds is kept all the same; the sum and its gradient are as large as the weight. DoRA
    knows a packed weight by its class, which a fake tensor has not.
    """

    def change(self: Any, adapter: str) -> Tensor:
        values = self.shira_weight[adapter] * self.scaling[adapter]
        total = _Placed.apply(values, self.shira_indices[adapter])
        entries = total.to(self.get_base_layer().weight.dtype)
        return entries.expand(self.out_features, self.in_features)

    with (
        frod_without_values(on_cuda),
        patch.object(shira_layer.Linear, "get_delta_weight", change),
        patch.object(dora, "dequantize_module_weight", unpacked),
    ):
        yield


def complete(model: nn.Module) -> None:
    """Gives SHiRA the places of its entries, two numbers each.

    AdaLoRA's current rank is turned from a constant into a weight that learns where PEFT casts it,
    which it does on a base in 16 bits.
    """
    for module in model.modules():
        if isinstance(module, AdaLoraLayer):
            dtype = module.get_base_layer().weight.dtype
            cast = dtype.is_floating_point and dtype is not torch.float32
            for rank in module.ranknum.values():
                rank.requires_grad_(cast)
        if isinstance(module, ShiraLayer):
            for name, weight in module.shira_weight.items():
                places = torch.empty(2, weight.numel(), dtype=torch.int32, device=weight.device)
                module.shira_indices[name] = places
