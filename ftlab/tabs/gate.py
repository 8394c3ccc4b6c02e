"""Checks every request before gradio sees it, and limits rate and connections per visitor.

A page on another site can send requests to an app on loopback, by its address or by a name that it
resolves to 127.0.0.1 (DNS rebinding). Gradio prevents that page from reading the response, but not
from sending the request. With a login, a request without a session is refused from its headers
alone: its body is not read.

Usage counts are kept in the memory of one process and expire. A visitor is the logged-in user, or
else the client address.

A client can open connections and never finish a request on them. When the process has no file
descriptor left, no other client is served, and each attempt prints a traceback. Therefore idle
connections are closed after a timeout, and earlier when a new connection needs the slot.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
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
from weakref import WeakValueDictionary

import gradio as gr
import h11
from gradio.routes import API_PREFIX, App, ORJSONResponse
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request, cookie_parser
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from ftlab.basics.addresses import ip_of, is_this_machine
from ftlab.basics.bearer import NamedTokens
from ftlab.basics.files import json_values
from ftlab.basics.log import RepeatedRefusals
from ftlab.basics.people import People, Person, asked_by
from ftlab.basics.recent import Recent
from ftlab.basics.visitor_turns import Visitor
from ftlab.basics.words import plural
from ftlab.jobs.inputs import DEMO_REFUSAL
from ftlab.tabs.given_files import GivenFiles
from ftlab.tabs.hub_login import CALLBACK, LOGIN, HubLogin
from ftlab.tabs.hub_routes import hub_routes, hub_session, login_page, logout_page
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
from ftlab.tabs.sessions import Sessions

_MOST_REMEMBERED = 10_000
"""Maximum number of visitors in memory. A visitor who was dropped starts with a full allowance."""


def visitor_at(address: str) -> str:
    """Returns the visitor's name for an address; a whole IPv6 /64 network is one visitor.

    One machine usually gets a whole /64 network, so it could use a new address for each request.
    """
    ip = ip_of(address)
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return str(ip or address)


def visitor_of(request: gr.Request) -> Visitor:
    """Returns the visitor of a page: the login, else the address, and the session."""
    client = request.client
    name = request.username or visitor_at(client.host if client else "")
    return Visitor(str(name), str(request.session_hash))


class Attempts:
    """Recent failed logins per visitor."""

    def __init__(self, most: int = 10, most_in_all: int = 200, seconds: float = 300.0) -> None:
        self._seconds = seconds
        self._most, self._most_in_all = most, most_in_all
        self._failed: defaultdict[str, deque[float]] = defaultdict(deque)
        self._all: deque[float] = deque()

    def wait(self, visitor: str) -> float:
        """Returns the seconds until the visitor may try again; 0.0 means now.

        When there are too many failures in total, only visitors with failures of their own wait.
        So an attacker cannot lock out a user who knows the password.
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
        """Counts an attempt as failed until `forgive`, so that parallel attempts count at once."""
        now = time.monotonic()
        self._failed[visitor].append(now)
        self._all.append(now)

    def forgive(self, visitor: str) -> None:
        """Removes the visitor's last attempt: its password was right."""
        if self._failed.get(visitor):
            self._failed[visitor].pop()
            self._all.pop()

    def _forget(self, now: float) -> None:
        while self._all and now - self._all[0] > self._seconds:
            self._all.popleft()
        for visitor, times in list(self._failed.items()):  # no more entries than `_all`
            while times and now - times[0] > self._seconds:
                times.popleft()
            if not times:
                del self._failed[visitor]


class Rate:
    """Token bucket per visitor: `burst` requests at once, then `per_second`.

    Thread-safe.
    """

    def __init__(self, per_second: float = 20.0, burst: float = 400.0) -> None:
        self._per_second, self._burst = per_second, burst
        self._left: Recent[str, tuple[float, float]] = Recent(_MOST_REMEMBERED)
        self._turn = threading.Lock()

    def wait(self, visitor: str, cost: float = 1.0) -> float:
        """Charges the visitor; returns the seconds to wait, or 0.0 if the request is allowed.

        The cost is capped at `burst`. A request that has to wait is not charged.
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
    """Counts the open requests per visitor; an event stream counts as one while it is open."""

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
    """One lock per visitor: expensive requests of one visitor run one after another."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def turn(self, visitor: str) -> asyncio.Lock:
        """Returns the visitor's lock, which exists as long as a request holds or awaits it."""
        return self._locks.setdefault(visitor, asyncio.Lock())


def when(seconds: float) -> str:
    """Returns when to try again as text, for example "in 5 minutes"."""
    if seconds < 60:
        return f"in {plural(max(1, math.ceil(seconds)), 'second')}"
    return f"in {plural(math.ceil(seconds / 60), 'minute')}"


