"""How much one visitor may ask for: failed log-ins, requests, and connections held open.

All of it lies in the memory of one process and is forgotten in time. A visitor is a person who has
logged in, or else the address that a request comes from.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import gradio as gr

from ftlab.recent import Recent
from ftlab.turns import Visitor
from ftlab.words import plural

_MOST_REMEMBERED = 10_000
"""Visitors. One who is forgotten begins anew, as one who has not come for a while does."""


def visitor_at(address: str) -> str:
    """The visitor at an address; all addresses of an IPv6 network of 64 bits are one.

    One machine is given the whole of such a network, so it could come from a new address each time.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))


def visitor_of(request: gr.Request) -> Visitor:
    """The visitor of a page: by login, else by address, and by session."""
    client = request.client
    name = request.username or visitor_at(client.host if client else "")
    return Visitor(str(name), str(request.session_hash))


class Attempts:
    """Failed log-ins of late, by the visitor who made them."""

    def __init__(self, most: int = 10, most_in_all: int = 200, seconds: float = 300.0) -> None:
        self._seconds = seconds
        self._most, self._most_in_all = most, most_in_all
        self._failed: defaultdict[str, deque[float]] = defaultdict(deque)
        self._all: deque[float] = deque()

    def wait(self, visitor: str) -> float:
        """Seconds until the visitor may try again; 0.0: now.

        Where too many fail at all, whoever has failed waits, and nobody else does: so others cannot
        lock out somebody who knows the password.
        """
        now = time.monotonic()
        self._forget(now)
        own = self._failed.get(visitor)
        if not own:
            return 0.0
        if len(own) >= self._most or len(self._all) >= self._most_in_all:
            return self._seconds - (now - own[0])
        return 0.0

    def begin(self, visitor: str) -> None:
        """Counts one as failed until it is `forgive`n, so that many at once are not let through."""
        now = time.monotonic()
        self._failed[visitor].append(now)
        self._all.append(now)

    def forgive(self, visitor: str) -> None:
        """The last one from there was the right password."""
        if self._failed.get(visitor):
            self._failed[visitor].pop()
            self._all.pop()

    def _forget(self, now: float) -> None:
        while self._all and now - self._all[0] > self._seconds:
            self._all.popleft()
        for visitor, times in list(self._failed.items()):  # as few as `_all` holds
            while times and now - times[0] > self._seconds:
                times.popleft()
            if not times:
                del self._failed[visitor]


class Rate:
    """Requests a visitor: `burst` at once, then `per_second` of them, as a bucket that refills.

    Safe to ask from several threads.
    """

    def __init__(self, per_second: float = 20.0, burst: float = 400.0) -> None:
        self._per_second, self._burst = per_second, burst
        self._left: Recent[str, tuple[float, float]] = Recent(_MOST_REMEMBERED)
        self._turn = threading.Lock()

    def wait(self, visitor: str, cost: float = 1.0) -> float:
        """Seconds until the visitor's next request of that cost is answered; 0.0: it is now.

        None costs more than all that a visitor may have at once.
        """
        cost = min(cost, self._burst)
        with self._turn:
            now = time.monotonic()
            left, since = self._left.get(visitor, (self._burst, now))
            left = min(self._burst, left + (now - since) * self._per_second)
            short = cost - left
            self._left[visitor] = (left if short > 0 else left - cost, now)
        return max(0.0, short / self._per_second)


class OpenRequests:
    """Requests that are being answered, by visitor; a stream of events is one while it lasts."""

    def __init__(self, most: int = 200) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    def are_too_many(self, visitor: str) -> bool:
        return self._open[visitor] >= self._most

    @contextmanager
    def one_more(self, visitor: str) -> Iterator[None]:
        self._open[visitor] += 1
        try:
            yield
        finally:
            self._open[visitor] -= 1
            if not self._open[visitor]:
                del self._open[visitor]


class OneAtATime:
    """Turns of a visitor's: of what takes the app long, one is done and the others wait."""

    def __init__(self) -> None:
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def turn(self, visitor: str) -> AsyncIterator[None]:
        lock, wanted = self._turns.get(visitor, (asyncio.Lock(), 0))
        self._turns[visitor] = lock, wanted + 1
        try:
            async with lock:
                yield
        finally:
            lock, wanted = self._turns.pop(visitor)
            if wanted > 1:
                self._turns[visitor] = lock, wanted - 1


def when(seconds: float) -> str:
    """When to try again, as in "in 5 minutes"."""
    if seconds < 60:
        return f"in {plural(max(1, math.ceil(seconds)), 'second')}"
    return f"in {plural(math.ceil(seconds / 60), 'minute')}"
