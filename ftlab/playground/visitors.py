"""Whose prompt the playground answers next: visitors take turns, however many one of them sends."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_SECONDS_OF_PATIENCE = 2.0


class VisitorTurns:
    """One turn that threads take for visitors.

    It goes to the waiting visitor whose last turn is longest ago; among those who had none since
    they came, to the one who came first. A visitor's own prompts are answered in their order. Who
    has not asked whether the turn has come for two seconds holds up nobody.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, str] = {}
        self._asked: dict[int, float] = {}
        self._holder: int | None = None
        self._last_turn: dict[str, int] = {}

    @contextmanager
    def line(self, visitor: str) -> Iterator[Place]:
        """A place in line, until the end of the block; whoever has the turn then gives it up."""
        with self._changed:
            place = Place(self, next(self._numbers))
            self._waiting[place.number] = visitor
        try:
            yield place
        finally:
            self._leave(place.number, visitor)

    def take(self, number: int, seconds: float) -> bool:
        """Waits for the turn of that place; whether it has come within so many seconds."""
        with self._changed:
            self._asked[number] = math.inf
            try:
                return self._changed.wait_for(lambda: self._taken(number), seconds)
            finally:
                self._asked[number] = time.monotonic()

    def _taken(self, number: int) -> bool:
        if self._holder is None and number == self._next():
            self._holder = number
            self._last_turn[self._waiting[number]] = next(self._numbers)
        return self._holder == number

    def _next(self) -> int:
        """The place whose turn it is; to be called for one that asks."""
        since = time.monotonic() - _SECONDS_OF_PATIENCE
        return min(
            (number for number, asked in self._asked.items() if asked > since),
            key=lambda number: (self._last_turn.get(self._waiting[number], 0), number),
        )

    def _leave(self, number: int, visitor: str) -> None:
        with self._changed:
            del self._waiting[number]
            self._asked.pop(number, None)
            if self._holder == number:
                self._holder = None
            if visitor not in self._waiting.values():
                self._last_turn.pop(visitor, None)
            self._changed.notify_all()


class Place:
    """A place in the line of `VisitorTurns`."""

    def __init__(self, turns: VisitorTurns, number: int) -> None:
        self._turns = turns
        self.number = number

    def has_come(self, seconds: float) -> bool:
        """Waits so many seconds for the turn; whether this place has it."""
        return self._turns.take(self.number, seconds)
