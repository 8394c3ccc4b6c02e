"""Whose question is next: each visitor's in turn, so that nobody waits behind all of another's."""

from __future__ import annotations

import itertools
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ftlab.errors import FtlabError

_SECONDS_BETWEEN_LOOKS = 0.1
_MOST_REMEMBERED = 1_000


class NobodyWaits(FtlabError):
    """Whoever asked has gone."""


@dataclass(frozen=True)
class Visitor:
    """Who asks. `name` is what a stranger cannot make many of, as the address or the login;
    `session` tells the pages of one name apart."""

    name: str = ""
    session: str = ""


@dataclass(frozen=True)
class Places:
    """How many questions are answered at once, and how many may be waiting.

    One name never holds all places. A session holds one; several sessions of a name may be several
    people behind one address.
    """

    all: int = 3
    of_a_name: int = 2
    waiting: int = 32
    waiting_of_a_name: int = 16
    waiting_of_a_session: int = 4


@dataclass(frozen=True)
class _Ticket:
    visitor: Visitor
    number: int
    has_left: Callable[[], bool]


class Turns:
    """Hands out places; the next goes to the name that had its turn longest ago, and of that name
    to the session that had."""

    def __init__(self, places: Places | None = None) -> None:
        self._places = places or Places()
        self._changed = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._held: list[Visitor] = []
        self._numbers = itertools.count(1)
        self._last: OrderedDict[str | Visitor, int] = OrderedDict()

    @contextmanager
    def turn(self, visitor: Visitor, has_left: Callable[[], bool]) -> Iterator[None]:
        """Waits for a place, and holds it.

        Raises `NobodyWaits` if the visitor leaves meanwhile, `FtlabError` where too many wait.
        """
        with self._changed:
            ticket = self._queue(visitor, has_left)
            try:
                while ticket is not self._next():
                    if has_left():
                        raise NobodyWaits("Nobody waits for the prediction any more.")
                    self._changed.wait(_SECONDS_BETWEEN_LOOKS)
                self._held.append(visitor)
                self._note(visitor)
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._held.remove(visitor)
                self._changed.notify_all()

    def _queue(self, visitor: Visitor, has_left: Callable[[], bool]) -> _Ticket:
        places = self._places
        others = [ticket.visitor for ticket in self._waiting if not ticket.has_left()]
        same_name = sum(other.name == visitor.name for other in others)
        if (
            len(others) >= places.waiting
            or same_name >= places.waiting_of_a_name
            or others.count(visitor) >= places.waiting_of_a_session
        ):
            raise FtlabError(
                "Too many predictions are being waited for; try again when some have been given."
            )
        ticket = _Ticket(visitor, next(self._numbers), has_left)
        self._waiting.append(ticket)
        return ticket

    def _next(self) -> _Ticket | None:
        """The ticket that may go now, if any."""
        if len(self._held) >= self._places.all:
            return None
        by_name = Counter(visitor.name for visitor in self._held)
        ready = [
            ticket
            for ticket in self._waiting
            if ticket.visitor not in self._held
            and not ticket.has_left()
            and by_name[ticket.visitor.name] < self._places.of_a_name
        ]
        return min(ready, key=self._order, default=None)

    def _order(self, ticket: _Ticket) -> tuple[int, int, int]:
        visitor = ticket.visitor
        return self._last.get(visitor.name, 0), self._last.get(visitor, 0), ticket.number

    def _note(self, visitor: Visitor) -> None:
        now = next(self._numbers)
        for key in (visitor.name, visitor):
            self._last.pop(key, None)
            self._last[key] = now
        while len(self._last) > _MOST_REMEMBERED:
            self._last.popitem(last=False)
