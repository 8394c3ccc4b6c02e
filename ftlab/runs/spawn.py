"""The environment in which this package's own processes start and compute."""

from __future__ import annotations

import os
from pathlib import Path

from ftlab.devices import show_only


def python_environment() -> dict[str, str]:
    """This process's environment, in which `python -m ftlab…` finds this very package."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def prepare_for_libraries(device_id: str) -> None:
    """Sets what torch and its neighbours read when they are imported; to be called before that."""
    show_only(device_id)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # oneDNN keeps packed buffers for the last 1024 shapes by default, which counts as memory of the
    # method though it is none; with 8, LoRA's peak fell by 100 MB and no step was slower.
    os.environ.setdefault("LRU_CACHE_CAPACITY", "8")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
