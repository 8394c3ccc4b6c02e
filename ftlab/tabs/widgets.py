"""Small pieces of HTML that every tab is built from.

Whatever comes from a model, a file or a person goes through `escape` before it enters a string of
HTML. Pieces that take plain text here do that themselves; where a title or subtitle has to hold
HTML (a swatch, say), the caller says so by wrapping it in `Markup`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import gradio as gr
from markupsafe import Markup, escape

from ftlab.basics.words import plural
from ftlab.charts.html import chip, named, origin_chip, swatch

__all__ = [
    "H",
    "Markup",
    "blank",
    "chip",
    "escape",
    "field_error",
    "head",
    "heading",
    "live",
    "named",
    "origin_chip",
    "plural",
    "swatch",
    "this_page",
    "warn",
]


def note_html(words: str) -> str:
    """HTML: a line in small letters; empty without words."""
    return f'<p class="meta">{escape(words)}</p>' if words else ""


def H(value: str = "", **kw: Any) -> gr.HTML:
    """A `gr.HTML` in the page's own style; further `elem_classes` are kept."""
    extra = kw.pop("elem_classes", None) or []
    classes = ["ft", *([extra] if isinstance(extra, str) else extra)]
    return gr.HTML(value, apply_default_css=False, elem_classes=classes, **kw)


def live(component: Callable[..., Any], *args: Any, **kw: Any) -> Any:
    """The component, usable even while it is no event's input."""
    return component(*args, interactive=True, **kw)


def heading(title: str, *right: str, sub: str = "", number: int | None = None) -> str:
    """A sheet's heading: title, one line below it, and HTML at the right.

    `title` and `sub` are plain text unless they are `Markup`; `number` draws a step's number.
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
    """An empty state: what is not there yet, and what to do about it."""
    below = f'<div class="chips">{"".join(buttons)}</div>' if buttons else ""
    return f'<div class="blank"><b>{escape(title)}</b><p>{escape(what)}</p>{below}</div>'


def field_error(messages: Iterable[str]) -> str:
    """Sentences beside a field that is wrong; empty where there are none."""
    return "".join(f'<p class="wrong" role="alert">{escape(text)}</p>' for text in messages)


def warn(sentence: str, **kw: Any) -> None:
    """Shows the sentence in the corner of the page; gradio takes such a text for HTML."""
    gr.Warning(str(escape(sentence)), **kw)


def this_page() -> gr.Blocks:
    """The page that is being built: a tab hangs its `load` event on it."""
    from gradio.context import Context

    if Context.root_block is None:
        raise RuntimeError("this_page() is called outside `with gr.Blocks()`")
    return Context.root_block
