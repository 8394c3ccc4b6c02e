"""The files of a model's folder: read under limits, hashed once, headers read without torch.

Hashes of large files are kept: what is known lies in the cache folder, a small file for each file
that was read, so that several processes never wait for each other there: an entry is written whole
or not at all. An entry that cannot be read, or is about another state of the file, is as good as
none.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the length N of the
header, little endian; N bytes of JSON, tensor names to dtype, shape and byte range; then the bytes
themselves, one tensor after the other without gaps.
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
"""The most that is read of a configuration, an index of weights or a chat template."""


def read_model_text(path: Path) -> str:
    """The text of the file, which may be a link, as in the Hub's cache.

    Raises `OSError` or `ValueError` where it cannot be read; one that is too large stays unread.
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
"""Of some 300 bytes each; the weights of a model of 70 billion parameters are 30 files."""

_MAX_ENTRY_BYTES = 20_000
_SETTLED_SECONDS = 2.0
"""The coarsest clock of a file system: what is written twice within it keeps its time."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


def hashes_folder() -> Path:
    return cache_folder() / "hashes"


def file_sha256(path: Path) -> bytes:
    """The file's digest, 32 bytes; no byte of it is read where it is known already.

    Raises `OSError` as `open` does, and for nothing that is wrong with the cache folder.
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
    # A file that changed while it was read, or so shortly before that another change might leave
    # its times as they are, is hashed anew the next time.
    settled = began - before.st_ctime > _SETTLED_SECONDS
    if settled and _state(before) == _state(after):
        _keep(entry, real, _state(before), digest)
    return digest


def _state(status: os.stat_result) -> list[int]:
    """What tells this content of a file from another.

    Every write sets the time of change (ctime) too, which no program can set back, as it can the
    time of modification. The device's number is left out: that of a network disk or a container's
    may be another one after each start of the machine.
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
    """A folder that cannot be written keeps nothing."""
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
"""An adapter of a 100-layer model has a header of about half a megabyte."""

DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4,
    "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of one number; complex numbers and those of fewer than 8 bits are in no adapter."""


@dataclass(frozen=True)
class Header:
    """`raw` are the header's own bytes with their length in front; the rest is of the tensors."""

    raw: bytes
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: frozenset[str]
    data_bytes: int

    @property
    def file_bytes(self) -> int:
        return len(self.raw) + self.data_bytes


def read_header(stream: BinaryIO, name: str) -> Header:
    """Reads the header from the start of the stream and leaves it at the tensors' bytes.

    Raises `FtlabError` that names the file for anything but a header whose tensors lie one after
    the other from the first byte on.
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
    if notes is not None and not _are_texts(notes):
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
    """Readers differ in which of two entries of one name they take, so there must be one."""
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


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _refuse(name: str, why: str) -> NoReturn:
    raise FtlabError(
        f"{name} is no valid safetensors file: {why}. Copy it again, or save it again with "
        "safe_serialization=True."
    ) from None
