"""Builds one self-contained HTML file: no network, light and dark mode, printable.

Only the scripts given to it can run; the content security policy lists their hashes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from ftlab.share.card import font_file

_STYLE, _REPORT_STYLE = (
    Path(__file__).with_name(name).read_text(encoding="utf-8")
    for name in ("page.css", "report.css")
)
NOTHING = Markup("")

_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; "
    "font-src data:; img-src data:"
)
"""Opening the file runs no script of a section and loads nothing from the network."""


def standalone(
    title: str, sections: Sequence[str], style: str = "", scripts: Sequence[str] = ()
) -> str:
    """Returns the page as one self-contained document.

    `title` is plain text. Each section is HTML from a function of this package, in which all text
    of models, files and people is escaped. `style` is extra CSS. `scripts` run in order, after the
    sections; they contain nothing from a record.
    """
    body = "".join(f"<section>{section}</section>\n" for section in sections)
    run = "".join(f"<script>{script}</script>\n" for script in scripts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{escape(title)}</h1>\n{body}</main>\n{run}</body>\n</html>\n"
    )


def each(template: str, rows: Iterable[Sequence[Any]]) -> Markup:
    """The template, filled with each row of values, which are escaped unless they are `Markup`."""
    return NOTHING.join(Markup(template).format(*row) for row in rows)


def small_print(*texts: object) -> Markup:
    """A paragraph in small print for each text that is not empty."""
    return each('<p class="meta">{}</p>', ((text,) for text in texts if text))


def table(name: str, kind: str, heads: Markup, body: Markup) -> Markup:
    """A table with the CSS class `kind`, which scrolls sideways if too wide, also by keyboard."""
    return Markup(
        '<div class="scroll" tabindex="0" role="region" aria-label="{}"><table class="{}">'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(name, kind, heads, body)


def numbers_table(
    name: str,
    kind: str,
    first: str,
    heads: Sequence[Any],
    rows: Iterable[tuple[Any, Sequence[str]]],
    labels: Sequence[str],
) -> Markup:
    """A table of numbers: a row has a name and a number for each of `heads`.

    On a phone, where a table has no heads, `labels` stand beside the numbers.
    """
    body = each("<tr><th>{}</th>{}</tr>", (
        (row, each('<td class="num" data-label="{}">{}</td>', zip(labels, cells, strict=True)))
        for row, cells in rows
    ))  # fmt: skip
    columns = each('<th class="num">{}</th>', ((head,) for head in heads))
    return table(name, f"{kind} stack", Markup("<th>{}</th>{}").format(first, columns), body)


def _policy(scripts: Sequence[str]) -> str:
    if not scripts:
        return _POLICY
    for script in scripts:
        if "</script" in script.lower() or "\r" in script or "\0" in script:
            raise ValueError("a browser would not read this script as it is written")
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return f"{_POLICY} blob:; script-src {hashes}"


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def stylesheet() -> str:
    """The report's CSS, with the card's font embedded if it is found: the file loads nothing."""
    faces = ""
    for bold, weight in ((False, 400), (True, 700)):
        path = font_file(bold)
        if path is not None:
            data = base64.b64encode(path.read_bytes()).decode()
            faces += (
                f'@font-face {{ font-family:"IBM Plex Sans"; font-weight:{weight};'
                f' src:url("data:font/woff2;base64,{data}") format("woff2") }}\n'
            )
    return faces + _REPORT_STYLE
