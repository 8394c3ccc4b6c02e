"""What no request gets past, and how much one visitor may ask for.

A page on another site can send requests to an app on loopback, by its address or by a name that it
has turned round to 127.0.0.1 (DNS rebinding); gradio keeps it from reading the answer, not from
asking. Behind a login, a stranger's request is answered from its head: nothing of it is read.

How much a visitor asked for lies in the memory of one process and is forgotten in time. A visitor
is a person who has logged in, or else the address that a request comes from.

Somebody can open connections and never finish a request on them. When the process has no file
descriptor left, nobody else is answered, and each attempt prints a traceback. So connections that
ask for nothing are ended after a while, and sooner when their room is needed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import re
import resource
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import gradio as gr
import h11
from gradio.routes import API_PREFIX, App, ORJSONResponse
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ftlab.basics.files import json_values
from ftlab.basics.log import RepeatedRefusals
from ftlab.basics.recent import Recent
from ftlab.basics.visitor_turns import Visitor
from ftlab.basics.words import plural
from ftlab.jobs.inputs import DEMO_REFUSAL
from ftlab.tabs.requests import (
    MAX_VALUES,
    NO_FETCH,
    TOO_MANY,
    BodyLimits,
    PageCalls,
    Refusal,
    announced_bytes,
    given_again,
    has_body,
    json_refusal,
    text_of,
    unbroken,
)

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


_LOGIN, _LOGOUT, _HEALTH = "/login", "/logout", "/healthz"
_LOGIN_BODY = BodyLimits(16 * 1024)
_UPLOAD_BODY = BodyLimits(250 * 2**20)
"""All files of one upload; `max_file_size` bounds each."""

_UPLOAD = f"{API_PREFIX}/upload"
_FETCHES = tuple(f"{API_PREFIX}/{name}" for name in ("proxy=", "file=http", "file/http"))
_UNUSED = (
    "/monitoring",
    *(
        f"{API_PREFIX}/{name}"
        for name in (
            "deep_link", "dev/", "vibe", "undo-vibe", "mcp", "process_recording", "run-history",
            "profiling", "stream/", "component_server", "custom_component",
        )
    ),
)  # fmt: skip
"""Routes of gradio's that this page does without (`deep_link` writes a visitor's state to disk)."""

_CALLS = tuple(
    f"{API_PREFIX}/{name}" for name in ("queue/join", "call/", "run/", "api/", "cancel", "reset")
)
"""What takes a JSON body. Nothing else of gradio's that this page uses does."""

_STATIC = (
    "/assets/", "/static/", "/svelte/", "/favicon.ico", "/robots.txt", "/manifest.json",
    "/pwa_icon", "/theme.css", f"{API_PREFIX}/theme.css",
)  # fmt: skip
"""Files of gradio's own, the same for all."""

_FOR_THE_LOGIN_PAGE = (
    "/",
    _LOGIN,
    "/config",
    _HEALTH,
    *(f"{API_PREFIX}/{name}" for name in ("user", "token", "login_check", "app_id")),
    f"{API_PREFIX}/startup-events",
)
"""What is answered without a session where one is needed; it tells a stranger nothing."""

_COSTS = dict.fromkeys(("/", "/config", f"{API_PREFIX}/info", f"{API_PREFIX}/openapi.json"), 10.0)
"""Requests that take the app as long as ten others."""

_BYTES_AS_ONE, _VALUES_AS_ONE = 10_000, 200
"""So much of a body takes the app as long as one request more."""

