"""The card as PNG, by Pillow."""

from __future__ import annotations

from io import BytesIO

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from ftlab.report.card.content import Card
from ftlab.report.card.fonts import font
from ftlab.report.card.layout import LIGHT, Palette, draw
from ftlab.report.card.shapes import HEIGHT, WIDTH, Box, Line, Words

_SMOOTH = 4  # shapes are drawn so many times larger, then made smaller: smooth edges
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
    about.add_itxt("Source", f"ftlab, sweep {card.sweep_id}")
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
