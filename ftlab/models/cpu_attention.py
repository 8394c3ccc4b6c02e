"""Causal attention for training on a CPU in bf16.

torch's CPU flash kernel is made for long sequences: on SmolLM2-135M at batch 8 and 72 tokens its
backward pass alone took 4.1 ms a layer, 17 % of a LoRA step. Batched bf16 products do forward and
backward in a third of that, and also save less for the backward pass: the probabilities are
computed again, as flash attention does (Dao et al. 2022, section 3.1), and grouped-query keys and
values are never repeated (Ainslie et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

SCORES_AT_ONCE = 1 << 18
"""Attention scores computed at a time, where one key head allows: half a megabyte in bf16, which
stays in a core's cache. With 16 times as many a layer of 160 to 512 tokens took twice as long."""

UNSUPPORTED = ("softcap", "position_bias", "s_aux", "output_attentions")
"""Options of an attention function that are left to transformers' own."""


def use_cpu_attention() -> None:
    """Makes the models of this process use this attention on a CPU instead of torch's.

    It keeps the name "sdpa": some architectures check for that name before they build their masks.
    """
    AttentionInterface.register("sdpa", cpu_attention)


def cpu_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """An attention function for transformers' `AttentionInterface`.

    `query` is (batch, heads, length, width), `key` and `value` (batch, key heads, length, width);
    returns (batch, length, heads, width). Whole causal sequences in bf16 are computed here;
    decoding, masks, dropout, other devices and precisions are left to torch. Scores are rounded to
    bf16 before the softmax, as transformers' eager attention rounds them and flash kernels do not.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    ours = (
        causal
        and query.device.type == "cpu"
        and attention_mask is None
        and not dropout
        and dtype is torch.bfloat16
        and query.shape[2] == key.shape[2] > 1
        and query.shape[3] == value.shape[3]
        and all(options.get(name) is None for name in UNSUPPORTED)
    )
    if not ours:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **options
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output: Tensor = CausalAttention.apply(query.to(dtype), key.to(dtype), value.to(dtype), scale)
    return output.transpose(1, 2).contiguous(), None


class CausalAttention(torch.autograd.Function):
    """softmax(scale * Q Kᵀ + causal mask) V, whose probabilities are not kept for the backward."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.scale = scale
        q, k, v = _grouped(query, key), _flat(key), _flat(value)
        output = torch.empty_like(q)
        with torch.autocast("cpu", enabled=False):
            for part, probabilities in _probabilities(q, k, scale):
                torch.bmm(probabilities, v[part], out=output[part])
        return output.view(query.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value = ctx.saved_tensors
        q, k, v = _grouped(query, key), _flat(key), _flat(value)
        gradient = _grouped(gradients[0], key)
        to_query, to_key, to_value = map(torch.empty_like, (q, k, v))
        for part, probabilities in _probabilities(q, k, ctx.scale):
            outer = gradient[part]
            torch.bmm(probabilities.transpose(1, 2), outer, out=to_value[part])
            to_scores = torch._softmax_backward_data(
                torch.bmm(outer, v[part].transpose(1, 2)), probabilities, -1, probabilities.dtype
            )
            torch.bmm(to_scores, k[part], out=to_query[part])
            torch.bmm(to_scores.transpose(1, 2), q[part], out=to_key[part])
        return (
            to_query.mul_(ctx.scale).view(query.shape),
            to_key.mul_(ctx.scale).view(key.shape),
            to_value.view(value.shape),
            None,
        )


def _grouped(query: Tensor, key: Tensor) -> Tensor:
    """(batch, heads, length, width) -> (batch * key heads, heads a key head * length, width)."""
    return query.reshape(query.shape[0] * key.shape[1], -1, query.shape[3])


def _flat(tensor: Tensor) -> Tensor:
    """(batch, heads, length, width) -> (batch * heads, length, width)."""
    return tensor.reshape(-1, tensor.shape[2], tensor.shape[3])


def _probabilities(q: Tensor, k: Tensor, scale: float) -> Iterator[tuple[slice, Tensor]]:
    """The attention probabilities of some key heads at a time, and which key heads they are."""
    heads, length = k.shape[0], k.shape[1]
    future = torch.full((length, length), float("-inf"), dtype=q.dtype).triu_(1)
    future = future.repeat(q.shape[1] // length, 1)
    step = max(1, SCORES_AT_ONCE // future.numel())
    for first in range(0, heads, step):
        part = slice(first, first + step)
        scores = torch.baddbmm(future, q[part], k[part].transpose(1, 2), alpha=scale)
        yield part, torch.softmax(scores, dim=-1)
