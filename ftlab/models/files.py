"""Reads the files of a model folder: size limits, cached hashes, and headers without torch.

Hashes of large files are cached in the cache folder, one small entry file per hashed file. Entries
are written atomically, so several processes need no lock. An entry that cannot be read, or
describes another state of the file, is ignored.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the length N of the
header, little endian; N bytes of JSON that maps tensor names to dtype, shape and byte range; then
the tensors' bytes, one tensor after the other without gaps.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import cache_folder, read_plain, write_atomically

MAX_TEXT_BYTES = 32 * 2**20
"""Maximum size of a configuration, an index of weights or a chat template."""


def read_model_text(path: Path) -> str:
    """The text of the file, which may be a link, as in the Hub's cache.

    Raises `OSError` or `ValueError` if it cannot be read; a file that is too large is not read.
    """
    return read_plain(path, MAX_TEXT_BYTES, follow_link=True).decode("utf-8")


def read_model_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file; raises as `read_model_text` does."""
    try:
        found = json.loads(read_model_text(path))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


MOST_ENTRIES = 1000
"""Entries of some 300 bytes each; the weights of a model of 70 billion parameters are 30 files."""

_MAX_ENTRY_BYTES = 20_000
_SETTLED_SECONDS = 2.0
"""The coarsest time resolution of a file system: two writes within it may have the same time."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hashes_folder() -> Path:
    return cache_folder() / "hashes"


def file_sha256(path: Path) -> bytes:
    """The file's digest, 32 bytes; cached, so an unchanged file is not read again.

    Raises `OSError` as `open` does; problems with the cache folder are ignored.
    """
    real = os.path.realpath(path)
    entry = hashes_folder() / f"{hashlib.sha256(os.fsencode(real)).hexdigest()}.json"
    known = _read(entry, real, _state(os.stat(real)))
    if known is not None:
        return known
    began = time.time()
    with open(real, "rb") as file:
        before = os.fstat(file.fileno())
        digest = hashlib.file_digest(file, "sha256").digest()
        after = os.fstat(file.fileno())
    # A file that changed during reading, or so recently that another change might not alter its
    # times, is not cached.
    settled = began - before.st_ctime > _SETTLED_SECONDS
    if settled and _state(before) == _state(after):
        _keep(entry, real, _state(before), digest)
    return digest


def _state(status: os.stat_result) -> list[int]:
    """Identifies the content of a file.

    Unlike the modification time, a program cannot set back the change time (ctime). The device
    number is left out: it may change with each boot for a network disk or in a container.
    """
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(entry: Path, real: str, state: list[int]) -> bytes | None:
    try:
        found = json.loads(read_plain(entry, _MAX_ENTRY_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or (found.get("path"), found.get("state")) != (real, state):
        return None
    digest = found.get("sha256")
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        return None
    return bytes.fromhex(digest)


def _keep(entry: Path, real: str, state: list[int], digest: bytes) -> None:
    """Stores a cache entry; ignores a folder that cannot be written."""
    text = json.dumps({"path": real, "state": state, "sha256": digest.hex()})
    with suppress(OSError):
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(entry, text.encode())
        _forget_oldest(entry.parent)


def _forget_oldest(folder: Path) -> None:
    files = [file for file in os.scandir(folder) if file.is_file(follow_symlinks=False)]
    surplus = len(files) - MOST_ENTRIES
    if surplus <= 0:
        return
    written = {file.path: file.stat(follow_symlinks=False).st_mtime_ns for file in files}
    for path in sorted(written, key=written.__getitem__)[:surplus]:
        Path(path).unlink(missing_ok=True)


MAX_HEADER_BYTES = 16 * 2**20
"""Maximum header size; an adapter of a 100-layer model has about half a megabyte."""

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes per number; adapters have no complex numbers and no types of fewer than 8 bits."""


@dataclass(frozen=True)
class Header:
    """A parsed header; `raw` is its bytes including the length field."""

    raw: bytes
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: frozenset[str]
    data_bytes: int

    @property
    def file_bytes(self) -> int:
        return len(self.raw) + self.data_bytes


def read_header(stream: BinaryIO, name: str) -> Header:
    """Reads the header from the start of the stream and stops at the first tensor byte.

    Raises `FtlabError` with the file name if the header is invalid or its tensors have gaps.
    """
    start = stream.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
        _refuse(name, "it does not begin with a header")
    text = stream.read(length)
    if len(text) < length:
        _refuse(name, "it ends within its header")
    tensors = _object(text, name)
    notes = tensors.pop("__metadata__", None)
    is_text_map = isinstance(notes, dict) and all(isinstance(x, str) for x in notes.values())
    if notes is not None and not is_text_map:
        _refuse(name, "its __metadata__ holds more than texts")
    if not tensors:
        raise FtlabError(f"{name} holds no tensors; save the adapter again after training.")
    shapes, end = {}, 0
    for tensor, shape, begin, stop in sorted(_entries(tensors, name), key=lambda entry: entry[2:]):
        if begin != end:
            _refuse(name, f"the bytes of {tensor[:80]!r} do not follow the tensor before")
        shapes[tensor], end = shape, stop
    dtypes = frozenset(entry["dtype"] for entry in tensors.values())
    return Header(start + text, shapes, dtypes, end)


def _object(text: bytes, name: str) -> dict[str, Any]:
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError):
        _refuse(name, "its header is no JSON")
    if not isinstance(header, dict) or text[:1] != b"{":
        _refuse(name, "its header is no JSON object")
    return header


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Rejects duplicate keys, because readers differ in which of the two entries they use."""
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name stands twice")
    return result


def _entries(
    tensors: Mapping[str, Any], name: str
) -> Iterator[tuple[str, tuple[int, ...], int, int]]:
    """`(name, shape, first byte, byte after the last)` of every tensor."""
    for tensor, entry in tensors.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            _refuse(name, f"the entry of {tensor[:80]!r} is not dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
            _refuse(name, f"{tensor[:80]!r} has the unknown dtype {str(dtype)[:40]!r}")
        if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
            _refuse(name, f"shape or data_offsets of {tensor[:80]!r} are no sizes")
        if offsets[1] - offsets[0] != math.prod(shape) * DTYPE_BYTES[dtype]:
            _refuse(name, f"{tensor[:80]!r} has another number of bytes than its shape needs")
        yield tensor, tuple(shape), offsets[0], offsets[1]


def _are_sizes(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 16
        and all(type(size) is int and 0 <= size < 2**48 for size in value)
    )


def _refuse(name: str, why: str) -> NoReturn:
    raise FtlabError(
        f"{name} is no valid safetensors file: {why}. Copy it again, or save it again with "
        "safe_serialization=True."
    ) from None
