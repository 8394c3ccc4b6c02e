"""What a run's own peak is made of: one more step on its longest batch, looked at by the tracker.

It comes after the timed steps, with the optimizer's state as they left it, and changes no weight:
gradients are made and dropped, the optimizer is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from ftlab.models.loading import scales_of
from ftlab.prediction.simulation.allocations import AllocationLog
from ftlab.training.arithmetic import Arithmetic
from ftlab.training.data import Batch, on_device
from ftlab.training.hooks import added_loss, rank_allocator, rank_scores, state_of
from ftlab.training.loss import completion_losses


def measure_anatomy(
    model: PreTrainedModel | PeftModel,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    arithmetic: Arithmetic,
) -> dict[str, int]:
    """Bytes that live at the step's peak, by part; their sum is the peak.

    `batches` are accumulated, as those of one optimizer step are. On CUDA sizes are as the caching
    allocator rounds them, and what a kernel takes within itself counts as temporary.
    """
    device = arithmetic.device
    is_cuda = device.type == "cuda"
    log = AllocationLog()
    log.name(scales_of(model), "weights")
    log.name([*model.parameters(), *model.buffers()], "weights")
    log.name(state_of(optimizer), "optimizer")
    scores = _rank_scores(model)
    log.name(scores, "optimizer")
    if is_cuda:
        torch.cuda.reset_peak_memory_stats(device)
    with torch.random.fork_rng([device] if is_cuda else []), log:
        for batch in batches:
            log.phase = "forward"
            with arithmetic.context():
                losses, _ = completion_losses(model, on_device(batch, device))
            loss, added = losses.mean(), added_loss(model)
            log.phase = "backward"
            (loss if added is None else loss + added).backward()
            log.name((p.grad for p in model.parameters()), "gradients")
    model.zero_grad(set_to_none=True)
    peak = log.peak(rounding=is_cuda)
    anatomy = {str(part): size for part, size in peak.anatomy.items()}
    if is_cuda:
        anatomy["temporary"] += max(0, torch.cuda.max_memory_allocated(device) - peak.bytes)
    return anatomy


def _rank_scores(model: PreTrainedModel | PeftModel) -> list[Tensor]:
    """AdaLoRA's scores; as many bytes where its last ranks are handed out and they are gone."""
    allocator = rank_allocator(model)
    if allocator is None:
        return []
    stores = rank_scores(allocator).values()
    held = [score for scores in stores for score in scores.values()]
    ranked = [weight for name, weight in model.named_parameters() if "lora_" in name]
    return held or [torch.zeros_like(weight) for _ in stores for weight in ranked]
