"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

PAUSE_SECONDS = 0.05


def wait_until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Returns as soon as the condition holds; fails the test if it does not in that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited for more than {seconds:g} s"
        time.sleep(PAUSE_SECONDS)
