"""The curves of a race: each candidate's loss on the tuning examples, from rung to rung."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log

from ftlab.methods.registry import look_of
from ftlab.race.standings import RaceView, Standing
from ftlab.tabs.widgets import escape

_WIDTH, _HEIGHT = 1000, 100
"""Of the drawing's own coordinates; the page stretches it, and its lines keep their width."""

_LEAST = 0.001
"""A loss below it is drawn as one of it: a logarithm needs more than 0."""


@dataclass(frozen=True)
class _Scale:
    """Steps from 0 to `last`, and losses from `low` to `high` in logarithms, as the last few lie
    close together; what lies above is cut off."""

    last: int
    low: float
    high: float

    def at(self, step: int, loss: float) -> str:
        x = _WIDTH * step / self.last
        y = _HEIGHT * log(self.high / max(loss, self.low)) / log(self.high / self.low)
        return f"{x:.0f} {y:.1f}"


def curves_html(view: RaceView) -> str:
    """A line from the untouched model's loss (step 0) through each candidate's readings.

    The colour is the method's. Those that left are faint, and those in the final are bold. Empty
    before the first reading.
    """
    drawn = [one for one in view.standings if one.losses]
    if not drawn:
        return ""
    scale = _scale(drawn, view.base_loss)
    drawn.sort(key=lambda one: (one.place != "left", one.place == "in the final"))
    lines = "".join(_line(one, scale, view.base_loss) for one in drawn)
    steps = sorted({step for one in drawn for step, _ in one.losses})
    return (
        '<figure class="race-curves"><figcaption>Loss on the tuning examples, in nats per token, '
        f'logarithmic</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" '
        f'role="img" aria-label="{escape(_in_words(drawn))}">{lines}</svg>'
        f"<small>{scale.high:.2f}</small>"
        f"<small>{scale.low:.2f}</small>"
        f"<p>{''.join(_ticks(steps, scale, view.base_loss))}</p></figure>"
    )


def _scale(drawn: list[Standing], base_loss: float | None) -> _Scale:
    """No higher than the untouched model's loss: what is above has learnt nothing."""
    losses = [loss for one in drawn for _, loss in one.losses]
    low, high = max(_LEAST, min(losses)), max(losses)
    if base_loss is not None and base_loss > low:
        high = base_loss
    last = max(step for one in drawn for step, _ in one.losses)
    return _Scale(last, low, high if high > low else 2 * low)


def _line(one: Standing, scale: _Scale, base_loss: float | None) -> str:
    start = [] if base_loss is None else [(0, base_loss)]
    points = [scale.at(step, loss) for step, loss in (*start, *one.losses)]
    dots = "".join(f"M{point}h0" for point in points[len(start) :])
    kind = {"left": "gone", "in the final": "best"}.get(one.place, "")
    step, loss = one.losses[-1]
    title = f"{one.label}: {loss:.3f} at step {step}"
    return (
        f'<g class="{kind}" style="--c:{look_of(one.method).colour}">'
        f'<title>{escape(title)}</title><path d="M{"L".join(points)}"/>'
        f'<path class="dot" d="{dots}"/></g>'
    )


def _ticks(steps: list[int], scale: _Scale, base_loss: float | None) -> Iterator[str]:
    if base_loss is not None:
        yield '<span style="left:0">untouched</span>'
    for step in steps:
        yield f'<span style="left:{100 * step / scale.last:.0f}%">step {step}</span>'


def _in_words(drawn: list[Standing]) -> str:
    ends = [(one.losses[-1], one.label) for one in drawn]
    (step, loss), label = min(ends, key=lambda end: (-end[0][0], end[0][1]))
    return f"Curves of {len(drawn)} candidates; lowest at step {step}: {label}, {loss:.3f}"
