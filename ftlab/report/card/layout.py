"""Where everything stands on the card."""

from __future__ import annotations

from dataclasses import dataclass

from ftlab.methods.registry import look_of
from ftlab.report.card.content import Card, Mood, Pair, Tile, Verdict
from ftlab.report.card.fonts import balance, clean, cut, fit, width
from ftlab.report.card.shapes import HEIGHT, WIDTH, Box, Drawing, Line, Shape, Words

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
    """The card as shapes on `WIDTH` x `HEIGHT` pixels; no text is wider than its place."""
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
    """The verdict at the left, where the numbers come from at the right."""
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
    """Measured: a full square; recorded: a hatched one; imported: an empty one."""
    side = 16
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
    """Below the bars, where the runs of the two are not like for like: what differs."""
    size, lines = fit(clean(card.unlike), _INNER, range(20, 15, -1), 1)
    return [Words(_MARGIN, _UNLIKE_LINE, line, size, palette.warn) for line in lines]


def _foot(card: Card, palette: Palette) -> list[Shape]:
    """Provenance, and whose card it is."""
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
