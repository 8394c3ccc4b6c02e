"""What no request gets past, whichever of gradio's routes it asks for.

A page on another site can send requests to an app on loopback, by its address or by a name that it
has turned round to 127.0.0.1 (DNS rebinding); gradio keeps it from reading the answer, not from
asking. And gradio fetches an address for whoever names one in place of an uploaded file.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from gradio.routes import API_PREFIX
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftlab.access import DEMO_CLOSED
from ftlab.ui.accounts import Attempts

MAX_BODY_BYTES = 16 * 2**20
"""Of what is not an upload: a form, with room for pasted text."""

MAX_LOGIN_BYTES = 16 * 1024

_UPLOADS = tuple(f"{API_PREFIX}/{name}" for name in ("upload", "process_recording"))
_FETCHES = tuple(f"{API_PREFIX}/{name}" for name in ("proxy=", "file=http", "file/http"))
_NO_FETCH = "This app fetches no address for a visitor; upload the file itself."
_LOGIN = "/login"
_UNUSED = (
    "/monitoring",
    *(f"{API_PREFIX}/{name}" for name in ("deep_link", "dev/", "vibe", "undo-vibe", "mcp")),
)
"""Routes of gradio's that this page does without (`deep_link` writes a visitor's state to disk)."""


@dataclass(frozen=True)
class Refusal:
    """An answer instead of the app's: its HTTP status and the sentence."""

    status: int
    sentence: str


@dataclass(frozen=True)
class Gate:
    """The rules of one app. `any_host`: it is asked for by other names than this machine's own,
    as behind a login or in a public demo."""

    any_host: bool = False
    may_upload: bool = True

    def refusal(self, method: str, path: str, headers: Headers) -> Refusal | None:
        """Why the request is not answered, from its head alone; `None` if it is let through."""
        host = headers.get("host", "")
        if not self.any_host and not is_this_machine(host):
            return Refusal(
                403,
                f"This app answers only at this machine's own address, not as '{host[:80]}'; to "
                "serve it to others, start it with --auth.",
            )
        if not is_same_site(headers):
            return Refusal(403, "This app answers no page of another site; open its own page.")
        clean = unquote(path).rstrip("/").lower()
        if clean.startswith(_FETCHES):
            return Refusal(403, _NO_FETCH)
        if clean.startswith(_UNUSED):
            return Refusal(404, "There is no such page here.")
        if clean in _UPLOADS and method != "GET" and not self.may_upload:
            return Refusal(403, DEMO_CLOSED)
        return None


def is_this_machine(host: str) -> bool:
    """Whether a Host header names loopback: localhost, 127.0.0.1, [::1], with a port or without."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or name.endswith(".localhost"):
            return "@" not in host
        return "@" not in host and ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_same_site(headers: Headers) -> bool:
    """Whether a request comes from the app's own page, or from no page, as a program's does.

    A browser says so itself, in a header that no script can write; an older one, or one that was
    given a plain http address, names the page's origin.
    """
    origin = headers.get("origin")
    if origin is None:
        return True  # a page of another site cannot read what is answered to these
    fetch_site = headers.get("sec-fetch-site")
    if fetch_site is not None:
        return fetch_site in ("same-origin", "none")
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False


def names_address(body: bytes) -> bool:
    """Whether a JSON body gives, in place of an uploaded file, an address to fetch it from."""
    plain = b"\\u" not in body and b"\0" not in body  # no escapes, no UTF-16
    if plain and b"FileData" not in body:  # most bodies are not looked into
        return False
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False  # gradio refuses it as well
    return any(
        str(item["path"]).strip().lower().startswith(("http:", "https:"))
        for item in _objects(value)
        if "path" in item and "meta" in item
    )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    open_values = [value]
    while open_values:
        item = open_values.pop()
        if isinstance(item, dict):
            yield item
            open_values.extend(item.values())
        elif isinstance(item, list):
            open_values.extend(item)


class GateMiddleware:
    """Puts a gate before an app."""

    def __init__(self, app: ASGIApp, gate: Gate, attempts: Attempts) -> None:
        self._app = app
        self._gate = gate
        self._attempts = attempts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":  # gradio serves none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        refused = self._gate.refusal(method, path, Headers(scope=scope))
        if refused is None and method == "POST":
            if path.rstrip("/") == _LOGIN:
                await self._log_in(scope, receive, send)
                return
            if path.rstrip("/") not in _UPLOADS:
                body = await _read_body(receive)
                if body is None:
                    refused = Refusal(413, f"A request takes {MAX_BODY_BYTES:,} bytes at most.")
                elif names_address(body):
                    refused = Refusal(403, _NO_FETCH)
                else:
                    receive = _again(body, receive)
        if refused is not None:
            response = PlainTextResponse(refused.sentence, refused.status)
            await response(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _log_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets nobody guess on: after some failures an address waits for minutes."""
        address = (scope.get("client") or ("unknown", 0))[0]
        body = await _read_body(receive, MAX_LOGIN_BYTES)
        if body is None:
            await PlainTextResponse("No log-in is that long.", 413)(scope, receive, send)
            return
        if self._attempts.are_too_many(address):
            minutes = round(self._attempts.seconds / 60)
            sentence = f"Too many log-ins have failed; try again in {minutes} minutes."
            await PlainTextResponse(sentence, 429)(scope, receive, send)
            return

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] < 400:
                self._attempts.forgive(address)
            await send(message)

        self._attempts.begin(address)
        await self._app(scope, _again(body, receive), watched)


async def _read_body(receive: Receive, most: int = MAX_BODY_BYTES) -> bytes | None:
    """The whole body; `None` if it is too long, or whoever sent it has gone."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body once more, then what comes after it (that the reader has gone, say)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
