"""Yields the device to waiting processes, between two tokens of an answer. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable

from ftlab.basics.devices import Device
from ftlab.basics.locks import DeviceLock

YieldDevice = Callable[[], object]
"""Yields the device and returns when this process has it again; may raise `Stopped` meanwhile."""

Check = Callable[[], float | YieldDevice | None]
"""Called before each step of a lane; raises `Stopped` to end the answer.

If other processes used the device meanwhile, it returns how many seconds that took. If the device
memory must be freed first, it returns a function to call after the memory is freed.
"""


def yield_if_wanted(
    turn: DeviceLock, device: Device, yield_device: YieldDevice
) -> float | YieldDevice:
    """Yields the device if another process waits for it; returns what a `Check` returns."""
    if not turn.is_wanted():
        return 0.0
    if device.memory_must_be_given_back:
        return yield_device
    began = time.monotonic()
    yield_device()
    return time.monotonic() - began
