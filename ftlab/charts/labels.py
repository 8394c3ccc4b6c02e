"""Where the names of points go, so that no name lies on another, on a point or beyond the plot.

A figure is as wide as its column, so a place counts as free only if it is so at several widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from ftlab.methods.registry import BASE_LOOK

WIDTHS = (260, 560, 880)
"""Widths of the plot in pixels for which places are found: phone, half a page, slide."""

_CHARACTER, _LINE = 6.7, 15.0  # pixels of a label in the template's font
_MARKER = 7.0  # half of a marker, with a little air
_BAR, _DOT = 2.0, 3.0


@dataclass(frozen=True)
class Spot:
    """A point that wants its name beside it; all numbers are shares of the plot, y upwards.

    The ranges are those of its bars, `dots` the small points that belong to it.
    """

    x: float
    y: float
    text: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Place:
    """Where a label stands relative to its point, in plotly's terms (shifts in pixels).

    One that is `far` needs a line to its point.
    """

    xanchor: Literal["left", "center", "right"]
    yanchor: Literal["bottom", "middle", "top"]
    xshift: float
    yshift: float
    far: bool = False

    def annotation(self) -> dict[str, Any]:
        """What plotly needs beside position and text."""
        anchors: dict[str, Any] = {"xanchor": self.xanchor, "yanchor": self.yanchor}
        if not self.far:
            return anchors | {"xshift": self.xshift, "yshift": self.yshift, "showarrow": False}
        return anchors | {
            "ax": self.xshift, "ay": -self.yshift, "showarrow": True, "arrowhead": 0,
            "arrowwidth": 1, "arrowcolor": BASE_LOOK.colour, "standoff": 7,
        }  # fmt: skip

    def box(self, x: float, y: float, width: float) -> tuple[float, float, float, float]:
        """Left, bottom, right and top of a label of that width beside the pixel (x, y)."""
        left = x + self.xshift - {"left": 0.0, "center": 0.5, "right": 1.0}[self.xanchor] * width
        low = y + self.yshift - {"bottom": 0.0, "middle": 0.5, "top": 1.0}[self.yanchor] * _LINE
        return left, low, left + width, low + _LINE


def _places() -> tuple[Place, ...]:
    near = [
        Place("left", "middle", 9, 0),
        Place("right", "middle", -9, 0),
        Place("center", "bottom", 0, 7),
        Place("center", "top", 0, -7),
        Place("left", "bottom", 6, 4),
        Place("right", "bottom", -6, 4),
        Place("left", "top", 6, -4),
        Place("right", "top", -6, -4),
    ]
    far = [
        Place("left" if x > 0 else "right", "middle", x * away, y * away, far=True)
        for away in (26.0, 44.0, 64.0, 88.0, 120.0, 160.0, 210.0)
        for x, y in ((0.7, 0.7), (-0.7, 0.7), (0.7, -0.7), (-0.7, -0.7), (1, 0.3), (-1, 0.3))
    ]
    return (*near, *far)


_PLACES = _places()


def place_labels(
    spots: Sequence[Spot],
    height: float,
    count: int,
    line: Sequence[tuple[float, float]] = (),
) -> list[Place | None]:
    """A place for each of the first `count` names; `None` where all of them are taken.

    The earlier of two names has the choice. Where none is free at every width, one that is free at
    all but the least will do. `height` is that of the plot in pixels; `line` are the
    corners, as shares of the plot, of a line that no name may cross.
    """
    taken = [
        np.vstack([_obstacles(spots, width, height), _along(line, width, height)])
        for width in WIDTHS
    ]
    found: list[Place | None] = []
    for spot in spots[:count]:
        place = _first_free(spot, taken, height)
        found.append(place)
        if place is not None:
            taken = [
                np.vstack([boxes, place.box(spot.x * width, spot.y * height, _width(spot.text))])
                for boxes, width in zip(taken, WIDTHS, strict=True)
            ]
    return found


def _first_free(spot: Spot, taken: Sequence[Any], height: float) -> Place | None:
    for first in (0, 1):
        for place in _PLACES:
            boxes = list(zip(WIDTHS, taken, strict=True))[first:]
            if all(_is_free(place, spot, width, there, height) for width, there in boxes):
                return place
    return None


def _is_free(place: Place, spot: Spot, width: float, taken: Any, height: float) -> bool:
    left, low, right, high = place.box(spot.x * width, spot.y * height, _width(spot.text))
    if left < 0 or right > width or low < 0 or high > height:
        return False
    meets = (
        (taken[:, 0] < right) & (taken[:, 2] > left) & (taken[:, 1] < high) & (taken[:, 3] > low)
    )
    return not meets.any()


def _obstacles(spots: Sequence[Spot], width: float, height: float) -> Any:
    """The boxes of all markers and of their bars."""
    boxes = []
    for spot in spots:
        x, y = spot.x * width, spot.y * height
        boxes += [
            (x - _MARKER, y - _MARKER, x + _MARKER, y + _MARKER),
            (spot.x_range[0] * width, y - _BAR, spot.x_range[1] * width, y + _BAR),
            (x - _BAR, spot.y_range[0] * height, x + _BAR, spot.y_range[1] * height),
        ]
        for across, up in spot.dots:
            x, y = across * width, up * height
            boxes.append((x - _DOT, y - _DOT, x + _DOT, y + _DOT))
    return np.array(boxes, dtype=float).reshape(-1, 4)


def _along(line: Sequence[tuple[float, float]], width: float, height: float) -> Any:
    """Small boxes along a line, close enough for no label to pass between two."""
    boxes = []
    for (x0, y0), (x1, y1) in pairwise(line):
        across, up = (x1 - x0) * width, (y1 - y0) * height
        parts = max(1, round(max(abs(across), abs(up)) / (_LINE / 2)))
        for part in range(parts + 1):
            x, y = x0 * width + across * part / parts, y0 * height + up * part / parts
            boxes.append((x - 1, y - 1, x + 1, y + 1))
    return np.array(boxes, dtype=float).reshape(-1, 4)


def _width(text: str) -> float:
    return _CHARACTER * len(text)
