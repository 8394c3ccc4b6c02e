"""The code of a tutorial: files to write, and commands to type."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.documents import ROOT

CSV_TUTORIAL = ROOT / "docs" / "tutorial-csv.md"
_BLOCK = re.compile(r'^```(python title="(?P<file>[\w.]+)"|sh)\n(?P<text>.*?)^```', re.S | re.M)


@dataclass(frozen=True)
class Block:
    """A block of code: the content of `file`, or with "" for it, commands, one a line."""

    file: str
    text: str

    @property
    def commands(self) -> list[str]:
        return [] if self.file else [line for line in self.text.splitlines() if line.strip()]


def blocks(text: str) -> list[Block]:
    """Those of a tutorial, in order."""
    return [Block(found["file"] or "", found["text"]) for found in _BLOCK.finditer(text)]
