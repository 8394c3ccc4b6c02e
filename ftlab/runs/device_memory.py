"""Memory in use on a device, read from outside the process that uses it."""

from __future__ import annotations

from ftlab.runs.process import resident_bytes


def memory_in_use(device_id: str, pid: int) -> int | None:
    """Bytes: on a CPU the process's resident size, on a GPU what is in use on the whole card.

    `None` where it cannot be read.
    """
    if not device_id.startswith("cuda:"):
        return resident_bytes(pid)
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(device_id.partition(":")[2]))
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
    except Exception:  # a driver may refuse in many ways; a dash is then the honest answer
        return None
