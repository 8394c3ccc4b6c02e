"""What turns a figure that is on a page into a newer one: mostly some new points of one curve."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from ftlab.charts.curves import DrawnCurves

_BY_POINT = ("x", "y", "text")  # what a trace has of each point

Growth = dict[str, Any]
"""As JSON: the `tag` of the newer figure; `traces`, for each changed one its `number`, from which
point on it changes, and its values from there; and `layout`, what is new in it. Or only `figure`,
the whole of it as plotly's JSON, if they have not the same traces."""


@dataclass(frozen=True)
class Tagged:
    """A drawing with its tag; `drawn` is `None` if there is no point."""

    tag: str
    drawn: DrawnCurves | None

    @classmethod
    def of(cls, drawn: DrawnCurves | None) -> Tagged:
        return cls(secrets.token_hex(6), drawn)


def grown(before: Tagged | None, now: Tagged, figure: Callable[[], str]) -> Growth:
    """The growth from `before`, `None` if that is not known; `figure` gives the whole of `now`."""
    if before is None or before.drawn is None or now.drawn is None:
        return {"figure": figure()}
    old, new = before.drawn, now.drawn
    if list(map(_look, old.traces)) != list(map(_look, new.traces)):
        return {"figure": figure()}
    pairs = enumerate(zip(old.traces, new.traces, strict=True))
    traces = [_tail(number, *pair) for number, pair in pairs if pair[0] != pair[1]]
    layout = {key: value for key, value in new.layout.items() if value != old.layout.get(key)}
    return {"tag": now.tag, "traces": traces, "layout": layout}


def _look(trace: Mapping[str, Any]) -> dict[str, Any]:
    """What is not of a single point; a trace either has texts or has none."""
    look = {key: value for key, value in trace.items() if key not in _BY_POINT}
    return look | {"has_text": trace.get("text") is not None}


def _tail(number: int, old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    keys = [key for key in _BY_POINT if new.get(key) is not None]
    same = min(_same(old[key], new[key]) for key in keys)
    return {"number": number, "from": same} | {key: new[key][same:] for key in keys}


def _same(old: Sequence[Any], new: Sequence[Any]) -> int:
    """How many values are equal from the first one on."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
