"""Validates request bodies and handler calls before any handler runs.

Gradio reads a whole body and parses it on its event loop, so a long body would block all visitors.
It also fetches a URL for any client that sends one in place of an uploaded file.

The page itself sends only existing handlers, its session, and values of each component's type. Any
other request was written by hand: it is answered with one sentence and never reaches a handler.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

import gradio as gr
from gradio.routes import API_PREFIX
from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException
from starlette.types import Message, Receive

from ftlab.basics.files import inner_values, is_deeper

NO_FETCH = "This app fetches no address for a visitor; upload the file itself."

MAX_VALUES = 20_000
_MAX_DEPTH = 32
_PARSED_AT_ONCE = 16 * 1024
"""Up to so many characters, parsing is faster than a switch to a thread."""


@dataclass(frozen=True)
class Refusal:
    """The response to a refused request: HTTP status and sentence.

    `seconds` is the time after which a retry can succeed; 0.0 if waiting does not help.
    """

    status: int
    sentence: str
    seconds: float = 0.0


@dataclass(frozen=True)
class BodyLimits:
    """Limits of one body: its size in bytes, and the timeout for reading it whole, in seconds."""

    max_bytes: int
    seconds: float = 30.0

    def refusal(self, headers: Headers) -> Refusal | None:
        """Returns why a body with these headers is not read; `None` if it is read."""
        if "transfer-encoding" in headers:
            return Refusal(411, "A request says how long it is (Content-Length); send it whole.")
        return self._too_long() if announced_bytes(headers) > self.max_bytes else None

    async def read(self, receive: Receive) -> bytes | Refusal | None:
        """Returns the whole body; `None` if the client has disconnected."""
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
    """True if the headers announce a body."""
    return announced_bytes(headers) > 0 or "transfer-encoding" in headers


def announced_bytes(headers: Headers) -> int:
    """Returns the Content-Length, or 0; the server has checked that it is a number."""
    return int(headers.get("content-length", "0")[:20])


def text_of(body: bytes) -> str | Refusal:
    """Decodes a JSON body; only UTF-8 is accepted, so that all checks see what the parser sees."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return Refusal(400, "A request is JSON in UTF-8.") if "\0" in text else text


def unbroken(receive: Receive, seconds: float = 30.0) -> Receive:
    """Wraps the stream of an upload; raises `MultiPartException` on a disconnect or a long pause.

    On this error gradio's reader deletes the partial file; otherwise it would keep it.
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
    """Replays the body once, then forwards later messages, such as a disconnect."""
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
    """Returns why the JSON body is refused; `judge` makes the last check (`None`: invalid JSON).

    The caller has checked that it has at most `MAX_VALUES` values (`json_values`).
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
    """True if the value holds a URL in place of an uploaded file."""
    open_values = [value]
    while open_values:
        item = open_values.pop()
        is_file = isinstance(item, dict) and "path" in item and "meta" in item
        if is_file and str(item["path"]).strip().lower().startswith(("http:", "https:")):
            return True
        open_values.extend(inner_values(item))
    return False


WRONG_CALL = "This request is not one that the page makes; reload the page and try again."
UNKNOWN_NAME = "This app has no endpoint of that name; its API page lists those that it has."
NO_SUCH_PART = "There is no such part of this page."

_LARGEST = 2**63  # limit of integers in the JSON that gradio writes
_Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,100}$")]
_Choice = str | int | float | bool | None


class _Named(BaseModel):
    """A call of an endpoint by its name. Fields that are not listed are ignored."""

    model_config = ConfigDict(strict=True)

    data: list[Any]
    session_hash: _Id | None = None
    oauth_token: str | None = None


class _Event(_Named):
    """A call of a handler by its number, or of an endpoint by the address."""

    fn_index: int | None = None
    trigger_id: int | None = None
    event_id: _Id | None = None
    simple_format: bool | None = None
    batched: Literal[False] | None = None  # for batch handlers; this page has none


class _Cancel(BaseModel):
    model_config = ConfigDict(strict=True)

    session_hash: _Id
    fn_index: int
    event_id: _Id


class _Reset(BaseModel):
    model_config = ConfigDict(strict=True)

    event_id: _Id


_BODIES: dict[str, type[BaseModel]] = {"cancel": _Cancel, "reset": _Reset}
_ROUTES = (
    "queue", "run", "api", "call", "component_server", "cancel", "reset", "stream",
)  # fmt: skip
_UNUSED = ("component_server", "stream")  # no component here has server functions or streams


class WrongCall(gr.Error):
    """A request that the page never makes. `reason` is for the log and quotes no input."""

    def __init__(self, reason: str) -> None:
        super().__init__(WRONG_CALL, print_exception=False)
        self.reason = reason