_LOGIN, _LOGOUT, _HEALTH = "/login", "/logout", "/healthz"
AGENTS = "/mcp"
_LOGIN_BODY = BodyLimits(16 * 1024)
_UPLOAD_BODY = BodyLimits(250 * 2**20)
"""Limit for all files of one upload together; `max_file_size` limits each file."""

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
"""Gradio routes that this page does not use (`deep_link` writes a visitor's state to disk)."""

_CALLS = tuple(
    f"{API_PREFIX}/{name}" for name in ("queue/join", "call/", "run/", "api/", "cancel", "reset")
)
"""The gradio routes of this page that take a JSON body."""

_STATIC = (
    "/assets/", "/static/", "/svelte/", "/favicon.ico", "/robots.txt", "/manifest.json",
    "/pwa_icon", "/theme.css", f"{API_PREFIX}/theme.css",
)  # fmt: skip
"""Static files of gradio, the same for all visitors."""

_FOR_THE_LOGIN_PAGE = (
    "/",
    _LOGIN,
    "/config",
    _HEALTH,
    *(f"{API_PREFIX}/{name}" for name in ("user", "token", "login_check", "app_id")),
    f"{API_PREFIX}/startup-events",
)
"""Routes served without a session even when a login is required; they reveal nothing private."""

_FOR_THE_HUB_LOGIN = ("/", LOGIN, CALLBACK, _LOGOUT, _HEALTH, f"{API_PREFIX}/startup-events")
"""The same for a login with Hugging Face, whose page at "/" is ours."""

_COSTS = dict.fromkeys(
    ("/", "/config", f"{API_PREFIX}/info", f"{API_PREFIX}/openapi.json", LOGIN, CALLBACK), 10.0
)
"""Routes that cost as much as ten plain requests."""

_BYTES_AS_ONE, _VALUES_AS_ONE = 10_000, 200
"""So many bytes or JSON values of a body cost as much as one plain request."""

_LONGEST_PATH = 300  # characters, in the log


