"""Tensors out of safetensors files by numpy alone: memory-mapped, and float32 once read.

numpy has no bfloat16, but a bfloat16 number is the upper half of the float32 with the same value,
so its bits moved up by 16 are that float32.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ftlab.errors import FtlabError
from ftlab.models.safetensors_header import read_header

_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies: its numbers begin at byte `offset` of the file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Tensors:
    """The tensors of one file or of all shards of a model; none is read before it is asked for."""

    place: Path
    entries: Mapping[str, Entry]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.entries)

    def entry(self, name: str) -> Entry:
        """Raises `FtlabError` with some of the names there are for an unknown one."""
        if name not in self.entries:
            some = ", ".join(list(self.entries)[:3])
            raise FtlabError(
                f"'{self.place.name}' holds no tensor '{name[:120]}'; it has {len(self.entries)}, "
                f"such as {some}."
            )
        return self.entries[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.entry(name).shape

    def read(self, name: str) -> NDArray[np.float32]:
        """The whole tensor, a copy. Raises `FtlabError` if it is not of F32, F16 or BF16."""
        return _to_float32(self._mapped(name))

    def rows(self, name: str, start: int, stop: int) -> NDArray[np.float32]:
        """Rows `start` to `stop` (left out) of the tensor; no others are read from the disk."""
        return _to_float32(self._mapped(name)[start:stop])

    def _mapped(self, name: str) -> NDArray[np.generic]:
        entry = self.entry(name)
        if entry.dtype not in _STORED:
            raise FtlabError(
                f"The tensor '{name[:120]}' of '{entry.path.name}' is of {entry.dtype}; only "
                f"{', '.join(_STORED)} are read, so save the weights in one of them."
            )
        dtype = np.dtype(_STORED[entry.dtype])
        if 0 in entry.shape:
            return np.zeros(entry.shape, dtype)  # nothing that could be mapped
        try:
            return np.memmap(entry.path, dtype, "r", entry.offset, entry.shape)
        except (OSError, ValueError) as error:
            raise FtlabError(f"'{entry.path.name}' cannot be read ({error}).") from None


def open_tensors(place: Path) -> Tensors:
    """The tensors of a .safetensors file, or of all those in a folder.

    Raises `FtlabError` if there are none, or a file is no whole safetensors file.
    """
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    if not files:
        raise FtlabError(f"The folder '{place.name}' holds no .safetensors file; run it again.")
    entries: dict[str, Entry] = {}
    for file in files:
        entries |= _entries(file)
    return Tensors(place, entries)


def _entries(file: Path) -> dict[str, Entry]:
    try:
        with file.open("rb") as stream:
            header = read_header(stream, file.name)
        size = file.stat().st_size
    except OSError as error:
        raise FtlabError(f"'{file.name}' cannot be read ({error.strerror}).") from None
    if size < header.file_bytes:
        raise FtlabError(
            f"'{file.name}' is cut off: {size:,} of {header.file_bytes:,} bytes are there; copy it "
            "again."
        )
    described = json.loads(header.raw[8:])
    return {
        name: Entry(
            file,
            described[name]["dtype"],
            shape,
            len(header.raw) + described[name]["data_offsets"][0],
        )
        for name, shape in header.shapes.items()
    }


def _to_float32(stored: NDArray[np.generic]) -> NDArray[np.float32]:
    if stored.dtype == np.uint16:
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return np.array(stored, np.float32)
