"""A dictionary of limited size that drops its oldest entries."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Recent(OrderedDict[_Key, _Value]):
    """Holds at most `most` entries: writing one more drops the oldest one.

    Overwriting an entry makes it the newest. Writes are thread-safe.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most
        self._turn = threading.Lock()

    def __setitem__(self, key: _Key, value: _Value) -> None:
        with self._turn:
            super().__setitem__(key, value)
            self.move_to_end(key)
            while len(self) > self._most:
                self.popitem(last=False)
