"""The lines that a worker writes as it goes: what whoever reads one may rely on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NUMBERS = (
    "step", "loss", "score", "learning_rate", "tokens", "seconds", "elapsed", "done", "total",
    "memory_bytes",
)  # fmt: skip
_MUST_HAVE = {
    "step": ("step", "loss"),
    "evaluation": ("step",),
    "evaluate": ("done", "total"),
    "download": ("done", "total", "elapsed"),
    "phase": ("phase",),
}
_MOST = 2**53
"""Whole numbers up to it are the same as integer and as float."""


def is_sound(event: Mapping[str, Any]) -> bool:
    """Whether the event has what its kind must have, and numbers where numbers belong.

    A loss may be no number (the run went astray); a step, and what is counted, is a whole one.
    """
    if any(event.get(name) is None for name in _MUST_HAVE.get(str(event.get("event")), ())):
        return False
    numbers = [event[name] for name in _NUMBERS if event.get(name) is not None]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in numbers):
        return False
    if any(isinstance(value, int) and abs(value) > _MOST for value in numbers):
        return False
    whole = all(isinstance(event.get(name, 0), int) for name in ("step", "done", "total"))
    return whole and event.get("total") != 0