@dataclass(frozen=True)
class PageCalls:
    """The valid calls of one page.

    `handlers` are the numbers of its events with a handler. `endpoints` maps each API name to its
    parameters, `True` for required ones. `parts` are the ids of its components.
    """

    handlers: frozenset[int]
    endpoints: Mapping[str, Mapping[str, bool]]
    parts: frozenset[int]

    def wrong_call(self, path: str, body: Any) -> str:
        """Returns why a POST with that JSON value is not a valid call; "" if it is valid.

        Checks which handler is called, not its inputs. Paths that call no handler are valid.
        """
        route, name = _route(path)
        if route in _UNUSED:
            return NO_SUCH_PART
        if (route, name) == ("queue", "join"):
            return self._wrong_event(body, needs_session=True)
        if route in ("run", "api"):
            named = not isinstance(body, Mapping) or body.get("fn_index") is None
            if named and name not in self.endpoints:
                return UNKNOWN_NAME
            return self._wrong_event(body, needs_session=False)
        if route == "call":
            return self._wrong_named(name, body)
        if route in _BODIES:
            return "" if _parsed(_BODIES[route], body) else WRONG_CALL
        return ""

    def _wrong_event(self, body: Any, needs_session: bool) -> str:
        event = _parsed(_Event, body)
        if event is None or (needs_session and None in (event.session_hash, event.fn_index)):
            return WRONG_CALL
        known = event.fn_index is None or event.fn_index in self.handlers
        known &= event.trigger_id is None or event.trigger_id in self.parts
        return "" if known else WRONG_CALL

    def _wrong_named(self, name: str, body: Any) -> str:
        version, _, rest = name.partition("/")
        name = rest if version == "v2" else name
        if name not in self.endpoints:
            return UNKNOWN_NAME
        if version != "v2":
            return "" if _parsed(_Named, body) else WRONG_CALL
        if not isinstance(body, Mapping):
            return WRONG_CALL
        parameters = self.endpoints[name]
        if any(key not in parameters for key in body):
            return f"'/{name}' takes {', '.join(parameters)}, and nothing else."
        missing = [key for key, required in parameters.items() if required and key not in body]
        return f"'/{name}' needs a value for '{missing[0]}'." if missing else ""


def _route(path: str) -> tuple[str, str]:
    """Splits a path into gradio's route and the rest; two empty strings for any other path."""
    if not path.startswith(f"{API_PREFIX}/"):
        return "", ""
    route, _, name = path.removeprefix(f"{API_PREFIX}/").strip("/").partition("/")
    return route, name


def page_calls(page: gr.Blocks) -> PageCalls:
    """Returns the valid calls of a page that is already built."""
    endpoints = page.get_api_info()["named_endpoints"]
    return PageCalls(
        frozenset(number for number, function in page.fns.items() if function.fn is not None),
        {
            name.strip("/"): {
                part["parameter_name"]: not part["parameter_has_default"]
                for part in endpoint["parameters"]
            }
            for name, endpoint in endpoints.items()
        },
        frozenset((page._id, *page.blocks)),  # load events name the page itself
    )


def check_inputs(parts: Sequence[Any], values: Sequence[Any]) -> None:
    """Raises `WrongCall` for values that these components cannot send.

    Choices of a list and uploaded files are not checked here: gradio's components check them.
    """
    if len(values) < len(parts):
        raise WrongCall(f"{len(values)} inputs instead of {len(parts)}")
    for part, value in zip(parts, values, strict=False):
        if isinstance(part, gr.State):  # gradio ignores the sent value and uses the server's
            continue
        if not _is_plain(value):
            raise WrongCall(f"{type(part).__name__}: no value of JSON that is kept")
        several = isinstance(part, gr.Dropdown) and part.multiselect and isinstance(value, list)
        given = _CHOICES if several else next((v for k, v in _GIVEN if isinstance(part, k)), None)
        try:
            if given is not None:
                given.validate_python(value, strict=True)
        except ValidationError:
            raise WrongCall(f"{type(part).__name__}: {type(value).__name__}") from None


def names_of_event(data: Any) -> Mapping[str, Any]:
    """Returns the event's data by name; empty if it is a single value, as from a checkbox.

    Raises `WrongCall` for data that no event of the page sends.
    """
    if not _is_plain(data):
        raise WrongCall(f"event: {type(data).__name__}")
    return data if isinstance(data, Mapping) else {}


def _is_plain(value: Any) -> bool:
    """True if all text can be encoded as UTF-8 and all numbers can be written as JSON."""
    open_values = [value]
    while open_values:
        item = open_values.pop()
        if isinstance(item, str):
            if not (item.isascii() or _is_writable(item)):
                return False
        elif isinstance(item, int):
            if not -_LARGEST <= item < _LARGEST:
                return False
        elif isinstance(item, float):
            if not math.isfinite(item):
                return False
        elif isinstance(item, Mapping):
            open_values += [*item, *item.values()]
        elif isinstance(item, list):
            open_values += item
    return True


def _is_writable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


_Body = TypeVar("_Body", bound=BaseModel)


def _parsed(kind: type[_Body], body: Any) -> _Body | None:
    try:
        return kind.model_validate(body)
    except ValidationError:
        return None


_CHOICES: TypeAdapter[Any] = TypeAdapter(list[_Choice])
_GIVEN: tuple[tuple[type, TypeAdapter[Any]], ...] = (
    (gr.Textbox, TypeAdapter(str | None)),
    (gr.Number, TypeAdapter(int | float | None)),
    (gr.Slider, TypeAdapter(float)),
    (gr.Checkbox, TypeAdapter(bool)),
    (gr.Dropdown, TypeAdapter(_Choice)),
    (gr.Radio, TypeAdapter(_Choice)),
    (gr.CheckboxGroup, _CHOICES),
)
"""For each component class, the type of the values that the component sends."""
