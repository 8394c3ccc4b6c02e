"""Inputs that the browser keeps from one visit to the next, also when the app was restarted.

A `TabSpec` lists them in `kept`. The tab shows a `kept_line` and writes `kept_html` into it at each
change; `assets/kept.js` puts its values into the browser's storage. When the tab is first shown,
they are sent back as `Links.kept`. An address that names what the tab shows wins over them.

Not `gr.BrowserState`: it keeps nothing that is empty, reads its storage only after the page has
asked for its first values, and encrypts with a secret that it sends to the browser anyway.

What a browser sends back is hostile. Here its size and type are checked; the tab checks each value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from ftlab.basics.errors import FtlabError
from ftlab.tabs.address import read_address
from ftlab.tabs.context import QUIET, READY, KeptInputs, Links, TabSpec, first_shown
from ftlab.tabs.requests import WrongCall, names_of_event
from ftlab.tabs.widgets import H, escape, warn

MOST_CHARACTERS = 50_000
"""Of one tab's inputs as JSON."""

_FOLLOW = """window.ft.kept.line(
  element, (keep) => watch('value', keep), () => trigger('select', {}));"""
_ANEW = "Start from the defaults"


def kept_line() -> gr.HTML:
    """The line that says that inputs are kept. Its `select` asks for the defaults."""
    return H(js_on_load=_FOLLOW, elem_classes="ft-kept")


def kept_html(kept: KeptInputs, values: Mapping[str, Any]) -> str:
    """HTML: the values that the browser is to keep; with none, it forgets those that it has."""
    text = json.dumps({"version": kept.version, "values": values}) if values else ""
    said = "This browser keeps these inputs for the next visit."
    if len(text) > MOST_CHARACTERS:
        text, said = "", "These inputs are too long for this browser to keep."
    line = f'<span>{said}</span> <button type="button" class="ghost">{_ANEW}</button>'
    return (
        f'<p class="meta" data-kept="{escape(kept.name)}" data-values="{escape(text)}">'
        f"{line if values else ''}</p>"
    )


def read_kept(kept: KeptInputs, text: str) -> dict[str, Any]:
    """Returns the values that `kept_html` wrote, of any JSON type; {} if there are none.

    Raises `FtlabError` if the browser sent anything else.
    """
    if not text:
        return {}
    try:
        found = names_of_event(json.loads(text)) if len(text) <= MOST_CHARACTERS else {}
    except (ValueError, RecursionError, WrongCall):
        found = {}
    values = found.get("values")
    if not isinstance(values, dict):
        raise FtlabError(
            "What this browser kept cannot be read; the page is shown as at the first visit."
        )
    if found.get("version") != kept.version:
        raise FtlabError(
            "What this browser kept is from another version of ftlab; the page is shown as at the "
            "first visit."
        )
    return values


def build_kept(spec: TabSpec, links: Links) -> None:
    """Gives a tab the inputs that the browser kept, once it is shown for the first time.

    To be called while the tab is being built. What cannot be read is only reported.
    """
    for one in spec.kept:
        state = links.kept[one.name]
        sent = [gr.Textbox(visible=False) for _ in range(2)]

        def give_back(address: str, text: str, one: KeptInputs = one) -> list[Any]:
            try:
                shown, asked = read_address(address)
            except FtlabError:  # reported where the address is followed
                shown, asked = None, {}
            values: dict[str, Any] = {}
            try:
                if spec is not shown or not any(asked.values()):
                    values = read_kept(one, text)
            except FtlabError as error:
                warn(str(error), title=spec.name)
            return [values, gr.skip()] if values else [gr.skip(), READY]

        first_shown()(
            give_back, sent, [state.given, state.ready],
            js="() => [window.ft.address.asked(), "
            f"window.ft.kept.text('{one.name}', {MOST_CHARACTERS + 1})]",
            **QUIET,
        )  # fmt: skip