@dataclass(frozen=True)
class Gate:
    """The access rules of one app.

    `any_host`: any Host header is accepted, as with a login or in a public demo. `framed`: another
    site may show the page in a frame, as the Hub shows a Space. `agents` answer at `/mcp`, with a
    token instead of a session; `None`: they are not served. `hub_login`: people log in with
    Hugging Face, without a password.
    """

    any_host: bool = False
    may_upload: bool = True
    needs_login: bool = False
    framed: bool = False
    agents: NamedTokens | None = None
    hub_login: bool = False
    body: BodyLimits = field(default_factory=lambda: BodyLimits(4 * 2**20))

    def refusal(
        self, method: str, path: str, headers: Headers, user: str | None = None
    ) -> Refusal | None:
        """Returns why the request is refused, from its headers alone; `None` if it is allowed.

        `user` is the logged-in user, or `None`.
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
        if clean == AGENTS and self.agents is not None:
            return self._refused_agent(method, headers)
        if self.needs_login and user is None and not self._is_open(method, clean):
            return Refusal(401, "Log in first: this takes a session.")
        if clean.startswith(_FETCHES):
            return Refusal(403, NO_FETCH)
        if clean.startswith(_UNUSED):
            return Refusal(404, "There is no such page here.")
        if clean == _UPLOAD and not self.may_upload:
            return Refusal(403, DEMO_REFUSAL)
        if clean == _LOGOUT and method != "POST" and not self.hub_login:
            return Refusal(405, "Logging out is a POST, so that no link or picture does it.")
        return self._refused_body(method, clean, headers)

    def _is_visit(self, method: str, path: str, headers: Headers) -> bool:
        """True if a user follows a link to the page, or sees it in a frame that is allowed.

        The Hub sends a user who logs in back by such a link.
        """
        return (
            method in ("GET", "HEAD")
            and (path == "/" or (path == CALLBACK and self.hub_login))
            and headers.get("sec-fetch-mode") == "navigate"
            and (headers.get("sec-fetch-dest") == "document" or self.framed)
        )

    def _is_open(self, method: str, clean: str) -> bool:
        """True if an app with a login serves the request without a session."""
        if method == "POST":
            return clean == (_LOGOUT if self.hub_login else _LOGIN)
        served = _FOR_THE_HUB_LOGIN if self.hub_login else _FOR_THE_LOGIN_PAGE
        return clean in served or clean.startswith(_STATIC)

    def _refused_agent(self, method: str, headers: Headers) -> Refusal | None:
        tokens = self.agents or NamedTokens("")
        if sentence := tokens.refusal(headers.get("authorization", "")):
            return Refusal(401, sentence)
        if method != "POST":  # nothing is told unasked, and no session is kept
            return Refusal(405, "Agents send their requests here by POST.")
        return self.body.refusal(headers)

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


def plain_path(path: str) -> str:
    """Returns the path in the form that the rules use: decoded, lower case, no trailing slash."""
    return unquote(path).rstrip("/").lower() or "/"


def is_same_site(headers: Headers) -> bool:
    """True if a request comes from the app's own page, or from a program instead of a page.

    Browsers report this in `Sec-Fetch-Site`, a header that no script can set. Older browsers, and
    pages on a plain http address, send only `Origin`.
    """
    fetch_site = headers.get("sec-fetch-site")
    if fetch_site is not None:
        return fetch_site in ("same-origin", "none")
    origin = headers.get("origin")
    if origin is None:
        return True  # from a program, or from a browser too old to send either header
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False


def user_of(app: App, headers: Headers) -> str | None:
    """Returns who has logged in, by password or with Hugging Face; `None` without a login."""
    cookies = cookie_parser(headers.get("cookie", ""))
    hub = getattr(app, "hub", None)
    if isinstance(hub, HubLogin):
        person = hub.person(cookies)
        return person.name if person else None
    for kind in ("access-token", "access-token-unsecure"):
        token = cookies.get(f"{kind}-{app.cookie_id}")
        if token in app.tokens:
            return str(app.tokens[token])
    return None


@dataclass(frozen=True)
class Limits:
    """The limits per visitor. `rate` is `None` if only the operator can reach the app."""

    attempts: Attempts = field(default_factory=Attempts)
    open_requests: OpenRequests = field(default_factory=OpenRequests)
    turns: OneAtATime = field(default_factory=OneAtATime)
    rate: Rate | None = field(default_factory=Rate)

    def refusal(self, visitor: str, clean: str, headers: Headers) -> Refusal | None:
        """Returns why the visitor's request has to wait; `None` if it does not."""
        if clean == _HEALTH or clean.startswith(_STATIC):
            return None
        if self.open_requests.are_too_many(visitor):
            return Refusal(429, "Too many of your requests are open; close some pages.", 60.0)
        cost = _COSTS.get(clean, 1.0)
        if clean.startswith(_CALLS):
            cost += announced_bytes(headers) / _BYTES_AS_ONE
        return self.charge(visitor, cost)

    def guess(self, visitor: str) -> Refusal | None:
        """Counts a wrong token like a failed log-in; returns a refusal after too many."""
        seconds = self.attempts.wait(visitor)
        if seconds:
            sentence = f"Too many tokens were wrong; try again {when(seconds)}."
            return Refusal(429, sentence, seconds)
        self.attempts.begin(visitor)
        return None

    @asynccontextmanager
    async def taken(self, visitor: str, clean: str, headers: Headers) -> AsyncIterator[None]:
        """Counts the request as open while it runs; expensive ones of a visitor run in sequence."""
        with self.open_requests.one_more(visitor):
            is_long = clean.startswith(_CALLS) and announced_bytes(headers) > _BYTES_AS_ONE
            if clean in _COSTS or is_long:
                async with self.turns.turn(visitor):
                    yield
            else:
                yield

    def charge(self, visitor: str, cost: float) -> Refusal | None:
        """Charges the visitor; returns a refusal if it has to wait. A plain request costs 1."""
        seconds = self.rate.wait(visitor, cost) if self.rate else 0.0
        if not seconds:
            return None
        return Refusal(429, f"That was too much at once; try again {when(seconds)}.", seconds)


