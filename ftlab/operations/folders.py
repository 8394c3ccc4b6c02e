"""Whether files can be written into a folder and locked there; nothing is left behind."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ftlab.locks import FileLock


def nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def refusal(folder: Path) -> str | None:
    """Why nothing can be written into the folder; `None` if it can.

    A folder that is not there yet is asked of the nearest one above it, and not made.
    """
    there = nearest(folder)
    if not there.is_dir():
        return f"{there} is a file"
    if there != folder:
        return None if os.access(there, os.W_OK | os.X_OK) else f"{there} may not be written"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # tells a full disk as well
            file.write(b"0" * 4096)
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def lock_refusal(folder: Path) -> str | None:
    """Why files in the folder cannot be locked (some network disks); `None` if they can."""
    if not folder.is_dir():
        return None
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".doctor-") as apart:
            lock, other = (FileLock(Path(apart) / "lock") for _ in range(2))
            held = lock.try_acquire()
            twice = held and other.try_acquire()
            other.release()
            lock.release()
    except OSError as error:
        return error.strerror or str(error)
    if not held:
        return "a lock on a new file is refused"
    return "two processes could hold the same lock" if twice else None
