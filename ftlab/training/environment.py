"""Where a run was measured: device, packages, threads, and what else the machine was doing."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import psutil
import torch

from ftlab import nvml
from ftlab.devices import cpu_count
from ftlab.models.loading import capability_of
from ftlab.runs.spawn import cpu_settings, gpu_settings
from ftlab.system import load_average, read_proc
from ftlab.training.meters import device_uuid

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers",
)  # fmt: skip


def describe_environment(device: torch.device) -> dict[str, Any]:
    """What two runs must share to be compared, as JSON."""
    load = load_average()
    return {
        "device": device_name(device),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": _versions(),
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cores": cpu_count(),
        "settings": cpu_settings(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_at_start": None if load is None else round(load, 2),
        **(_describe_card(device) if device.type == "cuda" else {}),
    }


def device_name(device: torch.device) -> str:
    """The card's or the processor's own name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    for line in (read_proc("cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "CPU"


def _describe_card(device: torch.device) -> dict[str, Any]:
    """What decides how a card computes, beside torch's own version; `None` is not known."""
    driver, capability = nvml.driver(), capability_of(device)
    return {
        "gpus_visible": torch.cuda.device_count(),
        "uuid": device_uuid(torch.cuda, device),
        "driver": None if driver is None else driver.version,
        "capability": None if capability is None else ".".join(map(str, capability)),
        "cudnn": torch.backends.cudnn.version(),
        "rocm": torch.version.hip,
        "gpu_settings": gpu_settings(),
    }


def _versions() -> dict[str, str]:
    """Of those that are installed: a GPU machine may lack what a run does not need."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
