"""The page as it is sent: compressed, with two scripts of ours before those of gradio.

Both scripts make gradio's frontend do less. They have to run before it, so they cannot be in the
page's `head`, which gradio adds when it runs. Browsers are told that gradio's files never change.
"""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SLOW_TIMERS = """<script>{
  const atFrame = window.requestAnimationFrame.bind(window);
  const isTimer = /^\\(\\) ?=> ?\\{.{0,20}performance\\.now\\(\\) ?- ?[^;]{0,30}1e3.{0,40}\\}$/s;
  window.requestAnimationFrame = (call) => call.length === 0 && isTimer.test(String(call))
    ? setTimeout(call, 500) : atFrame(call);
}</script>"""
"""gradio shows how long an event takes by asking for every frame of the screen. The timer of its
"Loading…" keeps doing so after it was removed, which alone took 7 % of a core. Twice a second is
enough for every timer. The script has to run before gradio's own, which store
`requestAnimationFrame` when they load."""

_PLAIN_EVENTS = """<script>{
  class Events extends Array {}
  const event = (given) => given.trigger_after === null ? given : { ...given, targets: [] };
  let config;
  Object.defineProperty(window, "gradio_config", {
    configurable: true,
    get: () => config,
    set: (given) => {
      const events = given?.dependencies;
      if (Array.isArray(events)) given.dependencies = Events.from(events, event);
      config = given;
    },
  });
}</script>"""
"""gradio's frontend searches all events of the page for each of its components, and reads them
through Svelte's proxies, which took 0.35 of the 1.9 s in which this page opened. Svelte makes no
proxy of an object whose class is neither plain `Array` nor `Object`. Nothing changes these events,
so nothing has to notice a change of them.

It also searches the components for the target of each event, twice. An event that follows another
one names that in `trigger_after`; its target is no component, so the search passes all of them.
Without targets there is no search: 0.08 s less."""

_QUICK = 4  # of zlib's levels: 1 MB in 9 ms to a tenth; the last level takes 23 ms for 1 % more

_ASSETS = "/assets/"
"""gradio names each file there by its content, but does not tell the browser so. Browsers asked
again for all 82 that the page loads, once they had kept them for a tenth of the files' age."""


class FirstPage:
    """ASGI middleware: adds the scripts to the page, and compresses it where that is accepted.

    gradio compresses only what has an ending in its path, and so not the page, a megabyte of text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._page = GZipMiddleware(self._with_scripts, compresslevel=_QUICK)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/" and scope["method"] == "GET":
            await self._page(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith(_ASSETS):
            await self._app(scope, receive, _kept(send))
        else:
            await self._app(scope, receive, send)

    async def _with_scripts(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: Message = {}
        body = b""

        async def held(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            headers = MutableHeaders(scope=start)
            if headers.get("content-type", "").startswith("text/html"):
                scripts = (_SLOW_TIMERS + _PLAIN_EVENTS).encode()
                body = body.replace(b"<script", scripts + b"<script", 1)
                headers["content-length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, held)


def _kept(send: Send) -> Send:
    """`send` for a file that never changes under its name."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] == 200:
            MutableHeaders(scope=message)["Cache-Control"] = "max-age=31536000, immutable"
        await send(message)

    return marked
