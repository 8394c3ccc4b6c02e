"""The devices of this machine, found without torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

import psutil

from ftlab.errors import FtlabError

AUTO = "auto"
CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """`id` is torch's name ("cpu", "cuda:0"); `memory_bytes` is its whole memory."""

    id: str
    label: str
    memory_bytes: int

    @property
    def is_cuda(self) -> bool:
        return self.id.startswith("cuda")


@lru_cache(maxsize=1)
def list_devices() -> tuple[Device, ...]:
    """Every GPU that NVIDIA's driver names, then the CPU."""
    return (*_cuda_devices(), _cpu())


def resolve_device(device_id: str) -> Device:
    """The device of that id; "auto" is the first GPU, else the CPU.

    Raises `FtlabError` that names the devices there are.
    """
    devices = list_devices()
    if device_id == AUTO:
        return devices[0]
    wanted = "cuda:0" if device_id == "cuda" else device_id
    for device in devices:
        if device.id == wanted:
            return device
    known = ", ".join(device.id for device in devices)
    raise FtlabError(
        f"There is no device '{device_id}' on this machine; devices: {known} (or {AUTO})."
    )


def cpu_count() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu() -> Device:
    cores = cpu_count()
    label = f"CPU, {cores} core{'s' if cores != 1 else ''}"
    return Device(CPU, label, psutil.virtual_memory().total)


def _cuda_devices() -> list[Device]:
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library, no permission: in each case there is no GPU to offer
        return []
    devices = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name = pynvml.nvmlDeviceGetName(handle)
            memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            devices.append(Device(f"cuda:{index}", str(name), memory))
    except pynvml.NVMLError:
        return devices
    finally:
        pynvml.nvmlShutdown()
    return devices
