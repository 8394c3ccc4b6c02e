"""Learn: what each method can do, as observed on a tiny model."""

from __future__ import annotations

from collections.abc import Mapping

import gradio as gr

from ftlab.basics import units
from ftlab.basics.words import join_names
from ftlab.methods.capabilities import (
    COLUMNS,
    MARKS,
    Capability,
    answer,
    capabilities,
    footnotes,
    made_with,
    numbered,
)
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import FAMILIES, Family
from ftlab.tabs.context import AppContext, opened
from ftlab.tabs.learn.parts import QUIET, said, stack
from ftlab.tabs.widgets import H, blank, escape, heading, named

_EMPTY = blank(
    "No method was probed with these versions.",
    "python -m ftlab.maintain probe --write tries each on a tiny model and fills the table.",
)
_HEADING = heading(
    "What each method can do",
    sub="Seen on a tiny model, with the versions that are installed here; nothing is guessed.",
)


def view(known: Mapping[str, Capability], versions: Mapping[str, str]) -> str:
    """HTML: the table with its legend and footnotes, or how to create it if it is empty."""
    listed = {method: known[method] for method in METHODS if method in known}
    if not listed:
        return _EMPTY
    notes = footnotes(listed)
    numbers = numbered(notes)
    return stack(
        said(_finding(listed)), _table(listed, notes, numbers), _footnotes(notes, numbers),
        _legend(versions),
    )  # fmt: skip


def _finding(listed: Mapping[str, Capability]) -> str:
    usable = sum(
        capability.learns and capability.reloads and capability.answers
        for capability in listed.values()
    )
    quantised = sum(capability.on_4bit is True for capability in listed.values())
    return (
        f"{usable} of {len(listed)} methods learn, load again from their file in a fresh process, "
        f"and answer otherwise than the base. {quantised} learn on a base in 4 bits."
    )


def _table(
    listed: Mapping[str, Capability], notes: Mapping[str, str], numbers: Mapping[str, int]
) -> str:
    heads = "".join(
        f'<th scope="col" title="{escape(column.meaning)}">{escape(column.head)}</th>'
        for column in COLUMNS
    )
    bodies = "".join(
        _family(
            family, [c for m, c in listed.items() if METHODS[m].family == family], notes, numbers
        )
        for family in FAMILIES
    )
    return (
        '<div class="scroll able" tabindex="0" role="region" aria-label="What each method can do">'
        '<table class="t"><caption class="unseen">What each method can do</caption>'
        f'<thead><tr><th class="l" scope="col">method</th>{heads}'
        f'<th scope="col">file</th></tr></thead>{bodies}</table></div>'
    )


def _family(
    family: Family,
    members: list[Capability],
    notes: Mapping[str, str],
    numbers: Mapping[str, int],
) -> str:
    if not members:
        return ""
    rows = "".join(_row(member, numbers.get(notes.get(member.id, ""))) for member in members)
    title = f'<th class="l" scope="rowgroup" colspan="{len(COLUMNS) + 2}">'
    return f"<tbody><tr>{title}<span>{escape(FAMILIES[family])}</span></th></tr>{rows}</tbody>"


def _row(capability: Capability, note: int | None) -> str:
    number = f'<sup><span class="unseen">see note </span>{note}</sup>' if note else ""
    cells = "".join(_mark(answer(capability, column)) for column in COLUMNS)
    size = units.format_bytes(capability.adapter_bytes)
    return (
        f'<tr><th class="l" scope="row">{named(capability.id)}{number}</th>{cells}'
        f"<td>{escape(size)}</td></tr>"
    )


def _mark(value: bool | None) -> str:
    sign, word = MARKS[value]
    kind = {True: "yes", False: "no", None: "na"}[value]
    return (
        f'<td class="{kind}"><span aria-hidden="true">{sign}</span>'
        f'<span class="unseen">{word}</span></td>'
    )


def _footnotes(notes: Mapping[str, str], numbers: Mapping[str, int]) -> str:
    items = []
    for text, number in numbers.items():
        whose = join_names([METHODS[m].label for m, note in notes.items() if note == text])
        items.append(f'<li value="{number}"><b>{escape(whose)}</b> {escape(text)}</li>')
    return f'<ol class="notes able-notes">{"".join(items)}</ol>' if items else ""


def _legend(versions: Mapping[str, str]) -> str:
    meanings = "".join(
        f"<li><b>{escape(column.head)}</b>: {escape(column.meaning)}</li>" for column in COLUMNS
    )
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f'<details class="able-legend"><summary>What a tick means</summary><ul class="notes">'
        f"{meanings}<li><b>file</b>: the file to deliver for the tiny model, a Llama of 0.3 M "
        f'parameters</li></ul></details><p class="meta">Probed with {escape(made)}, by '
        "<code>python -m ftlab.maintain probe</code>.</p>"
    )


def build(context: AppContext) -> None:
    """Builds the panel; the table is filled when the panel is opened."""
    with gr.Column(elem_classes="ft-sheet"):
        H(_HEADING)
        table = H()
    gr.on([opened()], lambda: view(capabilities(), made_with()), None, table, **QUIET)
