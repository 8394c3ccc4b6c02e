"""Appending to a file of JSON lines that may end in a torn one, on a disk that may be full."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class LineWriter:
    """A file of JSON lines, open at its end; each line goes to the system whole and at once.

    Nothing is held back in a buffer, so closing a file on a full disk fails over nothing. A last
    line that was torn, by an earlier writer or by this one, is ended before the next begins: it
    spoils no other.
    """

    def __init__(self, path: Path) -> None:
        """Raises `OSError` if the file cannot be written."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._handle).st_size
        self._torn = size > 0 and os.pread(self._handle, 1, size - 1) != b"\n"

    def __enter__(self) -> LineWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def append(self, row: dict[str, Any]) -> None:
        """Raises `OSError` if the disk is full; the line may then be torn."""
        line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
        left = memoryview(b"\n" + line if self._torn else line)
        self._torn = True
        while left:
            left = left[os.write(self._handle, left) :]
        self._torn = False
