"""The card's typeface, and how wide a text is in it: IBM Plex Sans, as gradio ships it.

Gradio is looked for, never imported. Without its files Pillow's own typeface stands in.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

FAMILY = "IBM Plex Sans, system-ui, sans-serif"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FOLDER = Path("templates/frontend/static/fonts/IBMPlexSans")
_ELLIPSIS = "…"
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMG]?B|[kMG]|s|min|h|x)(?:\W|$))")
# Line breaks and controls, and the marks that turn the reading direction of what follows.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@cache
def font(size: int, bold: bool) -> Font:
    """The typeface at `size` pixels."""
    path = font_file(bold)
    if path is not None:
        try:
            return ImageFont.truetype(str(path), size)
        except OSError:  # a FreeType that does not read woff2
            pass
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def width(text: str, size: int, bold: bool = False) -> float:
    """Pixels that the text takes."""
    return float(font(size, bold).getlength(text))


def clean(text: str) -> str:
    """The text on one line, without what a picture cannot show; numbers keep their units."""
    plain = " ".join(_INVISIBLE.sub(" ", text).split(" "))
    return _UNIT.sub("\u00a0", " ".join(plain.split()).replace("\ufffe", ""))


def cut(text: str, room: float, size: int, bold: bool = False) -> str:
    """The text, or as much of it as fits into `room` pixels with an ellipsis."""
    if width(text, size, bold) <= room:
        return text
    fitting, too_long = 0, len(text)
    while too_long - fitting > 1:
        middle = (fitting + too_long) // 2
        if width(text[:middle] + _ELLIPSIS, size, bold) <= room:
            fitting = middle
        else:
            too_long = middle
    return text[:fitting].rstrip() + _ELLIPSIS


def wrap(text: str, room: float, size: int, lines: int, bold: bool = False) -> list[str]:
    """At most so many lines of at most `room` pixels; the last one is cut if need be."""
    rest = text.split(" ")
    done: list[str] = []
    while rest and len(done) < lines - 1:
        count = 1
        while count < len(rest) and width(" ".join(rest[: count + 1]), size, bold) <= room:
            count += 1
        line, rest = " ".join(rest[:count]), rest[count:]
        if width(line, size, bold) > room:  # one word, longer than a line
            kept = cut(line, room, size, bold).removesuffix(_ELLIPSIS)
            line, rest = kept or line[:1], [line[len(kept or line[:1]) :], *rest]
        done.append(line)
    if rest:
        done.append(cut(" ".join(rest), room, size, bold))
    return [line for line in done if line]


def fit(
    text: str, room: float, sizes: range, lines: int, bold: bool = False
) -> tuple[int, list[str]]:
    """The largest of the sizes at which the text fits whole, and its lines; else the last, cut."""
    for size in sizes:
        split = wrap(text, room, size, lines, bold)
        if not split or not split[-1].endswith(_ELLIPSIS):
            return size, split
    return sizes[-1], wrap(text, room, sizes[-1], lines, bold)


def balance(text: str, room: float, size: int, lines: int, bold: bool = False) -> list[str]:
    """The text in as few lines as `wrap` needs, of like length."""
    split = wrap(text, room, size, lines, bold)
    low, high = room / 2, room
    while high - low > 8:
        middle = (low + high) / 2
        if len(wrap(text, middle, size, len(split) + 1, bold)) > len(split):
            low = middle
        else:
            high = middle
    return wrap(text, high, size, len(split), bold)


def font_file(bold: bool) -> Path | None:
    """Where gradio ships the typeface; `None` without it."""
    spec = find_spec("gradio")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / _FOLDER / f"IBMPlexSans-{'Bold' if bold else 'Regular'}.woff2"
        if path.is_file():
            return path
    return None
