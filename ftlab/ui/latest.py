"""What a page asked for last, where answers take their time."""

from __future__ import annotations

import threading

from ftlab.recent import Recent

_MOST_REMEMBERED = 10_000
"""Sessions; a page makes up its own name. What a forgotten one has asked for is not shown any more.
"""


class Latest:
    """Tells an answer on its way that the same page has asked for a newer one."""

    def __init__(self) -> None:
        self._newest: Recent[str, int] = Recent(_MOST_REMEMBERED)
        self._asked = 0
        self._turn = threading.Lock()

    def begin(self, session: str) -> int:
        """The number of what the session asks for now; no other one has it."""
        with self._turn:
            self._asked += 1
            self._newest[session] = self._asked
            return self._asked

    def is_newest(self, session: str, number: int) -> bool:
        return self._newest.get(session) == number
