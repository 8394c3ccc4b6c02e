"""Errors that come again and again, as when somebody sends the same wrong thing in a loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ftlab.operations.log import note_error

FULL_SECONDS = 300.0
"""How long an error of one kind at one place is counted after it was written with its stack."""


class RepeatedErrors:
    """Notes the first error of a kind in full and counts the next ones, which the next full note
    tells as `repeated`. Safe to call from several threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kinds: dict[tuple[str, ...], tuple[float, int]] = {}

    def note(
        self, event: str, error: BaseException, inputs: Any = None, *, place: str, **facts: Any
    ) -> None:
        """As `note_error`, at that place of the app: a handler, a kind of request."""
        kind = (event, place, type(error).__name__)
        with self._lock:
            now = self._clock()
            since, count = self._kinds.get(kind, (now - FULL_SECONDS, 0))
            if now - since < FULL_SECONDS:
                self._kinds[kind] = (since, count + 1)
                return
            self._kinds[kind] = (now, 0)
        note_error(event, error, inputs, **facts, **({"repeated": count} if count else {}))
