"""Inputs that parsers break on: text, JSON, and good documents with something wrong in them."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

NASTY_TEXTS = (
    "", " ", "=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(1)", "\t=1", "\x00", "\ufeff", "\u202eexe",
    "\u2028", "\x85", "\ud800", "\x1b[31m", "<script>alert(1)</script>", "<img src=x onerror=x>",
    "[x](javascript:alert(1))", "../../etc/passwd", "/dev/zero", "C:\\x", "..\\x", "~root", "~",
    "%s%n", "{0.__class__}", "${x}", "'; DROP TABLE x; --", "(a+)+$", "a" * 300, "٣", "1e999",
    "nan", "inf", "-0", "1_000", "0x10", "９", "None", "true", "http://169.254.169.254/",
)  # fmt: skip

NASTY_NUMBERS = (
    0, -1, 1, 2**31, 2**63, 2**64, 10**30, -(10**30), 10**400, 0.1, -0.0, 1e308, 5e-324,
    float("inf"), float("-inf"), float("nan"),
)  # fmt: skip


def texts(most: int = 60) -> SearchStrategy[str]:
    """Any text, lone surrogates and control characters included."""
    return st.sampled_from(NASTY_TEXTS) | st.text(
        st.characters(exclude_categories=()), max_size=most
    )


def scalars() -> SearchStrategy[Any]:
    return (
        st.none()
        | st.booleans()
        | st.sampled_from(NASTY_NUMBERS)
        | st.integers()
        | st.floats()
        | texts()
    )


def values() -> SearchStrategy[Any]:
    """Whatever JSON can say, and a little more (NaN, Infinity)."""
    return st.recursive(
        scalars(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(20), inner, max_size=4),
        max_leaves=12,
    )


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@st.composite
def damaged(draw: st.DrawFn, document: Any, most: int = 3) -> Any:
    """The document with one to three of its values replaced, taken away, or joined by others."""
    whole = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(whole))
        holder, key = draw(st.sampled_from(places))
        what = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add")))
        if what == "remove":
            del holder[key]
        elif what == "add" and isinstance(holder, dict):
            holder[draw(texts(20))] = draw(values())
        else:
            holder[key] = draw(values())
        if not list(_places(whole)):
            break
    return whole


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value within the document."""
    items = (
        list(value.items())
        if isinstance(value, dict)
        else list(enumerate(value))
        if isinstance(value, list)
        else []
    )
    for key, inner in items:
        yield value, key
        yield from _places(inner)


@st.composite
def torn(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some of them changed, cut off, doubled, or others put in between."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, max(0, len(data) - 1)))
        length = draw(st.integers(0, 12))
        new = draw(
            st.binary(max_size=8)
            | st.sampled_from([b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"{", b"[" * 50, b"\n"])
        )
        cut = draw(st.sampled_from(("change", "change", "end", "double")))
        if cut == "end":
            data = data[:place]
        elif cut == "double":
            data = data[:place] + data[place : place + 40] + data[place:]
        else:
            data = data[:place] + new + data[place + length :]
    return data
