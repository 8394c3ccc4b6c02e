"""Patches for adapters that are initialised from a decomposition of the base, or by random draws.

Neither can be computed without weights, and memory depends only on sizes. So each result is
replaced by empty tensors of the same sizes. What PEFT computes with them is unchanged.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch
from peft.tuners._buffer_dict import BufferDict
from peft.tuners.adalora.layer import AdaLoraLayer
from peft.tuners.adamss import layer as adamss
from peft.tuners.boft.layer import BOFTLayer
from peft.tuners.frod.layer import FrodLayer
from peft.tuners.frod.layer import Linear as FrodLinear
from peft.tuners.frod.model import FrodModel, _category_from_key
from peft.tuners.lora import dora
from peft.tuners.prompt_tuning.model import PromptEmbedding
from peft.tuners.shira import config as shira_config
from peft.tuners.shira import layer as shira_layer
from peft.tuners.shira.layer import ShiraLayer
from peft.tuners.tuners_utils import _maybe_include_all_linear_layers
from peft.tuners.unilora.model import UniLoraModel
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers.pytorch_utils import Conv1D

from ftlab.prediction.simulation.fake import unpacked


@contextmanager
def known_decompositions(on_cuda: bool) -> Iterator[None]:
    """Patches the decompositions while an adapter is applied to a model on the meta device."""
    with ExitStack() as stack:
        stack.enter_context(_NoHost())
        stack.enter_context(patch.object(UniLoraModel, "_assign_unilora_indices_and_scales", _draw))
        stack.enter_context(patch.object(FrodModel, "_init_frod_projections", _projections))
        stack.enter_context(patch.object(FrodLayer, "_calculate_frod_u_and_lambda", _u_and_lambda))
        stack.enter_context(patch.object(adamss, "slice_pca", _slice_pca))
        stack.enter_context(patch.object(adamss, "clustering_Z", _even_clusters))
        stack.enter_context(patch.object(adamss, "seg_locations", _locations))
        if find_spec("sklearn") is None:  # AdaMSS's config requires it, its shapes do not
            stack.enter_context(patch.dict(sys.modules, {"sklearn": ModuleType("sklearn")}))
        if on_cuda:
            stack.enter_context(patch.object(torch.linalg, "svd", _by_rows(torch.linalg.svd)))
        yield


class _NoHost(TorchFunctionMode):
    """Ignores copies to the host, which are not possible from the meta device.

    FRoD keeps its factors on the host.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.cpu, Tensor.to) and args[0].is_meta:
            rest = [value for value in args[1:] if not _is_host(value)]
            named = {name: value for name, value in kwargs.items() if not _is_host(value)}
            return args[0].to(*rest, **named) if rest or named else args[0]
        return func(*args, **kwargs)


def _is_host(value: Any) -> bool:
    return isinstance(value, str | torch.device) and torch.device(value).type == "cpu"


def _by_rows(svd: Any) -> Any:
    """Makes the last factor row-major, as CUDA (`linalg_svd` in BatchLinearAlgebra.cpp, cuSOLVER).

    A slice of its first rows is then contiguous, so it keeps the storage of the whole factor alive.
    """

    def decomposed(matrix: Tensor, *args: Any, **options: Any) -> Any:
        found = svd(matrix, *args, **options)
        left, values, right = found
        return type(found)((left, values, right.contiguous()))

    return decomposed


def _draw(self: Any, adapter: str) -> None:
    """Leaves UniLoRA's bank indices as created, and gives each a scale."""
    for layer in self._iter_unilora_layers():
        if adapter in layer.unilora_indices_A:
            parts = (layer.unilora_indices_A[adapter], layer.unilora_indices_B[adapter])
            layer.update_scaling(adapter, *(torch.empty(part.shape) for part in parts))


def _projections(self: Any, config: Any, adapter: str) -> None:
    """Creates FRoD's shared matrix and the indices of its sparse entries, per kind of layer."""
    found = self._prepare_adapter_config(config, self.get_model_config(self.model))
    found = _maybe_include_all_linear_layers(found, self.model)
    if not hasattr(self, "frod_V"):
        self.frod_V = nn.ModuleDict()
        self.frod_s_indices, self.frod_s_size = nn.ModuleDict(), nn.ModuleDict()
    for name, module in self.model.named_modules():
        weight = getattr(module, "weight", None)
        if not self._check_target_module_exists(found, name) or weight is None:
            continue
        category = _category_from_key(name)
        if category in self.frod_V:
            continue
        size = weight.shape[0] if config.fan_in_fan_out else weight.shape[1]
        apart = size * size - size
        entries = min(int(size * size * config.sparse_rate), apart)
        if config.sparse_rate > 0 and apart:
            entries = max(1, entries)
        for holder, tensor in (
            (self.frod_V, torch.empty(size, size, dtype=weight.dtype)),
            (self.frod_s_indices, torch.empty(2, entries, dtype=torch.long)),
            (self.frod_s_size, torch.empty(2, dtype=torch.long)),
        ):
            holder[category] = BufferDict({adapter: tensor}, persistent=config.save_projection)


