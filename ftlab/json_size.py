"""How much JSON from elsewhere holds: its values, told before it is parsed, and its levels.

A hundred megabytes of `{},` become gigabytes of objects, and Python's parser holds all threads of
the process until it is done.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""The end may be missing: else a search would begin again at every quotation mark."""

_BEFORE_A_VALUE = "[{,:"


def json_values(text: str, enough: int) -> int:
    """At least as many as the JSON text has values; counted on to `enough` only."""
    if _marks(text) <= enough:  # most texts: in prose, those within strings are few as well
        return _marks(text)
    found = begin = 0
    for string in _STRING.finditer(text):
        found += _marks(text[begin : string.start()])
        begin = string.end()
        if found > enough:
            return found
    return found + _marks(text[begin:])


def _marks(text: str) -> int:
    return sum(map(text.count, _BEFORE_A_VALUE))


def inner_values(value: Any) -> Iterator[Any]:
    """What stands in a list, or under the names of an object; nothing in any other value."""
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def is_deeper(value: Any, levels: int) -> bool:
    """Whether lists and objects nest in more than so many levels; it is not followed further."""
    level = [value]
    for _ in range(levels):
        level = [inner for item in level for inner in inner_values(item)]
    return any(isinstance(item, dict | list) for item in level)
