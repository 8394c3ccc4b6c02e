"""The devices of this machine, found without torch."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

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


def free_bytes(device: Device) -> int | None:
    """Memory that is free on the device now; `None` where the driver does not say.

    On a CPU a container's own limit counts where it is the tighter one.
    """
    if not device.is_cuda:
        free = int(psutil.virtual_memory().available)
        left = _left_in_container()
        return free if left is None else min(free, left)
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(int(device.id.partition(":")[2]))
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free)
    except Exception:  # a driver may refuse in many ways; then there is no number to show
        return None


def nvidia_names() -> list[str]:
    """The GPUs that NVIDIA's driver names, whether or not this torch can use them."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except Exception:  # no driver, no library, no permission
        return []


def show_only(device_id: str) -> None:
    """Hides all other GPUs from this process, so that torch's number 0 is the one named.

    To be called before torch is imported.
    """
    if device_id.startswith("cuda:"):
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order in which NVML counts
        os.environ["CUDA_VISIBLE_DEVICES"] = device_id.partition(":")[2]


def _cuda_devices() -> list[Device]:
    if _torch_is_for_cpu():
        return []
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no driver, no library, no permission: in each case there is no GPU to offer
        return []
    devices = []
    allowed = _allowed(os.environ.get("CUDA_VISIBLE_DEVICES"))
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            names = (str(index), str(pynvml.nvmlDeviceGetUUID(handle)))
            if allowed is not None and not any(_names(a, names) for a in allowed):
                continue
            name = pynvml.nvmlDeviceGetName(handle)
            memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            devices.append(Device(f"cuda:{index}", str(name), memory))
    except pynvml.NVMLError:
        return devices
    finally:
        pynvml.nvmlShutdown()
    return devices


def _left_in_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """What a cgroup (version 2) leaves of its limit; file pages that it can drop count as free."""
    try:
        limit = (group / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((group / "memory.current").read_text())
        pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, int(limit) - used + int(pages.get("inactive_file", 0)))
    except (OSError, ValueError):
        return None


def _torch_is_for_cpu() -> bool:
    """True for a torch build that could not use a GPU if there were one."""
    try:
        return importlib.metadata.version("torch").endswith("+cpu")
    except importlib.metadata.PackageNotFoundError:
        return False


def _allowed(visible: str | None) -> list[str] | None:
    """The GPUs that `CUDA_VISIBLE_DEVICES` leaves visible, by number or UUID; `None` for all."""
    if visible is None:
        return None
    return [part.strip() for part in visible.split(",") if part.strip()]


def _names(wanted: str, names: tuple[str, str]) -> bool:
    """CUDA takes a number, or as much of a UUID as tells it apart."""
    number, uuid = names
    return wanted == number or (wanted.startswith("GPU-") and uuid.startswith(wanted))
