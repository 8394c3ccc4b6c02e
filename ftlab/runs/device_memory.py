"""Memory in use on a device, read from outside the process that uses it."""

from __future__ import annotations

from ftlab import nvml
from ftlab.devices import list_devices
from ftlab.runs.process import resident_bytes


def memory_in_use(device_id: str, pid: int) -> int | None:
    """Bytes: on a CPU the process's resident size, on a GPU what is in use on the whole card.

    `None` where it cannot be read.
    """
    if not device_id.startswith("cuda"):
        return resident_bytes(pid)
    device = next((device for device in list_devices() if device.id == device_id), None)
    memory = nvml.memory(device.uuid) if device is not None and device.uuid else None
    return None if memory is None else memory.used