_LONGEST_PATH = 300  # characters, in the log

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Gate:
    """The rules of one app.

    `any_host`: it is asked for by other names than this machine's own, as behind a login or in a
    public demo. `framed`: another site shows the page in a frame, as the Hub shows a Space.
    """

    any_host: bool = False
    may_upload: bool = True
    needs_login: bool = False
    framed: bool = False
    body: BodyLimits = field(default_factory=lambda: BodyLimits(4 * 2**20))

    def refusal(
        self, method: str, path: str, headers: Headers, user: str | None = None
    ) -> Refusal | None:
        """Why the request is not answered, from its head alone; `None` if it is let through.

        `user`: who has logged in, where that is needed.
        """
        host = headers.get("host", "")
        if not self.any_host and not is_this_machine(host):
            return Refusal(
                403,
                f"This app answers only at this machine's own address, not as '{host[:80]}'; to "
                "serve it to others, start it with --auth.",
            )
        if not is_same_site(headers) and not self._is_visit(method, path, headers):
            return Refusal(403, "This app answers no page of another site; open its own page.")
        clean = plain_path(path)
        if self.needs_login and user is None and not _is_open(method, clean):
            return Refusal(401, "Log in first: this takes a session.")
        if clean.startswith(_FETCHES):
            return Refusal(403, NO_FETCH)
        if clean.startswith(_UNUSED):
            return Refusal(404, "There is no such page here.")
        if clean == _UPLOAD and not self.may_upload:
            return Refusal(403, DEMO_REFUSAL)
        if clean == _LOGOUT and method != "POST":
            return Refusal(405, "Logging out is a POST, so that no link or picture does it.")
        return self._refused_body(method, clean, headers)

    def _is_visit(self, method: str, path: str, headers: Headers) -> bool:
        """Whether somebody follows a link to the page, or sees it in a frame where it may be."""
        return (
            method in ("GET", "HEAD")
            and path == "/"
            and headers.get("sec-fetch-mode") == "navigate"
            and (headers.get("sec-fetch-dest") == "document" or self.framed)
        )

    def _refused_body(self, method: str, clean: str, headers: Headers) -> Refusal | None:
        if method in ("GET", "HEAD", "OPTIONS"):
            unasked = Refusal(400, "A request that asks for something has no body.")
            return unasked if has_body(headers) else None
        if method != "POST" or not (
            clean in (_UPLOAD, _LOGIN, _LOGOUT) or clean.startswith(_CALLS)
        ):
            return Refusal(405, "There is nothing here to send that to.")
        if clean == _LOGIN:
            return _LOGIN_BODY.refusal(headers)
        return (_UPLOAD_BODY if clean == _UPLOAD else self.body).refusal(headers)


def _is_open(method: str, clean: str) -> bool:
    """Whether a stranger's request is let through to an app with a login."""
    if method == "POST":
        return clean == _LOGIN
    return clean in _FOR_THE_LOGIN_PAGE or clean.startswith(_STATIC)


def plain_path(path: str) -> str:
    """The path as the rules know it: decoded, in small letters, without a slash at its end."""
    return unquote(path).rstrip("/").lower() or "/"


def is_this_machine(host: str) -> bool:
    """Whether a Host header names loopback: localhost, 127.0.0.1, [::1], with a port or without."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found["name"].lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def is_same_site(headers: Headers) -> bool:
    """Whether a request comes from the app's own page, or from no page, as a program's does.

    A browser says so itself, in a header that no script can write; an older one, or one that was
    given a plain http address, names the page's origin.
    """
    fetch_site = headers.get("sec-fetch-site")
    if fetch_site is not None:
        return fetch_site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True  # a program's, or that of a browser too old to say where it comes from
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False


def user_of(app: App, headers: Headers) -> str | None:
    """Who is logged in by gradio's own cookie; `None`: nobody."""
    cookies = cookie_parser(headers.get("cookie", ""))
    for kind in ("access-token", "access-token-unsecure"):
        token = cookies.get(f"{kind}-{app.cookie_id}")
        if token in app.tokens:
            return str(app.tokens[token])
    return None


@dataclass(frozen=True)
class Limits:
    """What one visitor may do. `rate` is `None` where whoever reaches the app is its operator."""

    attempts: Attempts = field(default_factory=Attempts)
    open_requests: OpenRequests = field(default_factory=OpenRequests)
    turns: OneAtATime = field(default_factory=OneAtATime)
    rate: Rate | None = field(default_factory=Rate)

    def refusal(self, visitor: str, clean: str, headers: Headers) -> Refusal | None:
        """Why the visitor's request has to wait; `None` if it need not."""
        if clean == _HEALTH or clean.startswith(_STATIC):
            return None
        if self.open_requests.are_too_many(visitor):
            return Refusal(429, "Too many of your requests are open; close some pages.", 60.0)
        cost = _COSTS.get(clean, 1.0)
        if clean.startswith(_CALLS):
            cost += announced_bytes(headers) / _BYTES_AS_ONE
        return self.charge(visitor, cost)

    @asynccontextmanager
    async def taken(self, visitor: str, clean: str, headers: Headers) -> AsyncIterator[None]:
        """While the request is answered; what takes long waits for the visitor's others of it."""
        with self.open_requests.one_more(visitor):
            is_long = clean.startswith(_CALLS) and announced_bytes(headers) > _BYTES_AS_ONE
            if clean in _COSTS or is_long:
                async with self.turns.turn(visitor):
                    yield
            else:
                yield

    def charge(self, visitor: str, cost: float) -> Refusal | None:
        """Why the visitor has to wait with what costs as much as so many plain requests."""
        seconds = self.rate.wait(visitor, cost) if self.rate else 0.0
        if not seconds:
            return None
        return Refusal(429, f"That was too much at once; try again {when(seconds)}.", seconds)


