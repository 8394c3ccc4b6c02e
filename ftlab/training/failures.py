"""Explains the error that stopped a run, as a status and a sentence."""

from __future__ import annotations

import errno

import torch

from ftlab.basics.errors import Diverged, FtlabError, NotApplicable, NotEnoughMemory, one_line
from ftlab.basics.torch_devices import way_out
from ftlab.records.result import FinalStatus

_SMALLER = (
    "Try a smaller batch with accumulation, a shorter maximum length, gradient checkpointing, "
    "or a method that needs less."
)

_OUT_OF_MEMORY_SIGNS = (
    "can't allocate memory",  # torch's CPU allocator
    "out of memory",  # the CUDA driver, outside torch's allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",  # C++ in general
    "Cannot allocate memory",  # the C library
)


def explain(error: BaseException, phase: str, at_limit: bool = False) -> tuple[FinalStatus, str]:
    """Returns the status and the sentence for an error in that phase.

    `at_limit`: the process reached its memory limit, so an unknown error is attributed to it.
    """
    during = f" in the {phase} phase" if phase else ""
    if isinstance(error, KeyboardInterrupt):
        return "cancelled", f"Stopped by the person{during}."
    if isinstance(error, NotEnoughMemory):
        return "out_of_memory", one_line(error)
    if is_out_of_memory(error):
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
    if is_device_fault(error):
        way, said = way_out(str(error)), _first_line(error)
        if way:
            return "failed", (
                f"The GPU cannot be used{during}: {said}. To fix it: {way}. Or choose the device "
                "cpu."
            )
        return "failed", (
            f"The GPU reported an error{during}: {said}. Memory is not the cause, and the next run "
            "starts anew. Run it again; if the error returns, read the driver's messages "
            "(`nvidia-smi`, `dmesg | grep Xid`), or choose the device cpu."
        )
    if at_limit and isinstance(error, (RuntimeError, SystemError)):
        return "out_of_memory", f"Out of memory{during}. {_SMALLER}"
    return "failed", f"Failed{during}: {one_line(error)[:400]} (the log has the traceback)."


_DEVICE_FAULTS = ("CUDA error", "HIP error", "CUDNN_STATUS_EXECUTION_FAILED", "cublasLt", "CUBLAS_")


def is_device_fault(error: BaseException) -> bool:
    """Whether a kernel failed on a GPU; the CUDA context is unusable afterwards."""
    kinds = tuple(filter(None, [getattr(torch, "AcceleratorError", None)]))
    text = str(error)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and any(sign in text for sign in _DEVICE_FAULTS)
    )


def _first_line(error: BaseException) -> str:
    """Returns the first line of the message; the rest of torch's is debugging advice."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200].rstrip(".")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error, or one of its causes, is an out-of-memory error."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY_SIGNS):
        return True
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return cause is not None and is_out_of_memory(cause)


_CUT_OFF_SIGNS = ("Connection closed by peer", "Connection reset", "gloo", "NCCL", "Broken pipe")


def is_cut_off(error: BaseException) -> bool:
    """Whether the error is only that another rank of the run has ended, or does not answer."""
    if isinstance(error, torch.distributed.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _CUT_OFF_SIGNS)


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOSPC
    return "No space left on device" in str(error)  # safetensors raises its own error class
