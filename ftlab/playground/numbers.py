"""Whether an adapter's weights are numbers: a training that went astray leaves NaN or infinity."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

from ftlab.models.safetensors_header import Header

_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}
"""The bits of the exponent: all of them are set in NaN and infinity, and in nothing else."""

_BYTES_AT_ONCE = 2**24


def no_numbers(file: Path, header: Header) -> str:
    """The name of the first tensor that holds NaN or infinity; "" if none does."""
    import numpy as np

    with file.open("rb") as stream:
        for name, dtype, start, length in _tensors(header):
            kind, exponent = _EXPONENTS[dtype]
            stream.seek(start)
            while length:
                data = stream.read(min(length, _BYTES_AT_ONCE))
                if not data:
                    return ""
                length -= len(data)
                if ((np.frombuffer(data, kind) & exponent) == exponent).any():
                    return name
    return ""


def _tensors(header: Header) -> Iterator[tuple[str, str, int, int]]:
    """`(name, dtype, first byte in the file, bytes)` of each tensor of floats that has any."""
    for name, entry in json.loads(header.raw[8:]).items():
        if name != "__metadata__" and entry["dtype"] in _EXPONENTS and math.prod(entry["shape"]):
            begin, end = entry["data_offsets"]
            yield name, entry["dtype"], len(header.raw) + begin, end - begin
