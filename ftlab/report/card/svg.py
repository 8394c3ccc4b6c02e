"""The card as SVG: text stays text, and takes the measured width in whatever font it is shown."""

from __future__ import annotations

from markupsafe import escape

from ftlab.report.card.content import Card
from ftlab.report.card.fonts import FAMILY, width
from ftlab.report.card.layout import LIGHT, Palette, draw
from ftlab.report.card.shapes import HEIGHT, WIDTH, Box, Line, Shape, Words


def card_svg(card: Card, palette: Palette = LIGHT) -> str:
    """An `<svg>` element, fit for a file and for a page; everything in it is escaped."""
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
