"""Holding a worker to the memory that a person lets it have, so that one allocation too many is an
error of its own and not the kernel's kill of whatever process comes in handy.
"""

from __future__ import annotations

import threading

import torch

from ftlab.basics.devices import CPU
from ftlab.basics.errors import FtlabError
from ftlab.basics.system import status_bytes
from ftlab.basics.units import format_bytes

_NEARLY = 0.95
_STACK_BYTES = 2**20


def hold_to(limit: int, device: torch.device) -> str:
    """From now on an allocation above the limit fails in this process.

    On a GPU torch's allocator refuses it. On a CPU the kernel does: `limit` is of the resident
    size, and the kernel limits the size of private data (RLIMIT_DATA), which counts a gigabyte of
    torch's that is mapped and never touched; so what may still be added is what is limited. (Tried
    on runs of 600 to 1,500 MB: a run whose peak is 40 MB below the limit gets to its end, and one
    that meets it has a peak up to 35 MB above it: code that is first used in training comes on top.
    RLIMIT_AS counts mapped files and reserved addresses too, several times the resident size; a
    thread that watches the size sees a leap only after it.)

    Returns a sentence where the limit cannot be held, else "". Raises `FtlabError` if the process
    is above it already.
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
        return "The memory limit was not held: this system does not say what a process takes."
    room = limit - resident
    if room <= 0:
        raise FtlabError(
            f"The memory limit is {format_bytes(limit)}, and the process takes "
            f"{format_bytes(resident)} before a model is loaded; allow more."
        )
    threading.stack_size(_STACK_BYTES)  # of 8 MB otherwise, all of which count and few are touched
    _set_soft_limit(data + room)
    return ""


def is_met(limit: int, error: BaseException, device_id: str) -> bool:
    """Whether the process has come up to the limit, so that an odd error is likely of its making.

    Not every library says why it failed: oneDNN "could not create a primitive". A thread that has
    no room for its stack is known by its words. On a GPU never: torch's allocator says itself that
    it met the limit, and the size of the process tells nothing of the card.
    """
    if device_id != CPU:
        return False
    if "can't start new thread" in str(error):
        return True
    peak = status_bytes("VmHWM")
    return peak is not None and peak >= _NEARLY * limit


def let_go() -> None:
    """Takes the limit on a CPU away, so that a run that met it can still be described."""
    _set_soft_limit(None)


def _set_soft_limit(size: int | None) -> None:
    """The hard limit stays as it was, so that the soft one can be raised again."""
    import resource  # not on every system; where it is missing, nothing was limited

    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if size is None or (hard != resource.RLIM_INFINITY and size > hard):
        size = hard
    resource.setrlimit(resource.RLIMIT_DATA, (size, hard))
