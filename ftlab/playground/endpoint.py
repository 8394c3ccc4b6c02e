"""An OpenAI-compatible endpoint on the playground's engine. Imports no torch.

Routes: /v1/models, /v1/models/NAME, /v1/chat/completions, /healthz. The worker process answers
chats of different adapters as rows of one batch (`ftlab.playground.chat_engine`).
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ftlab import __version__
from ftlab.basics.addresses import is_loopback, is_this_machine
from ftlab.basics.bearer import BearerToken
from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import WorkerEnded
from ftlab.playground.chat import ROWS_AT_ONCE, ChatUpdate, Offer
from ftlab.playground.chat_client import ChatClient
from ftlab.playground.openai_api import ApiError, Asked, Completion, read_chat, unknown_model
from ftlab.playground.panes import LineUp, line_up

KEY_VARIABLE = "FTLAB_API_KEY"
MOST_WAITING = 64
"""Chats that may wait besides those that are answered; the next one gets 429."""

MAX_BODY_BYTES = 4 * 2**20
BODY_SECONDS = 30.0
_MOST_CONNECTIONS = 512
"""Idle ones included; the next one gets 503. A process may open 1,024 files by default."""

_LONGEST_WAIT = 60  # seconds; the openai client takes no longer one from Retry-After


@dataclass(frozen=True)
class Served:
    """What an endpoint serves and to whom."""

    offer: Offer
    labels: Mapping[str, str]
    key: BearerToken
    most_waiting: int = MOST_WAITING

    @property
    def names(self) -> dict[str, str]:
        """The pane name for each name of a model: ids, and labels that only one source has."""
        counts = Counter(self.labels.values())
        by_label = {label: name for name, label in self.labels.items() if counts[label] == 1}
        return by_label | {name: name for name in self.offer.names}


def served(
    offer: Offer, runs_folder: Path, host: str, key: BearerToken, most_waiting: int = MOST_WAITING
) -> Served:
    """Checks what is to be served. Raises `FtlabError` for a source that cannot answer, and for a
    missing key at an address that others reach."""
    lineup: LineUp = line_up(offer.names, offer.model, runs_folder)
    for problem in lineup.problems.values():
        raise FtlabError(problem)
    if not key and not is_loopback(host):
        raise FtlabError(
            f"At {host or 'every address'} others reach the endpoint, so it needs a key: set "
            f"{key.variable} in the environment."
        )
    labels = {name: lineup.label(place, name) for place, name in enumerate(offer.names)}
    return Served(offer, labels, key, most_waiting)


def run(what: Served, client: ChatClient, host: str, port: int) -> None:
    """Serves until the process is told to end."""
    config = uvicorn.Config(
        Endpoint(what, client).app(),
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=3,
    )
    try:
        uvicorn.Server(config).run()
    finally:
        client.close()


class Endpoint:
    """The routes, and how many chats are open."""

    def __init__(self, what: Served, client: ChatClient) -> None:
        self._what, self._client = what, client
        self._names = what.names
        self._started = int(time.time())
        self._open = 0
        self._seconds = 1.0  # of an answer, a moving mean

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/healthz", self._health),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ],
            middleware=[Middleware(Door, key=self._what.key)],
            exception_handlers={
                ApiError: _refused,
                HTTPException: _no_such_route,
                Exception: _failed,
            },
        )

    async def _health(self, request: Request) -> Response:
        if not is_allowed(request.headers, self._what.key):
            return JSONResponse({"status": "ok"})
        answered = min(self._open, ROWS_AT_ONCE)
        told = {
            "status": "ok",
            "version": __version__,
            "worker": "running" if self._client.is_loaded else "starts with the next request",
            "answered": answered,
            "waiting": self._open - answered,
        }
        return JSONResponse(told, headers={"Cache-Control": "no-store"})

    async def _models(self, request: Request) -> Response:
        listed = [self._as_model(name, name) for name in self._what.offer.names]
        return JSONResponse({"object": "list", "data": listed})

    async def _model(self, request: Request) -> Response:
        asked = request.path_params["name"]
        if asked not in self._names:
            raise unknown_model(asked, self._names)
        return JSONResponse(self._as_model(asked, self._names[asked]))

    def _as_model(self, asked: str, name: str) -> dict[str, Any]:
        return {
            "id": asked,
            "object": "model",
            "created": self._started,
            "owned_by": "ftlab",
            "label": self._what.labels[name],
        }

    async def _chat(self, request: Request) -> Response:
        return _Answering(self, read_chat(await _body(request), self._names))

    @contextmanager
    def place(self) -> Iterator[None]:
        """Counts an open chat. Raises `ApiError` 429 if too many wait."""
        if self._open >= ROWS_AT_ONCE + self._what.most_waiting:
            seconds = min(_LONGEST_WAIT, math.ceil(self._seconds))
            raise ApiError(
                429,
                f"{self._what.most_waiting} chats wait already, the most that may; try again in "
                f"{seconds} s.",
                code="too_many_requests",
                headers={"Retry-After": str(seconds)},
            )
        self._open += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self._open -= 1
            self._seconds += 0.2 * (time.monotonic() - began - self._seconds)

    async def updates(self, asked: Asked) -> AsyncGenerator[ChatUpdate, None]:
        """The answer's updates, the last of which is "done". Raises `ApiError`."""
        try:
            async with aclosing(self._client.answer(asked.chat)) as updates:
                async for update in updates:
                    if update.kind == "refused":
                        raise ApiError(
                            400, update.text, param="messages", code="context_length_exceeded"
                        )
                    if update.kind == "error":
                        raise ApiError(500, update.text, code="answer_failed")
                    yield update
        except (WorkerEnded, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ApiError(
                503,
                f"The process that answers ended before this answer did ({why}); send the request "
                f"again. Its log is {self._client.log_file.name} in the runs folder.",
                code="worker_ended",
                headers={"Retry-After": "1"},
            ) from None


class _Answering(Response):
    """Answers one chat, whole or as server-sent events; ends with its client."""

    def __init__(self, endpoint: Endpoint, asked: Asked) -> None:
        super().__init__()
        self._endpoint, self._asked = endpoint, asked

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answering = asyncio.ensure_future(self._answer(scope, receive, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            if not answering.done():
                answering.cancel()
            await asyncio.wait((answering, leaving))
        if not answering.cancelled():
            with suppress(OSError):  # the client left while something was sent
                answering.result()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = self._asked
        completion = Completion(asked.model, asked.include_usage)
        has_begun = False
        try:
            with self._endpoint.place():
                async with aclosing(self._endpoint.updates(asked)) as updates:
                    async for update in updates:
                        if not asked.chat.stream:
                            if update.kind == "done":
                                await JSONResponse(completion.whole(update))(scope, receive, send)
                            continue
                        if not has_begun:
                            has_begun = True
                            await _begin_stream(send)
                            await _send_event(send, json.dumps(completion.first_chunk()))
                        for chunk in completion.chunks(update):
                            await _send_event(send, json.dumps(chunk))
                if has_begun:
                    await _send_event(send, "[DONE]", is_last=True)
        except ApiError as error:
            if has_begun:  # the status is sent; the client reads the error as an event
                await _send_event(send, json.dumps(error.body), is_last=True)
            else:
                await _as_response(error)(scope, receive, send)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _begin_stream(send: Send) -> None:
    headers = {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store",
        "x-accel-buffering": "no",  # nginx would hold events back
    }
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": 200, "headers": raw})


async def _send_event(send: Send, data: str, is_last: bool = False) -> None:
    body = f"data: {data}\n\n".encode()
    await send({"type": "http.response.body", "body": body, "more_body": not is_last})


class Door:
    """ASGI middleware: who may ask. `/healthz` is open, with one word for who may not.

    With a key, a request needs it. Without one, the endpoint is on loopback, and a page of another
    site must not use it: neither by its own name (DNS rebinding) nor from its own origin.
    """

    def __init__(self, app: ASGIApp, key: BearerToken) -> None:
        self._app, self._key = app, key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/healthz":
            headers = Headers(scope=scope)
            if not is_allowed(headers, self._key):
                await _as_response(_why_not(self._key))(scope, receive, send)
                return
        await self._app(scope, receive, send)


def is_allowed(headers: Headers, key: BearerToken) -> bool:
    if key:
        return not key.refusal(headers.get("authorization", ""))
    origin = headers.get("origin")
    from_here = origin is None or is_this_machine(origin.partition("://")[2])
    return from_here and is_this_machine(headers.get("host", ""))


def _why_not(key: BearerToken) -> ApiError:
    if not key:
        return ApiError(
            403,
            "Without an API key only this machine may ask, by its own name and not from a page of "
            "another site; start the endpoint with a key.",
            code="forbidden",
        )
    return ApiError(
        401,
        "The API key is missing or wrong; send it as 'Authorization: Bearer KEY'.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


async def _body(request: Request) -> Any:
    """Reads the JSON of a request under limits of size and time. Raises `ApiError`."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                data += part
                if len(data) > MAX_BODY_BYTES:
                    raise ApiError(413, f"The body has more than {MAX_BODY_BYTES >> 20} MB.")
    except TimeoutError:
        raise ApiError(408, f"The body did not arrive within {BODY_SECONDS:.0f} s.") from None
    except ClientDisconnect:
        raise ApiError(400, "The body was cut off.") from None
    try:
        return json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        reason = str(error)[:200] if isinstance(error, json.JSONDecodeError) else "not UTF-8 JSON"
        raise ApiError(400, f"The body is no JSON ({reason}).", code="invalid_json") from None


def _as_response(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body, error.status, headers=error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return _as_response(error)


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words = {404: "There is no such route here", 405: "This route takes another method"}
    said = words.get(error.status_code, error.detail)
    routes = "POST /v1/chat/completions, GET /v1/models"
    return _as_response(ApiError(error.status_code, f"{said}; there are {routes}."))


async def _failed(request: Request, error: Exception) -> Response:
    return _as_response(ApiError(500, "Something went wrong here; the log has the traceback."))
