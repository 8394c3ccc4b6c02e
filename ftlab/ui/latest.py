"""What a page asked for last, where answers take their time."""

from __future__ import annotations


class Latest:
    """Tells an answer on its way that the same page has asked for a newer one."""

    def __init__(self) -> None:
        self._newest: dict[str, int] = {}

    def begin(self, session: str) -> int:
        self._newest[session] = self._newest.get(session, 0) + 1
        return self._newest[session]

    def is_newest(self, session: str, number: int) -> bool:
        return self._newest.get(session) == number
