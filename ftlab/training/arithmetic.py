"""How a model computes: the loss on the completion alone, and the precision of its products."""

from __future__ import annotations

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ftlab.models.loading import compute_dtype
from ftlab.runs.spec import DtypePolicy
from ftlab.training.data import IGNORED, Batch


@dataclass(frozen=True)
class Arithmetic:
    """The precision of forward and backward under one dtype policy.

    Under `bf16` and `mixed` products are computed in 16 bits over weights of any type, so fp32
    adapters stay fp32 masters. fp16 (CUDA without bf16) is left to the Trainer, which scales the
    gradients.
    """

    policy: DtypePolicy
    device: torch.device

    @property
    def needs_grad_scaler(self) -> bool:
        return compute_dtype(self.policy, self.device) is torch.float16

    def context(self) -> AbstractContextManager[None]:
        dtype = compute_dtype(self.policy, self.device)
        if dtype is torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=dtype)


def compute_adapters_in_low_precision(model: nn.Module) -> None:
    """Stops PEFT from raising every layer's input to the fp32 of the adapter's masters.

    Autocast then computes the adapter's two products in 16 bits, as it does the base's.
    """
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            setattr(module, "cast_input_dtype_enabled", False)  # noqa: B010 - typed as a Tensor


def virtual_tokens(model: nn.Module) -> int:
    """Soft tokens that a prompt method puts before the input; 0 for everything else."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return int(model.active_peft_config.num_virtual_tokens)
    return 0


def completion_losses(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The loss of every completion token.

    Returns `(losses, rows)`, each of shape (tokens with loss,): nats in fp32, and the row of the
    batch that each token belongs to. Only the logits that the loss needs are computed where the
    architecture allows it.
    """
    labels = batch["labels"]
    predicts = torch.zeros_like(labels, dtype=torch.bool)
    predicts[:, :-1] = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][predicts[:, :-1]]
    rows = predicts.nonzero()[:, 0]
    inputs = {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "use_cache": False,
    }
    soft = virtual_tokens(model)
    if _keeps_chosen_logits(model):
        keep = F.pad(predicts, (soft, 0), value=False)
        logits = model(**inputs, logits_to_keep=keep).logits
    else:
        logits = model(**inputs).logits[:, soft:][predicts]
    return F.cross_entropy(logits.float(), targets, reduction="none"), rows


def _keeps_chosen_logits(model: nn.Module) -> bool:
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return "logits_to_keep" in inspect.signature(base.forward).parameters
