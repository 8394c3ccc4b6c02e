"""How many connections the app holds, and for how long one that asks for nothing.

Somebody can open connections and never finish a request on them. When the process has no file
descriptor left, nobody else is answered, and each attempt prints a traceback. So connections that
ask for nothing are ended after a while, and sooner when their room is needed.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from functools import partial
from typing import Any

import gradio as gr
import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 15.0
"""In which the head of a request has to arrive, once its connection is made."""

MOST = 2_000
_FOR_FILES = 256  # descriptors that the app itself needs, of those that its process may have
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"retry-after: 10\r\nconnection: close\r\ncontent-length: 80\r\n\r\n"
    b"This app answers as many people as it can just now; try again in some seconds.\r\n"
)


def bound_connections(page: gr.Blocks, most: int | None = None) -> None:
    """Holds so many connections at most of a page that is served; by itself as many as there are
    file descriptors for."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # a line each for what is no HTTP
    config = page.server.config
    config.http_protocol_class = partial(BoundProtocol, most=most or _room())  # type: ignore[assignment]


def _room() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(16, min(MOST, soft - _FOR_FILES))


class BoundProtocol(H11Protocol):
    """A connection that is ended where the head of a request does not come in time, or where
    another one needs its room before that."""

    def __init__(self, *args: Any, most: int, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._most = most
        self._late: asyncio.TimerHandle | None = None
        self._since = self.loop.time()

    @property
    def asks_nothing(self) -> bool:
        """Whether no request of it is being read or answered."""
        is_answered = self.cycle is None or self.cycle.response_complete
        return is_answered and self.conn.their_state is h11.IDLE

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._most and not self._take_room():
            transport.write(_FULL)
            transport.close()
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def _take_room(self) -> bool:
        """Ends the oldest connection that asks for nothing; whether there is room afterwards."""
        others = [
            other
            for other in self.connections
            if isinstance(other, BoundProtocol)
            and other is not self
            and not other.transport.is_closing()
        ]
        if len(others) < self._most:
            return True
        idle = [other for other in others if other.asks_nothing]
        if not idle:
            return False
        min(idle, key=lambda other: other._since).transport.abort()
        return True

    def _watch(self) -> None:
        if not self.asks_nothing:
            self._forget()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self._end)

    def _end(self) -> None:
        self._late = None
        if self.asks_nothing and not self.transport.is_closing():
            self.transport.close()

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
