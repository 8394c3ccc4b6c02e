"""What stopped a run, in one sentence and one status."""

from __future__ import annotations

import errno

import torch

from ftlab.errors import Diverged, FtlabError, NotApplicable, one_line
from ftlab.runs.result import FinalStatus

_SMALLER = (
    "Try a smaller batch with accumulation, a shorter maximum length, gradient checkpointing, "
    "or a method that needs less."
)

_OUT_OF_MEMORY_SIGNS = (
    "can't allocate memory",  # torch's CPU allocator
    "out of memory",  # the CUDA driver, outside torch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
)


def explain(error: BaseException, phase: str) -> tuple[FinalStatus, str]:
    """The status and the sentence for an error that came up in that phase."""
    during = f" in the {phase} phase" if phase else ""
    if isinstance(error, KeyboardInterrupt):
        return "cancelled", f"Stopped by the person{during}."
    if _is_out_of_memory(error):
        return "out_of_memory", f"Out of memory{during}. {_SMALLER}"
    if _is_disk_full(error):
        return "failed", (
            f"The disk is full{during}: nothing more could be written. Free space and run again."
        )
    if isinstance(error, Diverged):
        return "diverged", one_line(error)
    if isinstance(error, NotApplicable):
        return "not_applicable", one_line(error)
    if isinstance(error, FtlabError):
        return "failed", one_line(error)
    return "failed", f"Failed{during}: {one_line(error)[:400]} (the log has the traceback)."


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _OUT_OF_MEMORY_SIGNS)


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    return "No space left on device" in str(error)  # safetensors raises an error of its own
