"""HTML helpers that the panels of the Learn tab share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr

from ftlab.basics.errors import FtlabError
from ftlab.methods.spec import Paper
from ftlab.tabs import context
from ftlab.tabs.widgets import Markup, escape, live

QUIET: dict[str, Any] = context.QUIET | {"trigger_mode": "always_last"}
"""Options of every event of a panel: no concurrency limit, not in the API, the last choice counts.

Gradio's default drops a choice that is made while another one is being handled.
"""


FIRST = (12, "q_proj")
"""Default layer and module, if the model has them."""

USUAL_RANK = 8


def tiles(numbers: Iterable[tuple[str, str]]) -> str:
    """HTML: large numbers side by side, from (number, label) pairs."""
    cells = "".join(
        f"<div><b>{escape(number)}</b><span>{escape(words)}</span></div>"
        for number, words in numbers
    )
    return f'<div class="tiles fit">{cells}</div>'


def table(
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    label: str,
    strong_last: bool = False,
    tall: bool = False,
) -> str:
    """HTML: a small table with the caption `label`; the first column is text, others are numbers.

    Cells are plain text unless they are `Markup`. `strong_last` styles the last row as a sum; a
    `tall` table scrolls within the page, also by keyboard.
    """
    first, *others = heads
    head = f'<th class="l" scope="col">{escape(first)}</th>' + "".join(
        f'<th scope="col">{escape(name)}</th>' for name in others
    )
    lines = "".join(
        f'<tr><th class="l" scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    kind = "t facts total" if strong_last else "t facts"
    region = f' tabindex="0" role="region" aria-label="{escape(label)}"' if tall else ""
    return (
        f'<div class="scroll{" tall" if tall else ""}"{region}><table class="{kind}">'
        f'<caption class="unseen">{escape(label)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def said(*sentences: str) -> str:
    """HTML: paragraphs of the lesson; plain text unless they are `Markup`. Ignores empty ones."""
    words = "".join(f"<p>{escape(text)}</p>" for text in sentences if text)
    return f'<div class="lesson">{words}</div>' if words else ""


def stack(*parts: str) -> str:
    """HTML: joins pieces of HTML vertically, with the panel's gap between them."""
    return f'<div class="stack">{"".join(parts)}</div>'


def papers(*sources: Paper) -> str:
    """HTML: links to the papers, in one line."""
    links = ", ".join(
        f'<a href="{escape(paper.url)}" target="_blank" rel="noopener">{escape(paper.title)}</a>'
        for paper in sources
    )
    return f'<p class="meta">{links}</p>'


def code(text: str) -> Markup:
    return Markup("<code>{}</code>").format(text)


def choice(options: Sequence[tuple[str, str]], chosen: str | None) -> str | None:
    """Returns the chosen value if it is among the options, else the first one, else `None`."""
    values = [value for _, value in options]
    return chosen if chosen in values else (values[0] if values else None)


def whole_number(value: Any, name: str, most: int) -> int:
    """Returns a field's whole number from 0 to `most`; raises `FtlabError` for any other value."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and value % 1 == 0 and 0 <= value <= most:
        return int(value)
    held = "is empty" if value is None else f"holds {str(value)[:40]}"
    raise FtlabError(f"{name} {held}; give a whole number from 0 to {most:,}.")


def moved(slider_at: float | None, place: int) -> dict[str, Any]:
    """Returns the slider's update; empty if it is already there, so as not to disturb a drag."""
    return {} if slider_at == place else {"value": place}


def rank_within(rank: float | None, most: int) -> int:
    """Returns the rank of a slider from 1 to `most`, clamped; `USUAL_RANK` if none is given."""
    asked = USUAL_RANK if rank is None or not math.isfinite(rank) else round(rank)
    return min(max(asked, 1), most)


def choose_place() -> tuple[Any, Any]:
    """Builds the slider for a layer and the menu of its matrices, at `FIRST`."""
    layer = live(gr.Slider, 0, 29, FIRST[0], step=1, label="Layer", min_width=150)
    return layer, live(gr.Dropdown, [FIRST[1]], value=FIRST[1], label="Matrix", min_width=120)


def plot(visible: bool = True) -> gr.Plot:
    return gr.Plot(show_label=False, container=False, elem_classes="ft-fig", visible=visible)
