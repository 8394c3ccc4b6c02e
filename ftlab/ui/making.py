"""Files that are made because a visitor asks: one after the other, and only so many a visitor.

Drawing a card takes some 80 MB and a report a second of one core, so many at once would take the
machine from everybody else.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from ftlab.errors import FtlabError
from ftlab.ui.events import QUIET
from ftlab.ui.visitors import Rate, visitor_of, when


def one_at_a_time(name: str) -> dict[str, Any]:
    """For events of that name: one is answered at a time, and those that wait hold no thread."""
    return QUIET | {"concurrency_limit": 1, "concurrency_id": name}


class FilesAVisitor:
    """How many files one visitor may ask for: some at once, then one every few seconds.

    So nobody waits long behind the files of another.
    """

    def __init__(self, at_once: int = 10, per_second: float = 0.2) -> None:
        self._rate = Rate(per_second, at_once)

    def check(self, request: gr.Request) -> None:
        """Counts one more file; raises `FtlabError` where the visitor has to wait for it."""
        seconds = self._rate.wait(visitor_of(request).name)
        if seconds:
            raise FtlabError(f"You have asked for many files; ask for the next {when(seconds)}.")
