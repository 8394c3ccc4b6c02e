"""The header of a safetensors file, read strictly and without torch.

The format (https://github.com/huggingface/safetensors#format): 8 bytes with the length N of the
header, little endian; N bytes of JSON, tensor names to dtype, shape and byte range; then the bytes
themselves, one tensor after the other without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from ftlab.errors import FtlabError

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
