"""A model divided over the ranks of a run by torch's FSDP (`fully_shard`), and gathered again.

Each rank keeps an equal part of the rows of every weight, with its gradient and optimizer state. A
block's weights are gathered for its forward and its backward pass; those outside of the blocks
(embeddings, last norm, soft tokens) for the whole step. Zhao et al. 2023, "PyTorch FSDP:
experiences on scaling fully sharded data parallel".

Loss and gradient of a batch are sums over its rows, so they do not depend on which rank computes
which. FSDP averages gradients over the ranks: the trainer multiplies each rank's loss by their
number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from ftlab.training.ranks import Ranks


def shard(model: nn.Module, device: torch.device, ranks: Ranks) -> None:
    """Divides a model on the CPU over the ranks, each part on the rank's device.

    The device holds one block at most that is not divided yet. The host reads each weight from the
    model's file as it is divided. To be called when the adapter is attached, and before the
    optimizer is made.
    """
    mesh = init_device_mesh(device.type, (ranks.count,))
    for unit in units_of(model):
        fully_shard(unit.to(device), mesh=mesh)


def units_of(model: nn.Module) -> list[nn.Module]:
    """What is gathered at once: each block, the ends, and the model with what is left."""
    return [*blocks_of(model), *_untied_ends(model), model]


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The model's blocks, which transformers never splits over devices."""
    causal_lm: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    kinds = set(causal_lm._no_split_modules or ())
    return [module for module in causal_lm.modules() if type(module).__name__ in kinds]


def _untied_ends(model: nn.Module) -> list[nn.Module]:
    """Embeddings and output layer, unless they share a weight, which must stay in one group."""
    causal_lm: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    first, last = causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings()
    if first is None or last is None or first.weight is last.weight:
        return []
    return [first, last]


@contextmanager
def ends_gathered(model: nn.Module) -> Iterator[None]:
    """Gathers the weights outside of the blocks, for code that calls parts of the model by
    themselves: answers after soft tokens, and the files of an adapter. Every rank must enter it."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def whole_weights(model: nn.Module, ranks: Ranks, learning_only: bool) -> dict[str, Tensor] | None:
    """Gathers weights one after another. Returns them on the CPU by name in the first rank, and
    `None` in the others; every rank must call it.

    With `learning_only` those that require a gradient, else all, and the buffers that are saved.
    """
    whole: dict[str, Tensor] = {}
    held: dict[int, Tensor] = {}  # tied weights stay tied
    for name, weight in model.named_parameters(remove_duplicate=False):
        if learning_only and not weight.requires_grad:
            continue
        if id(weight) not in held:
            full = whole_tensor(weight.detach())
            held[id(weight)] = full.cpu().contiguous() if ranks.is_first else full[:0]
        whole[name] = held[id(weight)]
    if not learning_only:
        whole |= {name: buffer.detach().cpu() for name, buffer in _saved_buffers(model)}
    return whole if ranks.is_first else None


def _saved_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The buffers that belong to a model's file; `state_dict` would divide what is gathered."""
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{path}.{name}" if path else name, buffer


def whole_tensor(tensor: Tensor) -> Tensor:
    """The whole of a divided tensor; every rank must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def put_whole(weight: Tensor, value: Tensor) -> None:
    """Sets a divided weight to a whole value, which every rank has; nothing is sent."""
    if not isinstance(weight, DTensor):
        weight.copy_(value)
        return
    own = distribute_tensor(
        value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None
    )
    weight.copy_(own)


def local_parts(state: Any) -> Any:
    """An optimizer's state with this rank's part of each divided tensor."""
    if isinstance(state, DTensor):
        return state.to_local()
    if isinstance(state, dict):
        return {key: local_parts(value) for key, value in state.items()}
    return state


def divided_state(parts: Any, optimizer: Optimizer) -> Any:
    """The inverse of `local_parts` of that optimizer's `state_dict`."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    for index, values in parts["state"].items():
        weight = cast(DTensor, weights[index])
        for name, value in values.items():
            if isinstance(value, Tensor) and value.dim():  # not the number of steps
                values[name] = DTensor.from_local(
                    value.to(weight.device),
                    weight.device_mesh,
                    weight.placements,
                    run_check=False,
                    shape=weight.shape,
                    stride=weight.stride(),
                )
    return parts
