"""Less work around the update of a model's own weights on a CPU in bf16.

The gradient of full fine-tuning is as large as the model, so each pass over it takes long. Two are
saved here: the pass that clips the gradient, and the one over the embeddings of all tokens, of
which a batch has few. Gradients in fp32, which all adapters have, are left to torch.
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
    """Limits the gradient of the token embeddings to the rows of the batch's tokens.

    Changes only bf16 embeddings whose weight is also that of the output layer: autograd adds the
    rows to the output layer's gradient. Without that one the gradient would stay sparse, which
    AdamW does not accept.
    """
    tokens, output = model.get_input_embeddings(), model.get_output_embeddings()
    tied = output is not None and output.weight is tokens.weight
    if tied and isinstance(tokens, nn.Embedding) and tokens.weight.dtype is torch.bfloat16:
        tokens.sparse = True


def clip_within_step(
    optimizer: Optimizer, parameters: Iterable[nn.Parameter], most: float
) -> Tensor | None:
    """Makes the next step of a fused AdamW scale the gradients to a norm of at most `most`.

    The step scales each gradient when it reads it; `clip_grad_norm_` needs a pass of its own for
    that. Returns the norm before scaling. Does nothing and returns `None` if the optimizer is
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
    """The Euclidean norm of all gradients together, in fp32.

    It is computed from the norms of the rows, which takes half as long as from those of whole
    tensors and is rounded less.
    """
    rows = [torch.linalg.vector_norm(gradient, dim=-1).flatten() for gradient in gradients]
    return torch.linalg.vector_norm(torch.cat(rows).float())


def _is_ours(gradient: Tensor) -> bool:
    return gradient.device.type == "cpu" and gradient.dtype is torch.bfloat16