class GatedApp(App):
    """Gradio's server with the gate before every route, CORS preflights included."""

    def __init__(
        self,
        gate: Gate,
        limits: Limits,
        calls: PageCalls,
        routes: Sequence[Route] = (),
        middleware: Sequence[Middleware] = (),
        people: People | None = None,
        given: GivenFiles | None = None,
        hub: HubLogin | None = None,
    ) -> None:
        """`calls` are the valid calls of the page. `middleware` sees only allowed requests.

        Every request is answered on behalf of one of the `people`; `given` knows their files. With
        `hub`, people log in with Hugging Face, and gradio itself asks for that too.
        """
        self.hub = hub
        # As gradio creates it, but without FastAPI's list of routes, which needs no login.
        super().__init__(
            auth_dependency=None if hub is None else self._user_of,
            routes=[*(() if hub is None else hub_routes(hub)), *routes],
            middleware=[*middleware, *(() if hub is None else [hub_session(hub)])],
            openapi_url=None,
            default_response_class=ORJSONResponse,
        )
        self.state_holder = Sessions()
        self._gate = gate
        self._limits = limits
        self._calls = calls
        self._people = people or People()
        self._given = given or GivenFiles()
        self._refusals = RepeatedRefusals()

    def _user_of(self, request: Request) -> str | None:
        return user_of(self, request.headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # gradio serves none
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await super().__call__(scope, receive, send)
        else:
            with suppress(h11.LocalProtocolError):  # the client sent invalid HTTP, already answered
                await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, headers, clean = scope["method"], Headers(scope=scope), plain_path(scope["path"])
        address = visitor_at((scope.get("client") or ("unknown", 0))[0])
        user = user_of(self, headers)
        visitor = user or address
        refused = self._gate.refusal(method, scope["path"], headers, user)
        if clean == AGENTS and refused is not None and refused.status == 401:
            refused = self._limits.guess(address) or refused
        refused = refused or self._limits.refusal(visitor, clean, headers)
        person = self._person(clean, headers, user)
        if refused is None and not self._given.may_have(person, scope["path"]):
            refused = Refusal(404, "There is no such file here.")
        if refused is not None:
            await self._refuse(refused, clean, scope, receive, send)
            return
        with asked_by(person):
            async with self._limits.taken(visitor, clean, headers):
                if self.hub is not None and (page := _hub_page(method, clean, headers, user)):
                    await page(scope, receive, send)
                elif method != "POST":
                    await super().__call__(scope, receive, send)
                elif clean == _UPLOAD:
                    await super().__call__(scope, unbroken(receive), self._given.watched(send))
                elif clean == _LOGIN:
                    await self._log_in(address, scope, receive, send)
                elif clean == _LOGOUT:  # gradio expects a GET, which any link or image could send
                    expected = scope if self.hub is not None else {**scope, "method": "GET"}
                    await super().__call__(expected, receive, send)
                else:
                    await self._call(visitor, clean, scope, receive, send)

    def _person(self, clean: str, headers: Headers, user: str | None) -> Person:
        tokens = self._gate.agents
        if clean == AGENTS and tokens:
            return self._people.agent(tokens.name(headers.get("authorization", "")))
        return self._people.person(user)

    async def _call(
        self, visitor: str, clean: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        body = await self._gate.body.read(receive)
        if body is None:  # the client has disconnected
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
        """Limits password guessing: after some failures an address waits for minutes."""
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
        """Sends the sentence in the form that the page's script expects.

        Closes the connection if there is a body, so that it is never read.
        """
        self._refusals.note("request refused", status=refused.status, **asked(scope))
        headers = {"Cache-Control": "no-store"}
        if has_body(Headers(scope=scope)):
            headers["Connection"] = "close"
        if clean == AGENTS and refused.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if refused.seconds:
            headers["Retry-After"] = str(math.ceil(refused.seconds))
        if clean.startswith(_CALLS):
            answer: Response = JSONResponse({"detail": refused.sentence}, refused.status, headers)
        else:
            answer = PlainTextResponse(refused.sentence, refused.status, headers)
        await answer(scope, receive, send)


def _hub_page(method: str, clean: str, headers: Headers, user: str | None) -> Response | None:
    """Returns the page of a login with Hugging Face that this address shows; `None` for others."""
    if method not in ("GET", "HEAD"):
        return None
    if clean == _LOGOUT:
        return logout_page()
    if clean == "/" and user is None:
        is_framed = headers.get("sec-fetch-dest") in ("iframe", "frame")
        return login_page("Log in to use this app.", framed=is_framed)
    return None


def asked(scope: Scope) -> dict[str, str]:
    """Returns method, path and client for the log, without the query, which may hold a token."""
    client = scope.get("client")
    return {
        "method": str(scope["method"]),
        "path": str(scope["path"])[:_LONGEST_PATH],
        "client": str(client[0]) if client else "",
    }


HEAD_SECONDS = 15.0
"""Timeout for the headers of a request on an open connection."""

MOST = 2_000
_FOR_FILES = 256  # file descriptors reserved for the app itself
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"retry-after: 10\r\nconnection: close\r\ncontent-length: 80\r\n\r\n"
    b"This app answers as many people as it can just now; try again in some seconds.\r\n"
)


def bound_connections(page: gr.Blocks, most: int | None = None) -> None:
    """Limits the open connections of a running page to `most`, or by its file descriptors."""
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it logs every invalid request
    config = page.server.config
    config.http_protocol_class = partial(BoundProtocol, most=most or _room())  # type: ignore[assignment]


def _room() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(16, min(MOST, soft - _FOR_FILES))


class BoundProtocol(H11Protocol):
    """A connection that is closed on a timeout, or when a new connection needs its slot."""

    def __init__(self, *args: Any, most: int, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._most = most
        self._late: asyncio.TimerHandle | None = None
        self._since = self.loop.time()

    @property
    def asks_nothing(self) -> bool:
        """True if no request on it is being read or answered."""
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
        """Closes the oldest idle connection if needed; returns whether there is a free slot."""
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
