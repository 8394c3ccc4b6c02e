"""What a process of this package inherits: the way to the package, and no secret that it does not
need.

Most workers read only what lies on this machine. One that asks the Hugging Face Hub, for a gated
model perhaps, gets the Hub's token; no worker gets any other secret.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ftlab.operations.redaction import is_secret_name

_OF_THE_HUB = ("HF_", "HUGGING_FACE_", "HUGGINGFACE", "TRACKIO_")
"""Begin the names of variables that huggingface_hub and trackio read."""

WITHOUT_HUB = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    "HF_TOKEN_PATH": os.devnull,  # else the library reads the token of `hf auth login`
}


def python_environment(needs_hub: bool = False) -> dict[str, str]:
    """This process's environment, in which `python -m ftlab…` finds this very package.

    Variables that are named like a secret are left out; those of the Hub stay where `needs_hub`.
    """
    root = Path(__file__).resolve().parents[1]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {
        name: value
        for name, value in os.environ.items()
        if not is_secret_name(name) or (needs_hub and name.startswith(_OF_THE_HUB))
    }
    return (
        kept
        | ({} if needs_hub else WITHOUT_HUB)
        | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    )


ALLOCATOR_SETTINGS = {
    # glibc gives freed memory back early and asks for it again in the next step, a page fault for
    # every 4 kB of it. A run that keeps up to 256 MB trained full fine-tuning 7 % faster, and its
    # peak is no higher: what is kept is used again.
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
}
"""What glibc reads when a process starts, so whoever starts a worker must set it."""


def worker_environment(needs_hub: bool) -> dict[str, str]:
    """The environment of a worker that trains or merges; the person's own allocator settings come
    first."""
    return ALLOCATOR_SETTINGS | python_environment(needs_hub)


def start_detached(
    module: str, argument: Path, log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Starts `python -m module argument`, which outlives whoever started it.

    It runs in the log's folder and says everything there. Raises `OSError` if it cannot be started.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, str(argument)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            cwd=log.parent,
            env=environment,
            start_new_session=True,
        )
