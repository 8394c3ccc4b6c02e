"""Small HTML helpers that every tab uses.

All text from a model, a file or a user must be escaped with `escape` before it enters HTML. The
helpers here escape their plain text themselves. If a title or subtitle has to hold HTML (a colour
swatch, for example), the caller wraps it in `Markup`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup, escape

from ftlab.basics.words import plural
from ftlab.charts.html import chip, named, origin_chip, swatch

__all__ = [
    "BARE",
    "H",
    "Markup",
    "blank",
    "chip",
    "drawing_library",
    "escape",
    "field_error",
    "head",
    "heading",
    "live",
    "named",
    "note_html",
    "origin_chip",
    "plural",
    "small_button",
    "swatch",
    "table",
    "this_page",
    "warn",
]


BARE: dict[str, Any] = {"show_label": False, "container": False}
"""Options of a field whose label only a screen reader says."""


def note_html(words: str, role: str = "") -> str:
    """HTML: a line of small text; empty without words. With a `role`, e.g. "status"."""
    named_role = f' role="{role}"' if role else ""
    return f'<p class="meta"{named_role}>{escape(words)}</p>' if words else ""


def table(heads: Iterable[str], rows: Iterable[Iterable[str]], kind: str = "t") -> str:
    """HTML: a table that scrolls. Cells are plain text unless they are `Markup`.

    In a table of kind "t" the first column is text, the others are numbers.
    """

    first = ' class="l"' if kind.split()[0] == "t" else ""

    def row(cells: Iterable[str], tag: str) -> str:
        return "".join(
            f"<{tag}{'' if place else first}>{escape(cell)}</{tag}>"
            for place, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><thead><tr>{row(heads, "th")}'
        f"</tr></thead><tbody>{body}</tbody></table></div>"
    )


def H(value: str = "", **kw: Any) -> gr.HTML:
    """Returns a `gr.HTML` in the page's style; adds the given `elem_classes`."""
    extra = kw.pop("elem_classes", None) or []
    classes = ["ft", *([extra] if isinstance(extra, str) else extra)]
    return gr.HTML(value, apply_default_css=False, elem_classes=classes, **kw)


def live(component: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    """Creates an interactive component; gradio disables one that is no event's input."""
    return component(*args, interactive=True, **kw)


def small_button(label: str, min_width: int, **kw: Any) -> gr.Button:
    return gr.Button(label, size="sm", scale=0, min_width=min_width, **kw)


def heading(title: str, *right: str, sub: str = "", number: int | None = None) -> str:
    """HTML: a section heading with title, a line below it, and HTML on the right.

    `title` and `sub` are plain text unless they are `Markup`; `number` is a step number.
    """
    badge = f'<i class="n">{number}</i>' if number is not None else ""
    words = escape(title).replace(" %", "\u00a0%")
    below = f"<p>{escape(sub)}</p>" if sub else ""
    rest = f'<span class="grow"></span>{"".join(right)}' if right else ""
    return f'<div class="hd"><div><h3>{badge}{words}</h3>{below}</div>{rest}</div>'


def head(title: str, *right: str, sub: str = "", number: int | None = None) -> gr.HTML:
    """`heading` as a component."""
    return H(heading(title, *right, sub=sub, number=number))


def blank(title: str, what: str, *buttons: str) -> str:
    """HTML: an empty state, with what is missing and what to do."""
    below = f'<div class="chips">{"".join(buttons)}</div>' if buttons else ""
    return f'<div class="blank"><b>{escape(title)}</b><p>{escape(what)}</p>{below}</div>'


def field_error(messages: Iterable[str]) -> str:
    """HTML: error messages beside a field; empty if there are none."""
    return "".join(f'<p class="wrong" role="alert">{escape(text)}</p>' for text in messages)


def warn(sentence: str, **kw: Any) -> None:
    """Shows a warning in the corner of the page; escaped, as gradio renders it as HTML."""
    gr.Warning(str(escape(sentence)), **kw)


@cache
def drawing_library() -> str:
    """Address, relative to the page, of the file with which gradio draws figures; "" if unknown."""
    folder = Path(gr.__file__).parent / "templates" / "frontend" / "assets"
    found = [file.name for file in folder.glob("PlotlyPlot-*.js")]
    return f"assets/{found[0]}" if len(found) == 1 else ""


def this_page() -> gr.Blocks:
    """Returns the page that is being built, for its `load` event."""
    from gradio.context import Context

    if Context.root_block is None:
        raise RuntimeError("this_page() is called outside `with gr.Blocks()`")
    return Context.root_block
