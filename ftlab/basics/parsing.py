"""Parses a JSON record into its type, with error messages for users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import read_plain

Record = TypeVar("Record")

MAX_RECORD_BYTES = 16 * 2**20
"""Size limit of a JSON record; one of 64 variants has about 10 kB."""


def read_record(adapter: TypeAdapter[Record], file: Path) -> Record | None:
    """The record in the file, `None` if the file does not exist; raises as `parse_json`."""
    try:
        return parse_json(adapter, read_plain(file, MAX_RECORD_BYTES), file.name)
    except FileNotFoundError:
        return None


def parse_json(adapter: TypeAdapter[Record], data: bytes, name: str) -> Record:
    """The record in `data`; raises `FtlabError` with the file and its first invalid field."""
    try:
        record = adapter.validate_json(data)
        json.loads(data, parse_int=_in_bounds)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:80] or "the file"
        raise FtlabError(f"{name} cannot be read: {where}: {first['msg']}.") from None
    except (ValueError, RecursionError):
        raise FtlabError(f"{name} cannot be read: a number in it is that is too large.") from None
    return record


def _in_bounds(digits: str) -> int:
    """Rejects numbers beyond 64 bits: they would make tables and divisions fail later."""
    if len(digits) > 20 or abs(int(digits)) >= 2**63:
        raise ValueError(digits)
    return int(digits)
