"""Cells that a spreadsheet shows and never runs."""

from __future__ import annotations

from typing import Any

_FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""The wide ones are taken for the others by a spreadsheet set to Japanese or Chinese."""

_UNSEEN = " \u00a0\u200b\ufeff\x00"


def inert(value: Any) -> Any:
    """The value; a text that a spreadsheet would take for a formula begins with an apostrophe."""
    if isinstance(value, str) and value.lstrip(_UNSEEN).startswith(_FORMULA):
        return f"'{value}"
    return value
