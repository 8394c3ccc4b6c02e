"""Configures torch and related libraries before a worker process imports them."""

from __future__ import annotations

import gc
import importlib.metadata
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from ftlab.basics.devices import CPU, show_only, usable_cores
from ftlab.basics.processes import WITHOUT_HUB_CODE
from ftlab.methods.peft_rules import match_without_backtracking
from ftlab.models import openmp

CPU_SETTINGS = {
    # oneDNN caches packed buffers for the last 1024 shapes by default. They would count as memory
    # of the method; with 8, LoRA's peak fell by 100 MB and no step was slower.
    "LRU_CACHE_CAPACITY": "8",
    # How often a waiting thread looks for work before it sleeps: `ftlab.models.openmp` says why.
    "GOMP_SPINCOUNT": str(openmp.spins()),
}
"""CPU settings, chosen by measurement (docs/performance.md); the user's own values win."""


CUDNN_LAST = "TORCH_CUDNN_SDPA_DEPRIORITIZED"

GPU_SETTINGS = {
    # torch 2.11 and later prefer cuDNN's attention on sm90 and sm100. Open issues: different text
    # than with other kernels (pytorch#193893), NaN in the backward pass with a mask
    # (pytorch#196678), and a new plan for every shape. "0" enables cuDNN's attention.
    CUDNN_LAST: "1",
}
"""GPU settings; the user's own values win."""


def cpu_settings() -> dict[str, str]:
    """This process's environment variables that affect CPU computation, for a run's record."""
    return _environment((
        "OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "MALLOC_", "GLIBC_TUNABLES",
        "THP_MEM_ALLOC_ENABLE", "LD_PRELOAD", *CPU_SETTINGS,
    ))  # fmt: skip


def gpu_settings() -> dict[str, str]:
    """This process's environment variables that affect GPU computation, for a run's record."""
    settings = _environment((
        "CUDA_", "CUBLAS", "CUDNN_", "HIP_", "ROCM_", "NVIDIA_TF32_OVERRIDE", "TORCH_CUDNN_",
        "TORCH_CUBLAS", "TORCH_ALLOW_TF32", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING",
    ))  # fmt: skip
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):  # only select among equal cards
        settings.pop(name, None)
    return settings


def _environment(prefixes: tuple[str, ...]) -> dict[str, str]:
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(prefixes)}


def prepare_for_libraries(device_id: str, forks: bool = False) -> None:
    """Configures torch, related libraries and PEFT's layer name matching; call before imports.

    A process that `forks` gets no thread: a forked process would miss it.
    """
    usable_cores()
    show_only(device_id)
    for name, value in GPU_SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, value in CPU_SETTINGS.items():
        if name != "GOMP_SPINCOUNT" or "OMP_WAIT_POLICY" not in os.environ:  # else overrides it
            os.environ.setdefault(name, value)
    if device_id == CPU and not forks:
        openmp.yield_cores()
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ |= WITHOUT_HUB_CODE
    # On a CPU with AVX512-BF16 it says in every log that it has no code from the Hub.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    match_without_backtracking()


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those packages that are installed, without importing any."""
    found = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Excludes objects created by imports in this block from garbage collection.

    torch and related libraries create half a million objects that live as long as the process.
    Scanning them took 0.7 s of the imports and 0.3 s at the start of every phase of a run.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
