"""Less work around the update of a model's own weights on a CPU in bf16.

Full fine-tuning has a gradient as large as the model, and each pass over it takes as long as a few
matrix products. Two passes are saved here: that of clipping, and that of the embeddings' rows that
no token of the batch has. Gradients in fp32, as those of all adapters, are left to torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

_AGAINST_ZERO = 1e-6
"""Added to the norm before it divides, as in `torch.nn.utils.clip_grads_with_norm_`."""


def use_sparse_token_gradients(model: Any) -> None:
    """Has the token embeddings give a gradient of the rows of the batch's tokens alone.

    Only for bf16 embeddings whose weight is that of the output layer too: autograd adds the rows to
    the gradient from there. Any other gradient would stay sparse, which AdamW does not accept.
    """
    tokens, output = model.get_input_embeddings(), model.get_output_embeddings()
    tied = output is not None and output.weight is tokens.weight
    if tied and isinstance(tokens, nn.Embedding) and tokens.weight.dtype is torch.bfloat16:
        tokens.sparse = True


def clip_within_step(
    optimizer: Optimizer, parameters: Iterable[nn.Parameter], most: float
) -> Tensor | None:
    """Has the next step of a fused AdamW scale the gradients to a norm of at most `most`.

    The step divides each gradient as it reads it, which `clip_grad_norm_` does in a pass of its
    own. Returns the norm before that, in fp32. Does nothing and returns `None` if the optimizer is
    another one, or if not all gradients are bf16 on the CPU.
    """
    inner: Any = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
    gradients = [p.grad for p in parameters if p.grad is not None]
    fused = type(inner) is AdamW and inner.defaults["fused"]
    if not (fused and gradients and all(map(_is_ours, gradients))):
        return None
    norm = norm_of(gradients)
    inner.grad_scale = ((norm + _AGAINST_ZERO) / most).clamp(min=1.0)
    return norm


def norm_of(gradients: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together, from the norms of their rows.

    It takes half as long as from the norms of whole tensors, and fewer numbers are added up in one.
    """
    rows = [torch.linalg.vector_norm(gradient, dim=-1).flatten() for gradient in gradients]
    return torch.linalg.vector_norm(torch.cat(rows).float())


def _is_ours(gradient: Tensor) -> bool:
    return gradient.device.type == "cpu" and gradient.dtype is torch.bfloat16
