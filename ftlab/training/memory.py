"""Memory of a run on its device: the user's limit, the free memory, and the breakdown of its peak.

An allocation above the limit fails with an error; otherwise the OOM killer could kill any process.

The breakdown is measured in one more step on the longest batch, after the timed steps and with
their optimizer state. It changes no weight: gradients are computed and dropped, and the optimizer
is not called.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.optim import Optimizer
from transformers import PreTrainedModel

from ftlab.basics import nvml
from ftlab.basics.cards import CONTEXT_BYTES
from ftlab.basics.devices import CPU
from ftlab.basics.errors import FtlabError, NotEnoughMemory
from ftlab.basics.system import limit_data, status_bytes
from ftlab.basics.units import format_bytes
from ftlab.models.dimensions import shape_of_model
from ftlab.models.packed import scales_of
from ftlab.records.spec import RunSpec
from ftlab.training.allocations import AllocationLog
from ftlab.training.meters import device_uuid
from ftlab.training.model import added_loss, rank_allocator, rank_scores, state_of
from ftlab.training.step import Arithmetic, Batch, completion_losses, on_device

_NEARLY = 0.95
_STACK_BYTES = 2**20


def hold_to(limit: int, device: torch.device) -> str:
    """Makes every later allocation above the limit fail in this process.

    On a GPU torch's allocator enforces it, on a CPU the kernel. `limit` is the resident size, but
    RLIMIT_DATA limits private data, including a gigabyte that torch maps and never touches, so it
    is set to the current data size plus what may be added (in tests exact to 40 MB). RLIMIT_AS also
    counts mapped files and reserved addresses; a polling thread sees a jump too late.

    Returns a sentence if the limit cannot be enforced, else "". Raises `FtlabError` if the process
    is already above it.
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
        return ""
    if device.type == "mps":
        torch.mps.set_per_process_memory_fraction(
            min(1.0, limit / torch.mps.recommended_max_memory())
        )
        return ""
    data, resident = status_bytes("VmData"), status_bytes("VmRSS")
    if data is None or resident is None:
        return "The memory limit was not enforced: this system reports no process sizes."
    room = limit - resident
    if room <= 0:
        raise FtlabError(
            f"The memory limit is {format_bytes(limit)}, and the process takes "
            f"{format_bytes(resident)} before a model is loaded; allow more."
        )
    threading.stack_size(_STACK_BYTES)  # the default of 8 MB counts in full, but is hardly used
    limit_data(data + room)
    return ""


def is_met(limit: int | None, error: BaseException, device_id: str) -> bool:
    """Whether the process reached its limit, if it has one: then that is the likely cause of an
    unclear error.

    Not every library reports the reason: oneDNN "could not create a primitive". A thread without
    memory for its stack is recognised by its message. Always False on a GPU: there torch's
    allocator reports the limit itself, and the process size does not include GPU memory.
    """
    if limit is None or device_id != CPU:
        return False
    if "can't start new thread" in str(error):
        return True
    peak = status_bytes("VmHWM")
    return peak is not None and peak >= _NEARLY * limit


def let_go() -> None:
    """Removes the limit on a CPU, so that a run that reached it can still write its result."""
    limit_data(None)


_WORTH_SAYING = 0.02  # share of the card: a desktop uses a few hundred megabytes
_MOST_NAMED = 3
_PACKED_BYTES = {"nf4": 0.5, "int8": 1.0}


@dataclass(frozen=True)
class CardMemory:
    """Bytes of a card: in total, available to a run, and of others; `holders` largest first."""

    name: str
    total: int
    room: int
    others: int
    holders: tuple[nvml.Process, ...] = ()

    @property
    def sentence(self) -> str:
        """A sentence on the memory used by other processes; "" if it is negligible."""
        if self.others < _WORTH_SAYING * self.total:
            return ""
        named = [
            f"process {holder.pid}: {format_bytes(holder.bytes)}"
            for holder in self.holders[:_MOST_NAMED]
            if holder.bytes
        ]
        who = f" ({', '.join(named)})" if named else ""
        return (
            f"Other processes hold {format_bytes(self.others)} of the card's "
            f"{format_bytes(self.total)}{who}; end them, or choose another device."
        )


def card_memory(device: torch.device, cuda: Any = torch.cuda, driver: Any = nvml) -> CardMemory:
    """Returns the card's memory available to this process: free, or reserved by torch and unused.

    The rest, except the CUDA context of this process, is used by other processes. `cuda` and
    `driver` are fakes in tests.
    """
    free, total = cuda.mem_get_info(device)
    kept = int(cuda.memory_reserved(device))
    own = os.getpid()
    others = [one for one in driver.processes(device_uuid(cuda, device)) if one.pid != own]
    return CardMemory(
        str(cuda.get_device_name(device)),
        int(total),
        int(free) + kept,
        max(0, int(total) - int(free) - kept - CONTEXT_BYTES),
        tuple(sorted(others, key=lambda one: -(one.bytes or 0))),
    )


def check_room(spec: RunSpec, memory: CardMemory) -> None:
    """Raises `NotEnoughMemory` if the weights, and their training state, alone do not fit.

    `least_bytes` is a lower bound: a run that is refused here could not have succeeded.
    """
    least = least_bytes(spec)
    room = memory.room if spec.memory_limit is None else min(memory.room, spec.memory_limit)
    if least is None or least <= room:
        return
    learns = spec.variant is not None and not spec.variant.spec.is_adapter
    what = "weights, gradients and optimizer state" if learns else "weights"
    way_out = memory.sentence or (
        "Choose a smaller model, a device with more memory"
        + (", or a base in 4 bits (base=nf4)." if spec.base_precision is None else ".")
    )
    raise NotEnoughMemory(
        f"Not started: {memory.name} has {format_bytes(room)} of {format_bytes(memory.total)} "
        f"available, but the {what} of {spec.label} alone need {format_bytes(least)}. {way_out}"
    )


def least_bytes(spec: RunSpec) -> int | None:
    """Returns a lower bound of the run's bytes on each device; `None` for an unknown model."""
    whole = _least_bytes_of_all(spec)
    return None if whole is None else whole // spec.settings.shard


def _least_bytes_of_all(spec: RunSpec) -> int | None:
    shape = shape_of_model(spec.model)
    if shape is None:
        return None
    if spec.base_precision is not None:
        return round(shape.total * _PACKED_BYTES[spec.base_precision])
    weight = 2 if spec.dtype_policy == "bf16" else 4
    if spec.variant is None or not spec.variant.spec.ships_whole_model:
        return shape.total * weight
    state = 2 * weight if spec.settings.optimizer == "adamw" else 2
    state = 0 if spec.settings.optimizer == "paged_adamw_8bit" else state
    return shape.total * (2 * weight + state)


def measure_memory_breakdown(
    model: PreTrainedModel | PeftModel,
    optimizer: Optimizer,
    batches: Sequence[Batch],
    arithmetic: Arithmetic,
) -> dict[str, int]:
    """Returns the bytes allocated at the step's peak, by part; their sum is the peak.

    `batches` are accumulated, as in one optimizer step. On CUDA sizes are rounded as by the caching
    allocator, and memory used inside a kernel counts as temporary.
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
    """Returns AdaLoRA's scores; tensors of the same size if it has already dropped them."""
    allocator = rank_allocator(model)
    if allocator is None:
        return []
    stores = rank_scores(allocator).values()
    held = [score for scores in stores for score in scores.values()]
    ranked = [weight for name, weight in model.named_parameters() if "lora_" in name]
    return held or [torch.zeros_like(weight) for _ in stores for weight in ranked]
