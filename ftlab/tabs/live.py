"""Parts of the page that change by themselves, and the route at which the page asks for them.

The page's script (`assets/watch.js`) sends the tag of each part that it shows, and gets those that
are different now, and the seconds until it asks again. Nothing is kept for a page on the server, so
a reload or a second page gets all. These polls are no events of gradio: an event that changes one
word on the page costs the browser more than 20 times as much.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

PATH = "/watch"
_POLLS_A_SECOND = 18  # total for all pages
_LONGEST_ID = 40  # characters of a page's id; pages choose their own

_SECONDS = 3.0


@dataclass(frozen=True)
class News:
    """What is new for a page, and the seconds until it should ask again; `None` for any time.

    `html` has the parts that it shows in a `place`, each with its tag; `more` is for its script.
    """

    html: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None


Read = Callable[[Mapping[str, str]], News]
"""Gets the query of a page."""


_OPEN_SECONDS = 40.0
"""A page that has not polled for so long counts as closed or in a background tab."""


class Pace:
    """Divides `a_second` polls per second among all open pages."""

    def __init__(self, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_second = a_second
        self._clock = clock
        self._turn = threading.Lock()
        self._heard: OrderedDict[str, float] = OrderedDict()

    def seconds(self, page: str, least: float) -> float:
        """Returns the seconds until this page's next poll: `least`, or more if many are open.

        Call it at every poll, with the page's id.
        """
        now = self._clock()
        with self._turn:
            self._heard.pop(page, None)
            self._heard[page] = now
            while now - next(iter(self._heard.values())) > _OPEN_SECONDS:
                self._heard.popitem(last=False)
            return max(least, len(self._heard) / self._a_second)


class LiveParts:
    """Collects what the page asks for; each part is read by one function."""

    def __init__(self) -> None:
        self._reads: list[Read] = []
        self._pace = Pace(_POLLS_A_SECOND)

    def add(self, read: Read) -> None:
        self._reads.append(read)

    def answer(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The news of all parts, and `seconds` until the page should ask again."""
        found: dict[str, Any] = {"html": {}}
        every = [read(query) for read in self._reads]
        for news in every:
            found["html"] |= news.html
            found |= news.more
        least = min((new.seconds for new in every if new.seconds is not None), default=_SECONDS)
        page = query.get("page", "")[:_LONGEST_ID]
        return found | {"seconds": self._pace.seconds(page, least)}

    def route(self) -> Route:
        def watch(request: Request) -> JSONResponse:
            found = self.answer(request.query_params)
            return JSONResponse(found, headers={"Cache-Control": "no-store"})

        return Route(PATH, watch)  # not a coroutine: it reads files, so it runs in a thread


def place(name: str, html: str) -> str:
    """HTML: where the part of that name is shown; `html` until the page has asked."""
    return f'<div data-live="{name}">{html}</div>'


def changed_html(query: Mapping[str, str], **parts: str) -> dict[str, tuple[str, str]]:
    """The parts of which the page does not have this HTML, each with its tag."""
    tags = {name: tag_of(html) for name, html in parts.items()}
    return {name: (tag, parts[name]) for name, tag in tags.items() if query.get(name) != tag}


def tag_of(text: str) -> str:
    """A short name of a text; different for different texts."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()