class GatedApp(App):
    """Gradio's server with the gate before everything else, its answers to preflights too."""

    def __init__(
        self,
        gate: Gate,
        limits: Limits,
        calls: PageCalls,
        routes: Sequence[Route] = (),
        middleware: Sequence[Middleware] = (),
    ) -> None:
        """`calls`: what the page can be asked for. `middleware` sees what the gate lets through."""
        # As gradio makes it, but without FastAPI's list of routes, which asks for no login.
        super().__init__(
            routes=list(routes),
            middleware=list(middleware),
            openapi_url=None,
            default_response_class=ORJSONResponse,
        )
        self._gate = gate
        self._limits = limits
        self._calls = calls
        self._refusals = RepeatedRefusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # gradio serves none
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await super().__call__(scope, receive, send)
        else:
            with suppress(h11.LocalProtocolError):  # it sent what is no HTTP, and was told so
                await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, headers, clean = scope["method"], Headers(scope=scope), plain_path(scope["path"])
        address = visitor_at((scope.get("client") or ("unknown", 0))[0])
        user = user_of(self, headers)
        visitor = user or address
        refused = self._gate.refusal(method, scope["path"], headers, user)
        refused = refused or self._limits.refusal(visitor, clean, headers)
        if refused is not None:
            await self._refuse(refused, clean, scope, receive, send)
            return
        async with self._limits.taken(visitor, clean, headers):
            if method != "POST":
                await super().__call__(scope, receive, send)
            elif clean == _UPLOAD:
                await super().__call__(scope, unbroken(receive), send)
            elif clean == _LOGIN:
                await self._log_in(address, scope, receive, send)
            elif clean == _LOGOUT:  # a GET for gradio, which a link or a picture could send as well
                await super().__call__({**scope, "method": "GET"}, receive, send)
            else:
                await self._call(visitor, clean, scope, receive, send)

    async def _call(
        self, visitor: str, clean: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = await self._gate.body.read(receive)
        if body is None:  # whoever sent it has gone
            return
        refused = body if isinstance(body, Refusal) else await self._judged(visitor, scope, body)
        if refused is not None:
            await self._refuse(refused, clean, scope, receive, send)
        elif isinstance(body, bytes):
            await super().__call__(scope, given_again(body, receive), send)

    async def _judged(self, visitor: str, scope: Scope, body: bytes) -> Refusal | None:
        text = text_of(body)
        if isinstance(text, Refusal):
            return text
        values = json_values(text, MAX_VALUES)
        if values > MAX_VALUES:
            return TOO_MANY
        charged = self._limits.charge(visitor, values / _VALUES_AS_ONE)
        return charged or await json_refusal(text, partial(self._wrong, scope["path"]))

    def _wrong(self, path: str, value: Any) -> Refusal | None:
        sentence = self._calls.wrong_call(path, value)
        return Refusal(400, sentence) if sentence else None

    async def _log_in(self, address: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets nobody guess on: after some failures an address waits for minutes."""
        seconds = self._limits.attempts.wait(address)
        if seconds:
            sentence = f"Too many log-ins have failed; try again {when(seconds)}."
            await self._refuse(Refusal(429, sentence, seconds), _LOGIN, scope, receive, send)
            return
        body = await _LOGIN_BODY.read(receive)
        if isinstance(body, Refusal):
            await self._refuse(body, _LOGIN, scope, receive, send)
        if not isinstance(body, bytes):
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self._limits.attempts.forgive(address)
            await send(message)

        self._limits.attempts.begin(address)
        await super().__call__(scope, given_again(body, receive), watched)

    async def _refuse(
        self, refused: Refusal, clean: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Sends the sentence, where the page's own script looks for it.

        The connection is closed where a body was not read, so that it never is.
        """
        self._refusals.note("request refused", status=refused.status, **asked(scope))
        headers = {"Cache-Control": "no-store"}
        if has_body(Headers(scope=scope)):
            headers["Connection"] = "close"
        if refused.seconds:
            headers["Retry-After"] = str(math.ceil(refused.seconds))
        if clean.startswith(_CALLS):
            answer: Response = JSONResponse({"detail": refused.sentence}, refused.status, headers)
        else:
            answer = PlainTextResponse(refused.sentence, refused.status, headers)
        await answer(scope, receive, send)


def asked(scope: Scope) -> dict[str, str]:
    """Who asked for what; without the query, which may hold a token."""
    client = scope.get("client")
    return {
        "method": str(scope["method"]),
        "path": str(scope["path"])[:_LONGEST_PATH],
        "client": str(client[0]) if client else "",
    }


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
