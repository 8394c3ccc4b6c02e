"""Reads the small files of a model's folder under a limit: who made the folder is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ftlab.reading import read_plain

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
