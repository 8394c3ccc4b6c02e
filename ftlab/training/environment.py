"""Where a run was measured: device, packages, threads, and what else the machine was doing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import psutil
import torch

from ftlab.devices import cpu_count
from ftlab.runs.spawn import cpu_settings

PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers",
)  # fmt: skip


def describe_environment(device: torch.device) -> dict[str, Any]:
    """What two runs must share to be compared, as JSON."""
    return {
        "device": device_name(device),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "cores": cpu_count(),
        "settings": cpu_settings(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def device_name(device: torch.device) -> str:
    """The card's or the processor's own name."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "CPU"
