"""Reading a record's JSON into its type, with an error that a person can use."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from ftlab.errors import FtlabError

Record = TypeVar("Record")


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
