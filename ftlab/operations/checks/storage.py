"""Folders and their disks: the runs, the cache, and the locks of the devices."""

from __future__ import annotations

from pathlib import Path

from ftlab import units
from ftlab.operations.finding import Finding
from ftlab.operations.folders import lock_refusal, refusal
from ftlab.runs.disk import free_disk_bytes

RUNS_BYTES = 2_000_000_000
"""A sweep with full fine-tuning of the bundled model keeps 0.3 GB a run; adapters are small."""

CACHE_BYTES = 400_000_000
"""What fetching and converting the bundled model takes once (ftlab/models/bundled.py)."""

_LEAST_BYTES = 100_000_000  # below it not even an adapter and its record are safe


def check_folder(name: str, folder: Path, variable: str, option: str = "") -> Finding:
    """Whether it can be written and locked; `variable` and `option` are how another is named."""
    other = f"name another with {option + ' or ' if option else ''}{variable}"
    why = refusal(folder)
    if why is not None:
        fix = f"make it writable, free some space, or {other}"
        return Finding(name, "fail", f"{folder}: {why}", fix)
    why = lock_refusal(folder)
    if why is not None:
        found = f"{folder}: files there cannot be locked ({why})"
        return Finding(name, "fail", found, f"use a local disk: {other}")
    if not folder.exists():
        return Finding(name, "ok", f"{folder} can be made")
    return Finding(name, "ok", f"{folder} can be written and locked")


def check_disk(name: str, folder: Path, needed: int, free: int | None = None) -> Finding:
    """Whether the folder's disk has room; `free` is given by tests."""
    left = free_disk_bytes(folder) if free is None else free
    if left is None:
        return Finding(name, "fail", f"{folder}: what is free cannot be told", "see to the disk")
    found = f"{units.format_bytes(left)} free"
    fix = f"free some space: {units.format_bytes(needed)} or more"
    if left < min(needed, _LEAST_BYTES):
        return Finding(name, "fail", found, fix)
    return Finding(name, "warn", found, fix) if left < needed else Finding(name, "ok", found)
