"""How much memory a run may take where a person sets it.

The limit is written into the spec of each run: so it reaches the worker whoever's dispatcher starts
it, outlives the app and the command line that asked, and stands in the record.
"""

from __future__ import annotations

import os
import re

from ftlab.errors import FtlabError

ENVIRONMENT = "FTLAB_MEMORY_LIMIT"
"""The operator's own: no run that is queued from a process with it may take more."""

_LEAST = 64_000_000
_UNITS = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]?I?B?)", re.IGNORECASE)


def parse_memory_limit(text: str) -> int:
    """Bytes of "2GB", "512 MB" or "1.5GiB"; raises `FtlabError` for anything else."""
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].upper() if match else ""
    factor = _UNITS.get(unit) or _UNITS.get(f"{unit}B")  # "2G" is 2 GB
    if match is None or factor is None:
        raise FtlabError(
            f"The memory limit '{text[:40]}' is no size; give a number with its unit, as in 2GB."
        )
    size = round(float(match[1]) * factor)
    if size < _LEAST:
        raise FtlabError(
            f"The memory limit '{text[:40]}' is below 64 MB, in which nothing can be trained; "
            "give more, as in 2GB."
        )
    return size


def operator_limit() -> int | None:
    """The limit that the environment sets; raises `FtlabError` if it is no size."""
    text = os.environ.get(ENVIRONMENT, "").strip()
    return parse_memory_limit(text) if text else None


def least(*limits: int | None) -> int | None:
    """The tightest of them; `None` where there is none."""
    return min((limit for limit in limits if limit is not None), default=None)
