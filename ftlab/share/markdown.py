"""Markdown: tables, and text that is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(plain(cell) for cell in line) + " |" for line in lines)


def plain(value: Any) -> str:
    """Escapes text to one line without Markdown tables, tags, links, images or code fences."""
    text = re.sub(r"\s+", " ", str(value)).strip().replace("`", "'").replace("<", "&lt;")
    text = re.sub(r"[\\|\[\]]", r"\\\g<0>", text)
    # A bare URL becomes a link too, unless a zero-width space breaks it.
    return re.sub(r"(?i)(:(?=//)|www(?=\.))", "\\1\u200b", text)
