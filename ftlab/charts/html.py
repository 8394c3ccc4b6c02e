"""HTML snippets that the page and the report share; they escape their text."""

from __future__ import annotations

from markupsafe import escape

from ftlab.methods.registry import label_of, look_of
from ftlab.records.table import origin_label


def chip(text: str, kind: str = "", title: str = "") -> str:
    """A small label. `kind` is a status or "ok", "warn", "bad", "mute", "measured", "predicted"."""
    hint = f' title="{escape(title)}"' if title else ""
    return f'<span class="chip {escape(kind)}"{hint}>{escape(text)}</span>'


def swatch(method_id: str) -> str:
    """The small square in the method's colour that is shown next to its name."""
    return f'<i class="sw" style="--c:{look_of(method_id).colour}"></i>'


def named(method_id: str, label: str | None = None) -> str:
    """Swatch and name of a method; `label` replaces the name for a variant or a run."""
    return f"{swatch(method_id)}<b>{escape(label or label_of(method_id))}</b>"


_ORIGIN_HINTS: dict[str, str] = {
    "measured": "Measured by this app, in its runs folder",
    "opened": "Opened from a packed sweep: times and memory are those of its machine",
    "recorded": "Comes with ftlab: really run, on another machine",
    "imported": "Published by others; never part of a comparison",
}


def origin_chip(origin: str) -> str:
    """The chip that shows the origin of the numbers."""
    return chip(origin_label(origin), origin, _ORIGIN_HINTS.get(origin, ""))
