"""The bodies of requests: how much of one is read, how long, and what may stand in it.

gradio reads a whole body and parses it on its event loop, so a long one would hold up everybody;
and it fetches an address for whoever names one in place of an uploaded file.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.types import Message, Receive

from ftlab.json_size import inner_values, is_deeper

NO_FETCH = "This app fetches no address for a visitor; upload the file itself."

MAX_VALUES = 20_000
_MAX_DEPTH = 32
_PARSED_AT_ONCE = 16 * 1024
"""Characters that take less time to parse than to hand to a thread."""


@dataclass(frozen=True)
class Refusal:
    """An answer instead of the app's: its HTTP status and the sentence.

    `seconds`: after how long the same would be answered, if that is what is wrong.
    """

    status: int
    sentence: str
    seconds: float = 0.0


@dataclass(frozen=True)
class BodyLimits:
    """Of one body: its bytes, and the seconds in which all of it has to be there."""

    max_bytes: int
    seconds: float = 30.0

    def refusal(self, headers: Headers) -> Refusal | None:
        """Why a body with that head is not read; `None` if it is."""
        if "transfer-encoding" in headers:
            return Refusal(411, "A request says how long it is (Content-Length); send it whole.")
        return self._too_long() if announced_bytes(headers) > self.max_bytes else None

    async def read(self, receive: Receive) -> bytes | Refusal | None:
        """The whole body; `None` where whoever sent it has gone."""
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.seconds):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > self.max_bytes:
                        return self._too_long()
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            return Refusal(
                408, f"The request was not there after {self.seconds:g} s; send it again."
            )

    def _too_long(self) -> Refusal:
        return Refusal(413, f"A request takes {self.max_bytes:,} bytes at most; send less.")


def has_body(headers: Headers) -> bool:
    """Whether the head says that a body follows."""
    return announced_bytes(headers) > 0 or "transfer-encoding" in headers


def announced_bytes(headers: Headers) -> int:
    """The length that the head gives its body; the server has checked that it is a number."""
    return int(headers.get("content-length", "0")[:20])


def text_of(body: bytes) -> str | Refusal:
    """The text of a body of JSON, which no UTF-16 is: what is counted in it is what is parsed."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return Refusal(400, "A request is JSON in UTF-8.") if "\0" in text else text


def unbroken(receive: Receive, seconds: float = 30.0) -> Receive:
    """The parts of an upload. One that breaks off, or stops for so many seconds, is an error of its
    form: then gradio's reader removes the file that it has begun, which it else would keep.
    """
    is_whole = False

    async def next_part() -> Message:
        nonlocal is_whole
        if is_whole:
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), seconds)
        except TimeoutError:
            raise MultiPartException(
                f"The upload stopped for {seconds:g} s; send it again."
            ) from None
        if message["type"] != "http.request":
            raise MultiPartException("The upload ended before it was whole; send it again.")
        is_whole = not message.get("more_body", False)
        return message

    return next_part


def given_again(body: bytes, receive: Receive) -> Receive:
    """Gives the body once more, then what comes after it (that the reader has gone, say)."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def json_refusal(
    text: str, judge: Callable[[Any], Refusal | None] = lambda value: None
) -> Refusal | None:
    """Why the JSON is not answered, of which `judge` has the last word.

    It holds `MAX_VALUES` at most (`json_values`). What is no JSON is judged as `None`.
    """
    if len(text) <= _PARSED_AT_ONCE:
        return _refusal(text, judge)
    return await asyncio.to_thread(_refusal, text, judge)


def _refusal(text: str, judge: Callable[[Any], Refusal | None]) -> Refusal | None:
    try:
        value = json.loads(text)
    except RecursionError:
        return _TOO_DEEP
    except ValueError:
        value = None
    if is_deeper(value, _MAX_DEPTH):
        return _TOO_DEEP
    return Refusal(403, NO_FETCH) if names_address(value) else judge(value)


_TOO_DEEP = Refusal(413, f"A request nests {_MAX_DEPTH} levels at most; send a flatter one.")
TOO_MANY = Refusal(413, f"A request holds {MAX_VALUES:,} values at most; send fewer.")


def names_address(value: Any) -> bool:
    """Whether, in place of an uploaded file, stands an address to fetch it from."""
    open_values = [value]
    while open_values:
        item = open_values.pop()
        is_file = isinstance(item, dict) and "path" in item and "meta" in item
        if is_file and str(item["path"]).strip().lower().startswith(("http:", "https:")):
            return True
        open_values.extend(inner_values(item))
    return False
