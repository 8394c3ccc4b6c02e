"""A fair queue: visitors are served round-robin, so that one visitor's requests block no other."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ftlab.basics.errors import FtlabError
from ftlab.basics.recent import Recent

_MOST_REMEMBERED = 1_000
_SECONDS_OF_PATIENCE = 2.0


@dataclass(frozen=True)
class Visitor:
    """The sender of a request. `name` is an IP address or a login, of which one person cannot
    easily have many; `session` distinguishes the open pages of one name."""

    name: str = ""
    session: str = ""


NOBODY = Visitor()
"""The visitor of a command line, which has no others."""


@dataclass(frozen=True)
class Places:
    """Limits on how many requests run at once (one of a session) and how many may wait.

    Several sessions of one name may be several people behind one address.
    """

    all: int = 1
    of_a_name: int = 1
    waiting: int = 32
    waiting_of_a_name: int = 16
    waiting_of_a_session: int = 4


class VisitorQueue:
    """A queue in which threads wait on behalf of visitors.

    The next turn goes to the name that was served longest ago, then to its session that was served
    longest ago, then to that session's first request. A place that was not polled for two seconds
    is skipped.
    """

    def __init__(self, places: Places) -> None:
        self._places = places
        self._changed = threading.Condition()
        self._numbers = itertools.count(1)
        self._waiting: list[Place] = []
        self._held: list[Place] = []
        self._last: Recent[str | Visitor, int] = Recent(_MOST_REMEMBERED)

    @contextmanager
    def line(self, visitor: Visitor) -> Iterator[Place]:
        """A place in the queue until the end of the block, which also ends its turn.

        Raises `FtlabError` if too many wait.
        """
        with self._changed:
            self._check_room(visitor)
            place = Place(self, visitor, next(self._numbers))
            self._waiting.append(place)
        try:
            yield place
        finally:
            with self._changed:
                (self._held if place in self._held else self._waiting).remove(place)
                self._changed.notify_all()

    def take(self, place: Place, seconds: float) -> bool:
        """Waits up to `seconds` for the turn of that place; returns whether it has come."""
        with self._changed:
            place.asked = math.inf
            try:
                return self._changed.wait_for(lambda: self._is_taken(place), seconds)
            finally:
                place.asked = time.monotonic()

    def _check_room(self, visitor: Visitor) -> None:
        since = time.monotonic() - _SECONDS_OF_PATIENCE
        others = [place.visitor for place in self._waiting if place.asked > since]
        same_name = sum(other.name == visitor.name for other in others)
        if (
            len(others) >= self._places.waiting
            or same_name >= self._places.waiting_of_a_name
            or others.count(visitor) >= self._places.waiting_of_a_session
        ):
            raise FtlabError("Too many are waiting for this; try again when some have left.")

    def _is_taken(self, place: Place) -> bool:
        if place is self._next():
            self._waiting.remove(place)
            self._held.append(place)
            self._note(place.visitor)
        return place in self._held

    def _next(self) -> Place | None:
        """The place that may go now, if any."""
        if len(self._held) >= self._places.all:
            return None
        since = time.monotonic() - _SECONDS_OF_PATIENCE
        held = [place.visitor for place in self._held]
        by_name = Counter(visitor.name for visitor in held)
        ready = [
            place
            for place in self._waiting
            if place.asked > since
            and place.visitor not in held
            and by_name[place.visitor.name] < self._places.of_a_name
        ]
        return min(ready, key=self._order, default=None)

    def _order(self, place: Place) -> tuple[int, int, int]:
        visitor = place.visitor
        return self._last.get(visitor.name, 0), self._last.get(visitor, 0), place.number

    def _note(self, visitor: Visitor) -> None:
        now = next(self._numbers)
        for key in (visitor.name, visitor):
            self._last[key] = now


class Place:
    """A place in a `VisitorQueue`; `asked` is when it was last polled for its turn."""

    def __init__(self, turns: VisitorQueue, visitor: Visitor, number: int) -> None:
        self._turns = turns
        self.visitor = visitor
        self.number = number
        self.asked = time.monotonic()

    def has_come(self, seconds: float) -> bool:
        """Waits up to `seconds` for the turn; returns whether it has come."""
        return self._turns.take(self, seconds)
