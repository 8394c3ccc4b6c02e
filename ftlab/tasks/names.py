"""Sentences about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown_name(kind: str, value: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not in `known`: the value, the nearest name, and the choices.

    `kind` says what it names ("task", "metric").
    """
    names = list(known)
    near = difflib.get_close_matches(value[:80].lower(), names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"There is no {kind} '{value[:80]}'{hint}; choose one of: {', '.join(names)}."
