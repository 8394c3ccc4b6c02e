"""The parts of a predicted peak as one bar against a card, for the page and for a report."""

from __future__ import annotations

from markupsafe import escape

from ftlab.basics.cards import Card
from ftlab.basics.units import format_bytes
from ftlab.prediction.question import Prediction

_REST = "reserved, not in use"
_PARTS = {
    "weights": "#3d5a80", "gradients": "#98c1d9", "optimizer": "#7896b8",
    "gathered": "#2f6f62", "communication": "#9cc9bd",
    "activations": "#d9a441", "temporary": "#e8cf9d", _REST: "#b9bfc8",
}  # fmt: skip
_LIGHT_INK = ("weights", "optimizer", "gathered")
_ROOM_FOR_NAME = 0.09  # minimum share of the gauge that shows a name


def gauge_html(found: Prediction, peak: int, card: Card, whole: int = 0) -> str:
    """HTML: a bar with the parts of the peak, then other reserved memory, against the card.

    `whole` is the number of bytes of its full width, for bars with one scale; at least the card
    and the peak.
    """
    whole = max(whole, peak, card.usable_bytes)
    parts = {name: size for name in _PARTS if (size := found.anatomy.get(name, 0))}
    if peak > sum(parts.values()):
        parts[_REST] = peak - sum(parts.values())
    named = {name: f"{name} {format_bytes(size)}" for name, size in parts.items()}
    spans = "".join(
        f'<span style="width:{100 * size / whole:.2f}%;background:{_PARTS[name]};'
        f'color:{"#fff" if name in _LIGHT_INK else "#1b2129"}" title="{escape(named[name])}">'
        f"{escape(named[name]) if size / whole > _ROOM_FOR_NAME else ''}</span>"
        for name, size in parts.items()
    )
    said = f"Predicted: {', '.join(named.values())}"
    keys = ", ".join(
        '<span style="white-space:nowrap">'
        f'<i class="sw" style="--c:{_PARTS[name]}"></i>{escape(words)}</span>'
        for name, words in named.items()
    )
    limit = 100 * card.usable_bytes / whole
    over = (
        f'<s style="right:{100 - 100 * peak / whole:.2f}%"></s>' if peak > card.usable_bytes else ""
    )
    return (
        f'<div class="gauge" role="img" aria-label="{escape(said)}" style="--limit:{limit:.2f}%">'
        f"{over}{spans}<u>{escape(format_bytes(card.usable_bytes))}</u></div>"
        f'<p class="meta">Predicted: {keys}.</p>'
    )
