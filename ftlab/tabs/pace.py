"""How often the open pages ask for what is new, all together."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

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
