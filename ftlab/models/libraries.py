"""How torch and the libraries around it are set before a worker process imports them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ftlab.basics.devices import show_only
from ftlab.methods.peft_rules import match_without_backtracking

CPU_SETTINGS = {
    # oneDNN keeps packed buffers for the last 1024 shapes by default, which counts as memory of the
    # method though it is none; with 8, LoRA's peak fell by 100 MB and no step was slower.
    "LRU_CACHE_CAPACITY": "8",
    # A thread that waits for another gives its core up after some microseconds. By default it turns
    # on for milliseconds, which costs most when the other one's core is taken by another process.
    "GOMP_SPINCOUNT": "1000",
}
"""How a CPU computes, chosen by measurement (docs/performance.md); the person's own come first."""


CUDNN_LAST = "TORCH_CUDNN_SDPA_DEPRIORITIZED"

GPU_SETTINGS = {
    # torch 2.11 and later prefer cuDNN's attention on sm90 and sm100. Open reports of it: another
    # text than with other kernels (pytorch#193893), NaN in the backward pass under a mask
    # (pytorch#196678), and it plans anew for every shape. "0" turns it on.
    CUDNN_LAST: "1",
}
"""How a GPU computes; the person's own come first."""


def cpu_settings() -> dict[str, str]:
    """What this process's environment says of how a CPU computes, for the record of a run."""
    prefixes = ("OMP_", "GOMP_", "KMP_", "MKL_", "ONEDNN_", "DNNL_", "MALLOC_", "GLIBC_TUNABLES")
    names = {*CPU_SETTINGS, "THP_MEM_ALLOC_ENABLE", "LD_PRELOAD"}
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in names or name.startswith(prefixes)
    }


def gpu_settings() -> dict[str, str]:
    """What this process's environment says of how a GPU computes, for the record of a run."""
    prefixes = (
        "CUDA_", "CUBLAS", "CUDNN_", "HIP_", "ROCM_", "NVIDIA_TF32_OVERRIDE", "TORCH_CUDNN_",
        "TORCH_CUBLAS", "TORCH_ALLOW_TF32", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF",
        "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING",
    )  # fmt: skip
    hidden = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")  # which of several equal cards
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(prefixes) and name not in hidden
    }


def prepare_for_libraries(device_id: str) -> None:
    """Sets what torch and its neighbours read when they are imported, and by what PEFT matches the
    names of layers; to be called before that."""
    show_only(device_id)
    for name, value in GPU_SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name, value in CPU_SETTINGS.items():
        if name != "GOMP_SPINCOUNT" or "OMP_WAIT_POLICY" not in os.environ:  # it would win
            os.environ.setdefault(name, value)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    match_without_backtracking()


@contextmanager
def lasting_imports() -> Iterator[None]:
    """Imports that live as long as the process, so they are never searched for garbage.

    torch and its neighbours make half a million objects. Searching them took 0.7 s of the imports
    themselves, and 0.3 s at the start of every phase of a run.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
