"""Enforces the user's memory limit in a worker.

An allocation above it fails with an error; otherwise the OOM killer could kill any process.
"""

from __future__ import annotations

import threading

import torch

from ftlab.basics.devices import CPU
from ftlab.basics.errors import FtlabError
from ftlab.basics.system import limit_data, status_bytes
from ftlab.basics.units import format_bytes

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


def is_met(limit: int, error: BaseException, device_id: str) -> bool:
    """Whether the process reached the limit, so that it is the likely cause of an unclear error.

    Not every library reports the reason: oneDNN "could not create a primitive". A thread without
    memory for its stack is recognised by its message. Always False on a GPU: there torch's
    allocator reports the limit itself, and the process size does not include GPU memory.
    """
    if device_id != CPU:
        return False
    if "can't start new thread" in str(error):
        return True
    peak = status_bytes("VmHWM")
    return peak is not None and peak >= _NEARLY * limit


def let_go() -> None:
    """Removes the limit on a CPU, so that a run that reached it can still write its result."""
    limit_data(None)
