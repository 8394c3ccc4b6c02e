"""Reading a record's JSON into its type, with an error that a person can use."""

from __future__ import annotations

from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from ftlab.errors import FtlabError

Record = TypeVar("Record")


def parse_json(adapter: TypeAdapter[Record], data: bytes, name: str) -> Record:
    """The record in `data`; raises `FtlabError` that names the file and its first wrong field."""
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise FtlabError(f"{name} cannot be read: {where}: {first['msg']}.") from None
