"""What is served besides the page: `/healthz`, and a note in the log of what goes wrong.

Gradio prints errors of handlers and tells nobody; here they are noted where they pass, and whoever
called reads a sentence: one for a request that the page does not make, another for our own error.
"""

from __future__ import annotations

import errno
import importlib.util
import sys
from contextlib import suppress
from copy import copy
from typing import Any

import gradio as gr
from gradio.block_function import BlockFunction
from gradio.state_holder import SessionState
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ftlab.operations.health import HealthProbe
from ftlab.operations.log import note_refusal
from ftlab.operations.redaction import without_inputs
from ftlab.operations.repeats import RepeatedErrors, RepeatedRefusals
from ftlab.runs.store import RunStore
from ftlab.ui.calls import NO_SUCH_PART, WrongCall, check_inputs, names_of_event
from ftlab.ui.gate import asked, user_of

FAILED = (
    "Something went wrong here, and it is in the log of this app's operator; "
    "reload the page and try again."
)

_REFUSALS = {400, 401, 403, 413, 422, 429}  # a failed login is 400
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

    def __init__(self, *args: Any, **kw: Any) -> None:
        super().__init__(*args, **kw)
        self._errors = RepeatedErrors()

    async def process_api(
        self, block_fn: BlockFunction | int, inputs: list[Any], *args: Any, **kw: Any
    ) -> dict[str, Any]:
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        try:
            event = kw.get("event_data")
            if event is not None:
                event._data = dict(names_of_event(event._data))  # gradio looks for names in it
            return await super().process_api(function, inputs, *args, **kw)
        except gr.Error as refusal:
            wrong = isinstance(refusal, WrongCall)
            said = refusal.reason if wrong else without_inputs(str(refusal.message), inputs)
            event_name = "wrong call" if wrong else "call refused"
            note_refusal(event_name, handler=_name(function), reason=said[:_LONGEST])
            refusal.print_exception = False  # the caller's to put right, and noted above
            _mark(kw.get("request"))
            raise
        except Exception as error:
            name = _name(function)
            self._errors.note("handler failed", error, inputs, place=name, handler=name)
            raise gr.Error(FAILED, print_exception=False) from None

    async def preprocess_data(
        self,
        block_fn: BlockFunction,
        inputs: list[Any],
        state: SessionState | None,
        explicit_call: bool = False,
    ) -> list[Any]:
        """Lets only what the page could have sent reach a handler. Raises `WrongCall` for the rest,
        and `gr.Error` where a component says itself what is wrong."""
        check_inputs(block_fn.inputs, inputs)
        try:
            return await super().preprocess_data(block_fn, inputs, state, explicit_call)
        except gr.Error:
            raise
        except Exception as error:  # of a component that cannot read what was sent
            raise WrongCall(type(error).__name__) from None

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


def _mark(request: Any) -> None:
    """Tells `NotedRefusals` that a call was refused; gradio answers that like an error of ours."""
    asked = getattr(request, "request", None)
    if isinstance(asked, Request):
        asked.state.refused = True


def _name(function: BlockFunction) -> str:
    return str(function.api_name or getattr(function.fn, "__qualname__", function.name))


def _equals(value: Any, skip: dict[str, Any]) -> bool:
    return isinstance(value, dict) and value == skip


class NotedRefusals:
    """ASGI middleware: notes requests that were refused, and errors outside of any handler, for
    which it answers with a sentence where nothing was answered yet."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._errors = RepeatedErrors()
        self._refusals = RepeatedRefusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                status = int(message["status"])
                if status == 500 and scope.get("state", {}).get("refused"):
                    message["status"] = 400  # noted where it was refused
                elif _is_refusal(status):
                    self._refusals.note("request refused", status=status, **asked(scope))
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            if not begun and _is_no_path(error):
                await PlainTextResponse(NO_SUCH_PART, 404)(scope, receive, send)
                return
            if not _is_of_lost_session(error):
                self._errors.note("request failed", error, place=_route(scope), **asked(scope))
            if not begun:
                await PlainTextResponse(FAILED, 500)(scope, receive, send)
                return
            with suppress(Exception):  # the answer was to be longer, and whoever reads it sees that
                await send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_no_path(error: Exception) -> bool:
    """Whether gradio asked the system for a file by a name that no file can have."""
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


def _is_of_lost_session(error: Exception) -> bool:
    """Whether gradio ends the stream of a session that is gone that way, once it has said so."""
    return isinstance(error.__cause__ or error, HTTPException)


def _is_refusal(status: int) -> bool:
    """503 is what `/healthz` says of itself."""
    return status in _REFUSALS or (status >= 500 and status != 503)


def _route(scope: Scope) -> str:
    """The route that answered, by its own pattern; paths that people make up have no end."""
    return str(getattr(scope.get("route"), "path", ""))


def health_route(store: RunStore) -> Route:
    """`/healthz`: how the app is, in full for those whom the page would let in."""
    probe = HealthProbe(store)

    def healthz(request: Request) -> JSONResponse:
        health = probe.health()
        may_know = request.app.auth is None or user_of(request.app, request.headers) is not None
        told = health.to_json() if may_know else {"status": health.status}
        status = 200 if health.is_ok else 503
        return JSONResponse(told, status, headers={"Cache-Control": "no-store"})

    return Route("/healthz", healthz)  # no coroutine: it reads files, so it runs in a thread
