"""What is noted again and again, as when somebody sends the same wrong thing in a loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ftlab.operations.log import note_error, note_refusal
from ftlab.recent import Recent

ERROR_SECONDS = 300.0
REFUSAL_SECONDS = 60.0
"""How long one of a kind is counted after the first was written."""

_MOST_KINDS = 10_000


class Repeats:
    """Tells the first of a kind from those that follow it. Safe to call from several threads."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: Recent[tuple[str, ...], tuple[float, int]] = Recent(_MOST_KINDS)

    def since_last(self, *kind: str) -> int | None:
        """How many of the kind came since one was told; `None`: this one is counted, not told."""
        with self._lock:
            now = self._clock()
            since, count = self._kinds.get(kind, (now - self._seconds, 0))
            is_told = now - since >= self._seconds
            self._kinds[kind] = (now, 0) if is_told else (since, count + 1)
            return count if is_told else None


class RepeatedErrors:
    """Notes the first error of a kind with its stack, and counts the next ones as `repeated`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._repeats = Repeats(ERROR_SECONDS, clock)

    def note(
        self, event: str, error: BaseException, inputs: Any = None, *, place: str, **facts: Any
    ) -> None:
        """As `note_error`, at that place of the app: a handler, a kind of request."""
        count = self._repeats.since_last(event, place, type(error).__name__)
        if count is not None:
            note_error(event, error, inputs, **facts, **_counted(count))


class RepeatedRefusals:
    """Notes the first refusal of a kind to a client, and counts the next ones as `repeated`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._repeats = Repeats(REFUSAL_SECONDS, clock)

    def note(self, event: str, *, client: str, status: int, **facts: Any) -> None:
        """As `note_refusal`, of an answer with that HTTP status."""
        count = self._repeats.since_last(event, client, str(status))
        if count is not None:
            note_refusal(event, status=status, client=client, **facts, **_counted(count))


def _counted(count: int) -> dict[str, int]:
    return {"repeated": count} if count else {}
