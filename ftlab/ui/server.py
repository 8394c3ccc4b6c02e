"""What is served besides the page: `/healthz`, and a note in the log of what goes wrong.

Gradio prints errors of handlers and tells nobody; here they are noted where they pass.
"""

from __future__ import annotations

import importlib.util
import sys
from copy import copy
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.state_holder import SessionState
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


def calm(page: gr.Blocks) -> None:
    """Takes from gradio what it does over and over for nothing; to be called after `Blocks.queue`.

    It looks 1,100 times a second whether its queue holds an event, which is 3 % of a core on an
    idle page: 60 looks do. And it searches the disk for matplotlib and bokeh at every event: where
    they are not installed, an entry that is `None` says so at once.
    """
    page._queue.sleep_when_free = 0.02  # seconds
    page._queue.progress_update_sleep_when_free = 0.1
    for name in ("matplotlib", "bokeh"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = None  # type: ignore[assignment]


class NotedBlocks(gr.Blocks):
    """The page: notes an error of a handler on its way to gradio, which shows it, and skips what a
    handler skips."""

    async def process_api(
        self, block_fn: BlockFunction | int, inputs: list[Any], *args: Any, **kw: Any
    ) -> dict[str, Any]:
        try:
            return await super().process_api(block_fn, inputs, *args, **kw)
        except gr.Error as refusal:
            reason = without_inputs(str(refusal.message), inputs)[:_LONGEST]
            note_refusal("call refused", handler=self._name(block_fn), reason=reason)
            refusal.print_exception = False  # the caller's to put right, and noted above
            raise
        except Exception as error:
            note_error("handler failed", error, inputs, handler=self._name(block_fn))
            raise

    async def postprocess_data(
        self, block_fn: BlockFunction, predictions: Any, state: SessionState | None
    ) -> list[Any]:
        """Leaves out the outputs that are skipped: gradio would make each component anew, which is
        most of what a poll that changes little would cost."""
        outputs = list(block_fn.outputs)
        one_each = isinstance(predictions, list | tuple) and len(predictions) == len(outputs)
        if not one_each or len(outputs) < 2 or block_fn.batch or block_fn.is_validator_function:
            return await super().postprocess_data(block_fn, predictions, state)
        skip = gr.skip()
        kept = [place for place, value in enumerate(predictions) if not _equals(value, skip)]
        answer = [None if block.stateful else gr.skip() for block in outputs]
        if kept:
            rest = copy(block_fn)
            rest.outputs = [outputs[place] for place in kept]
            values = [predictions[place] for place in kept]
            given = values if len(values) > 1 else values[0]  # as of a handler with one output
            done = await super().postprocess_data(rest, given, state)
            for place, value in zip(kept, done, strict=True):
                answer[place] = value
        return answer

    def _name(self, block_fn: BlockFunction | int) -> str:
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        return str(function.api_name or getattr(function.fn, "__qualname__", function.name))


def _equals(value: Any, skip: dict[str, Any]) -> bool:
    return isinstance(value, dict) and value == skip


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


NOTED = (Middleware(NotedRefusals),)


def health_route(store: RunStore) -> Route:
    """`/healthz`: how the app is, in full for those whom the page would let in."""
    probe = HealthProbe(store)

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
