"""Cells that a spreadsheet shows and never runs."""

from __future__ import annotations

from typing import Any
from unicodedata import normalize

_BEGINS_A_FORMULA = "=+-@"
_LINE_BREAKS = ("\t", "\r", "\n")


def inert(value: Any) -> Any:
    """The value; a text that a spreadsheet would take for a formula begins with an apostrophe.

    Spaces and unseen characters before it are passed over, as some spreadsheets do, and wide or
    small forms are taken for the plain ones, as they are in Japanese and Chinese.
    """
    if not isinstance(value, str):
        return value
    seen = (char for char in value if char.isprintable() and not char.isspace())
    first = normalize("NFKC", next(seen, ""))[:1]
    runs = first != "" and first in _BEGINS_A_FORMULA
    return f"'{value}" if runs or value.startswith(_LINE_BREAKS) else value
