"""What is served besides the page: `/healthz`, and a note in the log of what goes wrong.

Gradio prints errors of handlers and tells nobody; here they are noted where they pass.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftlab.operations.health import HealthProbe
from ftlab.operations.log import note_error, note_refusal
from ftlab.operations.redaction import without_inputs
from ftlab.runs.store import RunStore

_REFUSALS = {401, 403, 413, 429}
_LONGEST = 300  # characters of a path or a sentence


def app_parts(store: RunStore) -> dict[str, Any]:
    """For `Blocks.launch(app_kwargs=…)`.

    Routes that are given here come before all of gradio's own, and are there before the first
    request is taken.
    """
    return {
        "routes": [_health_route(HealthProbe(store))],
        "middleware": [Middleware(NotedRefusals)],
    }


class NotedBlocks(gr.Blocks):
    """The page; an error of a handler is noted on its way to gradio, which shows it."""

    async def process_api(
        self, block_fn: BlockFunction | int, inputs: list[Any], *args: Any, **kw: Any
    ) -> dict[str, Any]:
        try:
            return await super().process_api(block_fn, inputs, *args, **kw)
        except gr.Error as refusal:
            reason = without_inputs(str(refusal.message), inputs)[:_LONGEST]
            note_refusal("call refused", handler=self._name(block_fn), reason=reason)
            raise
        except Exception as error:
            note_error("handler failed", error, inputs, handler=self._name(block_fn))
            raise

    def _name(self, block_fn: BlockFunction | int) -> str:
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        return str(function.api_name or getattr(function.fn, "__qualname__", function.name))


class NotedRefusals:
    """ASGI middleware: notes requests that were refused, and errors outside of any handler."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                status = int(message["status"])
                if _is_refusal(status, scope["path"]):
                    note_refusal("request refused", status=status, **_asked(scope))
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            note_error("request failed", error, **_asked(scope))
            raise


def _is_refusal(status: int, path: str) -> bool:
    """A failed login is 400; 503 is what `/healthz` says of itself."""
    failed_login = status == 400 and path.rstrip("/").endswith("/login")
    return failed_login or status in _REFUSALS or (status >= 500 and status != 503)


def _asked(scope: Scope) -> dict[str, str]:
    """Who asked for what; without the query, which may hold a token."""
    client = scope.get("client")
    return {
        "method": str(scope["method"]),
        "path": str(scope["path"])[:_LONGEST],
        "client": str(client[0]) if client else "",
    }


def _health_route(probe: HealthProbe) -> Route:
    def healthz(request: Request) -> JSONResponse:
        health = probe.health()
        told = health.to_json() if _may_know(request) else {"status": health.status}
        status = 200 if health.is_ok else 503
        return JSONResponse(told, status, headers={"Cache-Control": "no-store"})

    return Route("/healthz", healthz)  # no coroutine: it reads files, so it runs in a thread


def _may_know(request: Request) -> bool:
    """Whether the request would be let in to the page, by gradio's own cookie."""
    app = request.app
    if app.auth is None and app.auth_dependency is None:
        return True
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(request.cookies.get(name) in app.tokens for name in names)
