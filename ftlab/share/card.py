"""The savings card as an image: computes the layout and renders it as SVG or PNG.

The font is the one that gradio ships. Its files are located without importing gradio. If they are
missing, Pillow's default font is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Literal

from markupsafe import escape
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ftlab.methods.registry import look_of
from ftlab.share.card_content import Card, Mood, Pair, Tile, Verdict

FAMILY = "IBM Plex Sans, system-ui, sans-serif"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FOLDER = Path("templates/frontend/static/fonts/IBMPlexSans")
_ELLIPSIS = "…"
_UNIT = re.compile(r"(?<=\d) (?=(?:%|[kMG]?B|[kMG]|s|min|h|x)(?:\W|$))")
# Line breaks, control characters, marks that change the reading direction, lone surrogates.
_INVISIBLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@cache
def font(size: int, bold: bool) -> Font:
    """The font at `size` pixels."""
    path = font_file(bold)
    if path is not None:
        try:
            return ImageFont.truetype(str(path), size)
        except OSError:  # this FreeType cannot read woff2
            pass
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def width(text: str, size: int, bold: bool = False) -> float:
    """The width of the text in pixels."""
    return float(font(size, bold).getlength(text))


def clean(text: str) -> str:
    """Returns one line without unprintable characters; no-break spaces join numbers and units."""
    plain = " ".join(_INVISIBLE.sub(" ", text).split(" "))
    return _UNIT.sub("\u00a0", " ".join(plain.split()).replace("\ufffe", ""))


def cut(text: str, room: float, size: int, bold: bool = False) -> str:
    """Returns the text, cut to `room` pixels with an ellipsis if it is too wide."""
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
    """Splits the text into at most `lines` lines of `room` pixels; cuts the last one if needed."""
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
    """The largest of `sizes` at which the text fits uncut, and its lines; else the last, cut."""
    for size in sizes:
        split = wrap(text, room, size, lines, bold)
        if not split or not split[-1].endswith(_ELLIPSIS):
            return size, split
    return sizes[-1], wrap(text, room, sizes[-1], lines, bold)


def balance(text: str, room: float, size: int, lines: int, bold: bool = False) -> list[str]:
    """Splits the text into as few lines as `wrap` does, but of similar length."""
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
    """The path of the font file that gradio ships; `None` if it is missing."""
    spec = find_spec("gradio")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / _FOLDER / f"IBMPlexSans-{'Bold' if bold else 'Regular'}.woff2"
        if path.is_file():
            return path
    return None


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
    """Shapes in painting order, and a title that describes the drawing in words."""

    shapes: tuple[Shape, ...]
    title: str
    background: str


_MARGIN = 64
_INNER = WIDTH - 2 * _MARGIN
_TOP, _TOP_HEIGHT = 48, 44
_HEADLINE_TOP, _HEADLINE_BOTTOM = 116, 330
_TILES_TOP, _TILES_HEIGHT = 352, 206
_BARS_TOP, _BAR_HEIGHT, _BAR_GAP = 596, 36, 10
_UNLIKE_LINE = 750
_FOOT_TOP = 792
_PAD = 20
_MARKS: dict[Verdict, str] = {"saving": "✓", "partial": "!", "none": "×", "incomplete": "…"}
_NOTE_MARKS: dict[Mood, str] = {"plain": "", "good": "✓", "even": "≈", "bad": "!"}


@dataclass(frozen=True)
class Palette:
    page: str
    ink: str
    muted: str
    line: str
    sunk: str
    good: str
    good_fill: str
    warn: str
    warn_fill: str
    bad: str
    bad_fill: str


LIGHT = Palette(
    page="#ffffff", ink="#1b2129", muted="#57606e", line="#dfe3e8", sunk="#f4f6f8",
    good="#11704f", good_fill="#dff3ea", warn="#7a4f00", warn_fill="#fbefd3",
    bad="#b3261e", bad_fill="#fce5e3",
)  # fmt: skip
DARK = Palette(
    page="#14181f", ink="#e4e8ed", muted="#9ba6b4", line="#2a313b", sunk="#0f1319",
    good="#5fd3a5", good_fill="#12352a", warn="#f0bd5b", warn_fill="#3a2d10",
    bad="#ff9088", bad_fill="#43201e",
)  # fmt: skip


def draw(card: Card, palette: Palette = LIGHT) -> Drawing:
    """Returns the card as shapes on `WIDTH` x `HEIGHT` pixels; no text exceeds its area."""
    shapes: list[Shape] = [
        *_top(card, palette),
        *_headline(card, palette),
        *_tiles(card, palette),
        *_bars(card, palette),
        *_unlike(card, palette),
        *_foot(card, palette),
    ]
    said = " ".join(filter(None, [card.sentence, f"{card.judgement}.", card.unlike]))
    return Drawing(tuple(shapes), clean(said), palette.page)


def _top(card: Card, palette: Palette) -> list[Shape]:
    """The verdict at the left, the origin of the numbers at the right."""
    ink, fill = {
        "saving": (palette.good, palette.good_fill),
        "partial": (palette.warn, palette.warn_fill),
        "none": (palette.bad, palette.bad_fill),
        "incomplete": (palette.muted, palette.sunk),
    }[card.verdict]
    origin = clean(card.origin_text)
    origin_width = width(origin, 22) + 62
    room = _INNER - origin_width - 24
    size, (words,) = fit(clean(card.judgement), room - 68, range(24, 17, -2), 1, bold=True)
    chip_width = width(words, size, bold=True) + 68
    right = WIDTH - _MARGIN - origin_width
    middle = _TOP + _TOP_HEIGHT / 2 + 8
    return [
        Box(_MARGIN, _TOP, chip_width, _TOP_HEIGHT, fill, 8),
        Words(_MARGIN + 26, middle, _MARKS[card.verdict], 24, ink, True, "middle"),
        Words(_MARGIN + 50, middle, words, size, ink, True),
        Box(right, _TOP, origin_width, _TOP_HEIGHT, palette.page, 8, palette.muted),
        *_origin_mark(card, palette, right + 18, _TOP + 14),
        Words(right + 46, middle, origin, 22, palette.ink),
    ]


def _origin_mark(card: Card, palette: Palette, x: float, y: float) -> list[Shape]:
    """Measured: a filled square; recorded: hatched; imported: empty; predicted: a sign."""
    side = 16
    if card.origin == "predicted":
        return [Words(x + side / 2, y + side, "≈", 28, palette.ink, True, "middle")]
    if card.origin == "measured":
        return [Box(x, y, side, side, palette.ink)]
    marks: list[Shape] = [Box(x, y, side, side, palette.page, 0, palette.ink)]
    if card.origin == "recorded":
        marks += [Line(x, y + at, x + at, y, palette.ink, 2) for at in (side / 2, side)]
        marks.append(Line(x + side / 2, y + side, x + side, y + side / 2, palette.ink, 2))
    return marks


def _headline(card: Card, palette: Palette) -> list[Shape]:
    room = _INNER - 40
    sentence = clean(card.sentence)
    size, _ = fit(sentence, room, range(54, 29, -4), 3, bold=True)
    lines = balance(sentence, room, size, 3, bold=True)
    step = round(size * 1.22)
    height = _HEADLINE_BOTTOM - _HEADLINE_TOP
    first = _HEADLINE_TOP + (height - step * len(lines)) / 2 + size
    colour = look_of(card.method).colour if card.method else palette.line
    block = step * len(lines)
    return [
        Box(_MARGIN, first - size, 12, block, colour, 4),
        *(
            Words(_MARGIN + 40, first + step * row, line, size, palette.ink, True)
            for row, line in enumerate(lines)
        ),
    ]


def _tiles(card: Card, palette: Palette) -> list[Shape]:
    if not card.tiles:
        return []
    shapes: list[Shape] = [
        Box(_MARGIN, _TILES_TOP, _INNER, _TILES_HEIGHT, palette.page, 10, palette.line)
    ]
    each = _INNER / len(card.tiles)
    for number, tile in enumerate(card.tiles):
        left = _MARGIN + number * each
        if number:
            shapes.append(
                Line(left, _TILES_TOP + 1, left, _TILES_TOP + _TILES_HEIGHT - 1, palette.line)
            )
        shapes += _tile(tile, palette, left + _PAD, each - 2 * _PAD)
    return shapes


def _tile(tile: Tile, palette: Palette, x: float, room: float) -> list[Shape]:
    colours: dict[Mood, str] = {
        "plain": palette.ink, "good": palette.ink, "even": palette.ink, "bad": palette.bad,
    }  # fmt: skip
    note_colours: dict[Mood, str] = {
        "plain": palette.muted, "good": palette.good, "even": palette.muted, "bad": palette.bad,
    }  # fmt: skip
    size, lines = fit(clean(tile.value), room, range(60, 23, -4), 1, bold=True)
    y = _TILES_TOP + 72
    shapes: list[Shape] = [Words(x, y, line, size, colours[tile.mood], True) for line in lines]
    y += 8
    label_size, label = fit(clean(tile.label), room, range(23, 20, -1), 1)
    if label and label[-1].endswith("…"):
        label_size, label = fit(clean(tile.label), room, range(23, 17, -1), 2)
    for line in label:
        y += 28
        shapes.append(Words(x, y, line, label_size, palette.ink))
    detail_rows = 1 if len(label) > 1 and tile.note else 2
    detail_size, detail = fit(clean(tile.detail), room, range(19, 16, -1), detail_rows)
    y += 2
    for line in detail:
        y += 25
        shapes.append(Words(x, y, line, detail_size, palette.muted))
    if tile.note:
        words = cut(f"{_NOTE_MARKS[tile.mood]} {clean(tile.note)}".strip(), room, 20, bold=True)
        shapes.append(
            Words(x, _TILES_TOP + _TILES_HEIGHT - 18, words, 20, note_colours[tile.mood], True)
        )
    return shapes


def _bars(card: Card, palette: Palette) -> list[Shape]:
    if not card.pairs:
        return []
    each = (_INNER - 40 * (len(card.pairs) - 1)) / len(card.pairs)
    shapes: list[Shape] = []
    for number, pair in enumerate(card.pairs):
        shapes += _pair(pair, palette, _MARGIN + number * (each + 40), each)
    return shapes


def _pair(pair: Pair, palette: Palette, x: float, room: float) -> list[Shape]:
    shapes: list[Shape] = [Words(x, _BARS_TOP + 18, clean(pair.title), 22, palette.ink, True)]
    names = [cut(clean(bar.name), 170, 20) for bar in pair.bars]
    texts = [cut(clean(bar.text), 150, 20) for bar in pair.bars]
    name_room = max(width(name, 20) for name in names) + 12
    bar_room = room - name_room - max(width(text, 20) for text in texts) - 12
    for row, (bar, name, text) in enumerate(zip(pair.bars, names, texts, strict=True)):
        top = _BARS_TOP + 36 + row * (_BAR_HEIGHT + _BAR_GAP)
        length = max(3.0, bar_room * bar.length)
        base = top + _BAR_HEIGHT / 2 + 7
        shapes += [
            Words(x + name_room - 12, base, name, 20, palette.muted, anchor="end"),
            Box(x + name_room, top, length, _BAR_HEIGHT, look_of(bar.method).colour, 3),
            Words(x + name_room + length + 10, base, text, 20, palette.ink),
        ]
    return shapes


def _unlike(card: Card, palette: Palette) -> list[Shape]:
    """What differs between the runs of the two variants, below the bars."""
    size, lines = fit(clean(card.unlike), _INNER, range(20, 15, -1), 1)
    return [Words(_MARGIN, _UNLIKE_LINE, line, size, palette.warn) for line in lines]


def _foot(card: Card, palette: Palette) -> list[Shape]:
    """The provenance lines and the ftlab logo."""
    room = _INNER - 150
    shapes: list[Shape] = [
        Line(_MARGIN, _FOOT_TOP - 22, WIDTH - _MARGIN, _FOOT_TOP - 22, palette.line)
    ]
    for row, facts in enumerate(card.facts):
        size, lines = fit(clean(facts), room, range(20, 15, -1), 1)
        shapes += [
            Words(_MARGIN, _FOOT_TOP + 14 + 32 * row, line, size, palette.muted) for line in lines
        ]
    right = WIDTH - _MARGIN
    x, y = right - 118, _FOOT_TOP + 2
    shapes += [
        Box(x, y, 9, 32, palette.muted, 2),
        Box(x + 13, y, 19, 9, palette.muted, 2),
        Box(x + 13, y + 13, 19, 19, palette.line, 2),
        Words(right, y + 26, "ftlab", 30, palette.ink, True, "end"),
    ]
    return shapes


assert _FOOT_TOP + 14 + 32 < HEIGHT


def card_svg(card: Card, palette: Palette = LIGHT) -> str:
    """Returns an `<svg>` element that works in a file and in a page; all text is escaped."""
    drawing = draw(card, palette)
    inside = "\n".join(_element(shape) for shape in drawing.shapes if not _is_empty(shape))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(drawing.title)}" '
        f'font-family="{escape(FAMILY)}">\n'
        f"<title>{escape(drawing.title)}</title>\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{drawing.background}"/>\n'
        f"{inside}\n</svg>"
    )


def _element(shape: Shape) -> str:
    if isinstance(shape, Box):
        edge = f' stroke="{shape.edge}"' if shape.edge else ""
        return (
            f'<rect x="{shape.x:.1f}" y="{shape.y:.1f}" width="{shape.width:.1f}" '
            f'height="{shape.height:.1f}" rx="{shape.radius:g}" fill="{shape.fill}"{edge}/>'
        )
    if isinstance(shape, Line):
        return (
            f'<line x1="{shape.x:.1f}" y1="{shape.y:.1f}" x2="{shape.to_x:.1f}" '
            f'y2="{shape.to_y:.1f}" stroke="{shape.colour}" stroke-width="{shape.thickness:g}"/>'
        )
    weight = ' font-weight="700"' if shape.bold else ""
    anchor = "" if shape.anchor == "start" else f' text-anchor="{shape.anchor}"'
    return (
        f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size}" '
        f'fill="{shape.colour}"{weight}{anchor} lengthAdjust="spacingAndGlyphs" '
        f'textLength="{width(shape.text, shape.size, shape.bold):.1f}">{escape(shape.text)}</text>'
    )


def _is_empty(shape: Shape) -> bool:
    return isinstance(shape, Words) and not shape.text.strip()


_SMOOTH = 4  # antialiasing: shapes are drawn this many times larger, then scaled down
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}


def card_png(card: Card, palette: Palette = LIGHT) -> bytes:
    """The bytes of a PNG of `WIDTH` x `HEIGHT` pixels; its description is the card's sentence."""
    drawing = draw(card, palette)
    large = Image.new("RGB", (WIDTH * _SMOOTH, HEIGHT * _SMOOTH), drawing.background)
    pen = ImageDraw.Draw(large)
    for shape in drawing.shapes:
        if isinstance(shape, Box):
            _box(pen, shape)
        elif isinstance(shape, Line):
            ends = (shape.x, shape.y, shape.to_x, shape.to_y)
            pen.line(
                [_SMOOTH * value for value in ends],
                fill=shape.colour,
                width=round(_SMOOTH * shape.thickness),
            )
    image = large.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    pen = ImageDraw.Draw(image)
    for shape in drawing.shapes:
        if isinstance(shape, Words):
            pen.text(
                (shape.x, shape.y),
                shape.text,
                fill=shape.colour,
                font=font(shape.size, shape.bold),
                anchor=_ANCHORS[shape.anchor],
            )
    about = PngInfo()
    about.add_itxt("Description", drawing.title)
    about.add_itxt(
        "Source", f"ftlab, sweep {card.sweep_id}" if card.sweep_id else "ftlab, predicted"
    )
    buffer = BytesIO()
    image.save(buffer, "PNG", pnginfo=about, optimize=True)
    return buffer.getvalue()


def _box(pen: ImageDraw.ImageDraw, box: Box) -> None:
    corners = [box.x, box.y, box.x + box.width, box.y + box.height]
    pen.rounded_rectangle(
        [_SMOOTH * value for value in corners],
        radius=_SMOOTH * min(box.radius, box.width / 2, box.height / 2),
        fill=box.fill,
        outline=box.edge or None,
        width=_SMOOTH,
    )