def _u_and_lambda(self: Any, shared: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty(weight.shape), torch.empty(weight.shape[1])


def _slice_pca(
    tensor: Tensor, r: int, device: Any, dtype: torch.dtype = torch.float32, random_seed: int = 0
) -> tuple[Tensor, Tensor]:
    *outer, height, width = tensor.shape
    rank = min(r, height, width)
    return torch.empty(*outer, rank, width), torch.empty(*outer, height, rank)


def _even_clusters(rows: Tensor, clusters: int, iterations: int) -> tuple[tuple[Tensor, ...], int]:
    """Splits the rows into clusters of equal size.

    Cluster sizes do not change the trainable parameters, unless one has fewer rows than its rank.
    """
    count = min(clusters, rows.shape[0])
    return torch.tensor_split(torch.arange(rows.shape[0]), count), count


def _locations(clusters: tuple[Tensor, ...]) -> dict[int, Tensor]:
    return dict(enumerate(clusters))


@contextmanager
def frod_without_values(on_cuda: bool) -> Iterator[None]:
    """Replaces FRoD's factors during a step by tensors without values, the sparse one as dense.

    PEFT leaves them in host memory, so on CUDA every use copies them.
    """

    def tensors(
        self: Any, adapter: str, *, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        def there(tensor: Tensor, kind: torch.dtype) -> Tensor:
            moved = tensor.to(kind)
            return moved.clone() if on_cuda and moved is tensor else moved

        shared = there(self.frod_V[adapter], dtype)
        places = there(self.frod_s_indices[adapter], torch.long)
        values = self.frod_lambda_s_values[adapter].to(dtype)
        sparse = _Dense.apply(values, places, shared.shape[0])
        own = there(self.frod_U[adapter], dtype)
        return own, shared, sparse, self.frod_lambda_l[adapter].to(dtype)

    def product(self: Any, rows: Tensor, sparse: Tensor) -> Tensor:
        return rows @ sparse.t()

    with (
        patch.object(FrodLinear, "_get_frod_tensors", tensors),
        patch.object(FrodLinear, "_sparse_activation_mm", product),
    ):
        yield


class _Dense(torch.autograd.Function):
    """A dense stand-in for a sparse matrix, with the tensors it saves for the backward pass.

    These are the indices, and a sorted copy of indices and values.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places, places.clone(), values.clone())
        return values.new_empty(size, size)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return torch.empty_like(ctx.saved_tensors[2]), None, None


@contextmanager
def known_starts(on_cuda: bool) -> Iterator[None]:
    """Patches the initialisation of adapters, so that it needs no values.

    - BOFT: permutation matrices are identities with one butterfly factor.
    - SHiRA draws random entries of a weight; `complete` gives it empty indices instead.
    - DoRA unpacks a packed weight to compute row norms.
    - A text prompt is initialised from the vocabulary instead of the text's tokens.
    """
    start = PromptEmbedding.__init__

    def permutation(self: Any, n: int, b: int, r: int = 3, n_butterfly_factor: int = 1) -> range:
        return range(n)

    def matrix(self: Any, indices: range) -> Tensor:
        return torch.zeros(len(indices), len(indices))

    def empty(layer: Any) -> Tensor:
        if isinstance(layer, Conv1D):  # never packed; inputs are the first dimension
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
    """The sum of values, with the tensors that a sparse tensor saves for the backward pass."""

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
    """Makes SHiRA add its entries without a sparse tensor, which has no storage.

    The saved tensors are the same; the sum and its gradient are as large as the weight. DoRA
    recognises a packed weight by its class, which a fake tensor lacks, so it is patched too.
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
    """Gives SHiRA the indices of its entries, two numbers each.

    It also makes AdaLoRA's current rank trainable if PEFT casts it, which happens on a 16-bit base.
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
