"""How often pages may ask, so that however many are open the web process stays idle."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

import gradio as gr

_OPEN_SECONDS = 40.0
"""A page that has not asked for so long is closed, or its tab lies in the background."""


class Pace:
    """Shares so many polls `a_second` among all pages that are open."""

    def __init__(self, a_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_second = a_second
        self._clock = clock
        self._turn = threading.Lock()
        self._heard: OrderedDict[str, float] = OrderedDict()

    def seconds(self, request: gr.Request, least: float) -> float:
        """How long this page waits until its next poll: `least`, or more where many are open.

        To be called at every poll. A whole number, so that it seldom changes.
        """
        now = self._clock()
        with self._turn:
            session = str(request.session_hash)
            self._heard.pop(session, None)
            self._heard[session] = now
            while now - next(iter(self._heard.values())) > _OPEN_SECONDS:
                self._heard.popitem(last=False)
            return max(least, float(round(len(self._heard) / self._a_second)))
