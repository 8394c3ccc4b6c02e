"""Attention on a GPU in memory that grows with the length, never with its square.

With grouped queries a model has fewer key heads than query heads. Without a mask, transformers
passes them to torch unchanged (`enable_gqa`), and only flash attention and the plain kernel
("math") support that. The plain kernel keeps all scores of all heads: Llama 3.2 1B at 4 x 1,024
tokens in 16 bits takes 20.2 GB on a T4 instead of 9.6 GB. So where flash attention cannot be used,
keys and values are repeated for each query head, and torch uses its memory-efficient kernel.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

Capability = tuple[int, int]

_FLASH_SINCE, _FLASH_UNTIL = (8, 0), (12, 1)
_FLASH_WIDTH = 256


def use_gpu_attention(capability: Capability | None) -> None:
    """Makes the models of this process use this attention instead of torch's.

    `capability` is the card's; with `None` (AMD) keys and values are always repeated. It keeps the
    name "sdpa": some architectures check for that name before they build their masks.
    """
    AttentionInterface.register("sdpa", GpuAttention(capability))


def flash_takes_groups(
    capability: Capability | None, dtype: torch.dtype, width: int, value_width: int, learns: bool
) -> bool:
    """Whether torch's flash attention supports fewer key heads than query heads, without a mask.

    `width` and `value_width` are those of a head of queries and of values; `learns` says whether a
    gradient is needed. Follows `can_use_flash_attention` of torch 2.13
    (aten/src/ATen/native/transformers/cuda/sdp_utils.cpp).
    """
    if capability is None or not _FLASH_SINCE <= capability <= _FLASH_UNTIL:
        return False
    if dtype not in (torch.float16, torch.bfloat16) or not width == value_width <= _FLASH_WIDTH:
        return False
    no_wide_gradient = (8, 6) <= capability <= (8, 9) or capability >= (12, 0)
    return not (learns and no_wide_gradient and 192 < width <= 224)


class GpuAttention:
    """An attention function for transformers' `AttentionInterface`."""

    def __init__(self, capability: Capability | None) -> None:
        self._capability = capability

    def __call__(
        self,
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
        """`query` is (batch, heads, length, width), `key` and `value` (batch, key heads, length,
        width); returns (batch, length, heads, width).

        Under a mask transformers repeats keys and values itself.
        """
        groups = query.shape[1] // key.shape[1]
        given: Any = module
        if attention_mask is None and groups > 1 and not self._flash_takes(query, key, value):
            if query.shape[2] == 1 and not options.get("position_bias"):
                return _one_token(query, key, value, dropout, scaling), None
            key, value = _repeated(key, groups), _repeated(value, groups)
            given = SimpleNamespace(is_causal=getattr(module, "is_causal", True))
        return sdpa_attention_forward(
            given, query, key, value, attention_mask, dropout, scaling, is_causal, **options
        )

    def _flash_takes(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        kind = query.device.type
        autocast = torch.is_autocast_enabled(kind)
        return flash_takes_groups(
            self._capability,
            torch.get_autocast_dtype(kind) if autocast else query.dtype,
            query.shape[-1],
            value.shape[-1],
            torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value)),
        )


def _repeated(tensor: Tensor, times: int) -> Tensor:
    """(batch, heads, length, width) -> (batch, heads * times, length, width)."""
    batch, heads, length, width = tensor.shape
    return (
        tensor[:, :, None]
        .expand(batch, heads, times, length, width)
        .reshape(batch, heads * times, length, width)
    )


def _one_token(
    query: Tensor, key: Tensor, value: Tensor, dropout: float, scaling: float | None
) -> Tensor:
    """The next token of an answer: the queries of a key head become positions, so that no key is
    copied for each token. Returns (batch, 1, heads, width)."""
    batch, heads, _, width = query.shape
    packed = query.reshape(batch, key.shape[1], heads // key.shape[1], width)
    output = F.scaled_dot_product_attention(packed, key, value, dropout_p=dropout, scale=scaling)
    return output.reshape(batch, 1, heads, value.shape[-1])
