"""What stopped a run, in one sentence and one status."""

from __future__ import annotations

import errno

import torch

from ftlab.errors import FtlabError, one_line
from ftlab.runs.result import FinalStatus

_SMALLER = (
    "Try a smaller batch with accumulation, a shorter maximum length, gradient checkpointing, "
    "or a method that needs less."
)


def explain(error: BaseException, phase: str) -> tuple[FinalStatus, str]:
    """The status and the sentence for an error that came up in that phase."""
    during = f" in the {phase} phase" if phase else ""
    if isinstance(error, KeyboardInterrupt):
        return "cancelled", f"Stopped by the person{during}."
    if _is_out_of_memory(error):
        return "out_of_memory", f"Out of memory{during}. {_SMALLER}"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "failed", (
            f"The disk is full{during}: nothing more could be written. Free space and run again."
        )
    if isinstance(error, FtlabError):
        return "failed", one_line(error)
    return "failed", f"Failed{during}: {one_line(error)[:400]} (the log has the traceback)."


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "CUDA out of memory" in text
    )
