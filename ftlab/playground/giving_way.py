"""Lets whoever waits in line for the device go first, between two tokens of an answer. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable

from ftlab.basics.devices import Device
from ftlab.basics.locks import DeviceLock

GiveWay = Callable[[], object]
"""Returns when it is this process's turn again; raises `Stopped` while it waits."""

Check = Callable[[], float | GiveWay | None]
"""Called before each turn of a lane; raises `Stopped` to end the answer.

Where others used the device meanwhile it returns the seconds that this took. Where the device's
memory must be given back first it returns what is to be called once nothing lies there any more.
"""


def make_way(turn: DeviceLock, device: Device, give_way: GiveWay) -> float | GiveWay:
    """What a `Check` returns, for the holder of the turn."""
    if not turn.is_wanted():
        return 0.0
    if device.memory_must_be_given_back:
        return give_way
    began = time.monotonic()
    give_way()
    return time.monotonic() - began
