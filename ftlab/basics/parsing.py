"""Reading a record's JSON into its type, with an error that a person can use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import read_plain

Record = TypeVar("Record")

MAX_RECORD_BYTES = 16 * 2**20
"""Of a JSON record: one of 64 variants has some 10 kB."""


def read_record(adapter: TypeAdapter[Record], file: Path) -> Record | None:
    """The record in the file, `None` where there is no such file; raises as `parse_json`."""
    try:
        return parse_json(adapter, read_plain(file, MAX_RECORD_BYTES), file.name)
    except FileNotFoundError:
        return None


def parse_json(adapter: TypeAdapter[Record], data: bytes, name: str) -> Record:
    """The record in `data`; raises `FtlabError` that names the file and its first wrong field."""
    try:
        record = adapter.validate_json(data)
        json.loads(data, parse_int=_in_bounds)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80] or "the file"
        raise FtlabError(f"{name} cannot be read: {where}: {first['msg']}.") from None
    except (ValueError, RecursionError):
        raise FtlabError(f"{name} cannot be read: a number in it is beyond all bounds.") from None
    return record


def _in_bounds(digits: str) -> int:
    """Numbers beyond 64 bits make tables and divisions fail, far from where they were read."""
    if len(digits) > 20 or abs(int(digits)) >= 2**63:
        raise ValueError(digits)
    return int(digits)
