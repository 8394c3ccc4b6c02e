"""The warm-up pass before the timed steps, for work that a device does only once.

A GPU loads each kernel at its first call and requests its first memory from the driver: it gets the
longest batch. A CPU creates its kernels and reads the weights from their file: a few tokens are
enough, and the first loss comes sooner. In the first step this would count as time of the method.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ftlab.training.model import added_loss
from ftlab.training.step import Arithmetic, Batch, completion_losses, make_batch, on_device

_KERNELS = {
    "CausalAttentionBackward": "ftlab (CPU)",
    "ScaledDotProductFlashAttentionBackward0": "flash",
    "ScaledDotProductCudnnAttentionBackward0": "cuDNN",
    "ScaledDotProductEfficientAttentionBackward0": "memory-efficient",
    "ScaledDotProductFlashAttentionForCpuBackward0": "flash (CPU)",
    "ScaledDotProductFusedAttentionOverrideableBackward0": "fused",
    "ScaledDotProductAttentionMathForMpsBackward0": "math (MPS)",
    "SafeSoftmaxBackward0": "math",
}
"""Attention kernels by torch's name of their backward pass. "math" is torch's unfused attention,
which stores every score."""

_SOFTMAX = "SoftmaxBackward0"  # transformers' own attention, and routers

_TOKENS_ON_A_CPU = 16

_SCRATCH = 1 << 14  # numbers; 8-bit optimizers keep 32-bit state for fewer than 4,096


def first_pass(
    model: nn.Module, optimizer: Optimizer, batch: Batch, arithmetic: Arithmetic, clip: float
) -> str:
    """Runs a forward and backward pass over the batch (on a CPU `few_tokens` of it), and
    `step_beside` of the optimizer.

    Weights, optimizer state and random state are unchanged; gradients are dropped. Returns the
    attention kernel that was used, as named by `attention_kernel`.
    """
    device = arithmetic.device
    model.train()
    if device.type == "cpu":
        batch = few_tokens(batch, attention_window(model))
    with same_random_numbers(device):
        with arithmetic.context():
            losses, _ = completion_losses(model, on_device(batch, device))
        loss, added = losses.mean(), added_loss(model)
        kernel = attention_kernel(loss)
        (loss if added is None else loss + added).backward()
        if clip > 0:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        model.zero_grad(set_to_none=True)
        step_beside(optimizer)
    return kernel


def attention_window(model: nn.Module) -> float:
    """The tokens that a token reads at most in some layer; infinity where there is no limit."""
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    found = [getattr(text, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((tokens for tokens in found if tokens), default=math.inf)


def few_tokens(batch: Batch, window: float = math.inf) -> Batch:
    """Returns the end of the batch's shortest row, with one token of its padding.

    Attention has the same kernel as for the whole batch. It depends on whether there is any padding
    and, where a token reads a `window` of tokens, on whether the batch is longer: then the whole
    row is returned. The last token of a row is always part of the loss.
    """
    lengths = batch["attention_mask"].sum(dim=1)
    row, length = int(lengths.argmin()), int(lengths.min())
    width = batch["input_ids"].shape[1]
    is_short = width < window
    columns = slice(max(0, length - _TOKENS_ON_A_CPU), length + 1) if is_short else slice(width)
    return make_batch(
        *(batch[name][row : row + 1, columns] for name in ("input_ids", "attention_mask", "labels"))
    )


def attention_kernel(loss: Tensor) -> str:
    """Returns the attention kernels in a loss's autograd graph, as "flash, math"; "" if none."""
    names = _names_in_graph(loss)
    found = {label for name, label in _KERNELS.items() if name in names}
    if not found and _SOFTMAX in names:
        return "eager"
    return ", ".join(sorted(found))


@contextmanager
def same_random_numbers(device: torch.device) -> Iterator[None]:
    """Restores the random state after the block."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    module: Any = getattr(torch, device.type, None)
    own = module.get_rng_state() if device.type in ("cuda", "mps") else None
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])
        if own is not None:
            module.set_rng_state(own)


def step_beside(optimizer: Optimizer) -> None:
    """Runs one step of a copy of the optimizer on small scratch tensors.

    This loads its kernels and tables, but creates no state for the weights: the first training step
    does that. LoRA-FA computes with pairs of matrices, so its groups keep the shapes of the first
    pair.
    """
    inner: Any = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    beside = object.__new__(type(inner))  # copying an optimizer copies only its state
    beside.__dict__.update(inner.__dict__)
    beside.state = defaultdict(dict)
    beside.param_groups = [_scratch(group) for group in inner.param_groups if group["params"]]
    type(inner).step(beside)


def _scratch(group: dict[str, Any]) -> dict[str, Any]:
    if "names" in group:
        first = {key: list(group[key])[:2] for key in ("params", "names", "scaling_factors")}
        return group | first | {"params": [_like(p, p.shape) for p in first["params"]]}
    return group | {"params": [_like(group["params"][0], torch.Size([_SCRATCH]))]}


def _like(parameter: Tensor, shape: torch.Size) -> nn.Parameter:
    made = nn.Parameter(torch.zeros(shape, dtype=parameter.dtype, device=parameter.device))
    made.grad = torch.zeros_like(made)
    made.requires_grad_(parameter.requires_grad)
    return made


def _names_in_graph(loss: Tensor) -> set[str]:
    found: set[str] = set()
    seen: set[Any] = set()
    waiting: list[Any] = [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.add(node.name())
        waiting.extend(following for following, _ in node.next_functions)
    return found
