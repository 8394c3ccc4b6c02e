"""What a card is drawn with: boxes, lines and words at positions in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WIDTH, HEIGHT = 1600, 900


@dataclass(frozen=True)
class Box:
    """A filled rectangle; `edge` is the colour of its one-pixel outline, empty for none."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    radius: float = 0
    edge: str = ""


@dataclass(frozen=True)
class Line:
    x: float
    y: float
    to_x: float
    to_y: float
    colour: str
    thickness: float = 1


@dataclass(frozen=True)
class Words:
    """One line of text; `y` is its baseline."""

    x: float
    y: float
    text: str
    size: int
    colour: str
    bold: bool = False
    anchor: Literal["start", "middle", "end"] = "start"


Shape = Box | Line | Words


@dataclass(frozen=True)
class Drawing:
    """Shapes in the order in which they are painted, and the sentence that says them."""

    shapes: tuple[Shape, ...]
    title: str
    background: str
