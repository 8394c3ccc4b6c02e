"""Helpers for texts shown to users, and escaping of spreadsheet cells."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any
from unicodedata import normalize

from ftlab.basics import units


def plural(count: int, word: str) -> str:
    """1, "run" -> "1 run"; 4, "run" -> "4 runs"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def printable(text: str, instead: str = "?", keep: str = "\n") -> str:
    """Replaces unprintable characters such as terminal escapes: names come from untrusted files."""
    return "".join(char if char.isprintable() or char in keep else instead for char in text)


def shown_name(text: str, most: int = 80) -> str:
    """The start of an untrusted name, printable, for a message about it."""
    return printable(text[:most], keep="")


def plain_line(text: str, most: int | None = None) -> str:
    """One line of printable characters, at most `most`."""
    return " ".join(printable(text, " ", keep="").split())[:most].strip()


def shorten(text: str, limit: int) -> str:
    """The text, or its first `limit` characters, the last of them an ellipsis."""
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def join_names(names: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def some_names(names: Sequence[str], most: int = 4) -> str:
    """["a", "b", "c", "d"], 3 -> "a, b and 2 more"."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return join_names(list(names))


def rate_name(rate: float | None) -> str:
    """A learning rate in common notation: 0.0001 -> "1e-4"; 0.03 -> "0.03"; None -> a dash."""
    if rate is None or math.isnan(rate):
        return units.DASH
    if rate >= 0.01 or rate <= 0:
        return f"{rate:g}"
    mantissa, exponent = f"{rate:.3e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'lora'?" to append to a message; "" if there is no close match."""
    near = get_close_matches(name[:80], list(known), n=1)  # a long name would take minutes
    return f" Did you mean '{near[0]}'?" if near else ""


def unknown_name(kind: str, value: str, known: Iterable[str]) -> str:
    """The message for a name of that kind ("task") that is not in `known`, with the closest."""
    names = list(known)
    near = get_close_matches(value[:80].lower(), names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"There is no {kind} '{value[:80]}'{hint}; choose one of: {', '.join(names)}."


_BEGINS_A_FORMULA = "=+-@"
_LINE_BREAKS = ("\t", "\r", "\n")


def inert(value: Any) -> Any:
    """The value; a text that a spreadsheet may run as a formula gets an apostrophe in front.

    As in some spreadsheets, leading spaces are skipped, and full-width and small signs count too.
    """
    if not isinstance(value, str):
        return value
    seen = (char for char in value if char.isprintable() and not char.isspace())
    first = normalize("NFKC", next(seen, ""))[:1]
    runs = first != "" and first in _BEGINS_A_FORMULA
    return f"'{value}" if runs or value.startswith(_LINE_BREAKS) else value
