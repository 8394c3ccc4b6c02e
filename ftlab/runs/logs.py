"""Keeping the log of a worker that says too much from filling the disk."""

from __future__ import annotations

import os
from pathlib import Path

LARGEST = 32_000_000
KEPT = 1_000_000
"""Bytes: a log that grows above the first is cut down to the second, its last ones."""


def bound(log: Path, largest: int = LARGEST, kept: int = KEPT) -> None:
    """Cuts a log that is too large while its worker writes on: it appends, wherever the end is.

    What the worker says within the cut may be lost; never raises for a log that cannot be cut.
    """
    try:
        if log.stat().st_size <= largest:
            return
        with log.open("rb+") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(size - kept)
            tail = file.read(kept).partition(b"\n")[2]
            file.truncate(0)
        with log.open("ab") as file:
            file.write(b"[ftlab: the log grew too large; what came before was cut away]\n" + tail)
    except OSError:
        return
