"""Sharing a sweep in the Compare tab: the savings card, the report as one file, and the link.

Files are created only on request: a report has 5 MB, and most visitors do not need it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ftlab.basics.errors import FtlabError
from ftlab.records.store import SweepData, sweep_data
from ftlab.share.card import DARK, LIGHT, card_svg
from ftlab.share.card_content import Card, card_of, card_variants
from ftlab.share.report import file_stem, sweep_report, unreadable_notes, write_card, write_report
from ftlab.tabs.compare.layout import Layout, Section
from ftlab.tabs.context import DOWNLOAD, QUIET, AppContext, FilesAVisitor, one_at_a_time
from ftlab.tabs.widgets import H, escape, heading, live

_TITLE = heading(
    "Show it to others",
    sub="The card fits a slide. The report is one file: it opens without a network, prints to PDF, "
    "and says how each number was measured.",
)
_KINDS = (("Card as PNG", "png"), ("Card as SVG", "svg"), ("Report as HTML", "html"))


def build(context: AppContext) -> Section:
    """Builds the section with the card, its choice of method, and the download buttons."""
    shown = gr.State("")  # id of the sweep
    with gr.Column(elem_classes="ft-sheet ft-share"):
        title = H()
        with gr.Row(elem_classes="ft-tools"):
            variant = live(
                gr.Radio, [], label="Method on the card", show_label=False, container=False,
                elem_classes="ft-seg", elem_id="share-variant",
            )  # fmt: skip
            buttons = [
                gr.Button(
                    label, size="sm", scale=0, min_width=116, elem_id=f"share-{kind}",
                    variant="primary" if kind == "html" else "secondary",
                )
                for label, kind in _KINDS
            ]  # fmt: skip
            link = gr.Button("Copy link", size="sm", scale=0, min_width=96, elem_id="share-link")
        picture = H()

    def choose(sweep: str, name: str | None) -> Any:
        try:
            return picture_html(card_of(sweep_data(context.store, sweep), name))
        except FtlabError as error:
            raise _shown_error(error) from None

    variant.input(choose, [shown, variant], picture, **QUIET)
    copy_link(link)
    files = FilesAVisitor()
    for button, (_, kind) in zip(buttons, _KINDS, strict=True):
        offer_file(button, context, kind, files, [shown, variant])

    def show(data: SweepData) -> list[Any]:
        card = card_of(data)
        names = card_variants(data)
        done = bool((data.table["status"] == "done").any())
        return [
            data.sweep_id,
            _TITLE,
            gr.Radio(choices=names, value=card.variant or None, visible=len(names) > 1),
            *[gr.Button(interactive=done)] * len(buttons),
            picture_html(card),
        ]

    return Section((shown, title, variant, *buttons, picture), show)


def copy_link(button: gr.Button) -> None:
    """Copies the address of what is shown at a press of the button."""
    js = f"() => window.ft.address.copy(document.getElementById('{button.elem_id}'))"
    button.click(fn=None, js=js, api_visibility="private")


def offer_file(
    button: gr.Button, context: AppContext, kind: str, files: FilesAVisitor, inputs: list[Any]
) -> None:
    """Makes the button download a file of `share_file`; `inputs`: the sweep, and maybe a variant.

    `files` limits how many a visitor gets.
    """
    file = gr.DownloadButton(elem_classes="ft-carrier")
    made = button.click(_maker(context, kind, files), inputs, file, **one_at_a_time("share"))
    made.success(None, file, None, js=DOWNLOAD, **QUIET)


def build_top(context: AppContext, parts: Layout) -> None:
    """Wires the buttons at the top: the card of the method in the headline, report and link."""
    files = FilesAVisitor()
    for button, kind in ((parts.card, "png"), (parts.report, "html")):
        offer_file(button, context, kind, files, [parts.sweep, parts.adapter])
    copy_link(parts.link)


def picture_html(card: Card) -> str:
    """HTML: the card in light and dark colours; the stylesheet shows one of them."""
    return (
        f'<div class="card-picture light">{card_svg(card, LIGHT)}</div>'
        f'<div class="card-picture dark">{card_svg(card, DARK)}</div>'
    )


def share_file(context: AppContext, kind: str, sweep: str, variant: str | None) -> Path:
    """Writes the card ("png", "svg") or the report ("html") of a sweep for download.

    Raises `FtlabError` if the sweep no longer exists or has no finished run.
    """
    data = sweep_data(context.store, sweep)
    card = card_of(data, variant)
    folder = Path(get_upload_folder()) / "ftlab" / file_stem("share", sweep)
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "html":
        path = folder / f"{file_stem('report', sweep, card.variant)}.html"
        write_report(path, sweep_report(data, variant, unreadable_notes(context.store, sweep)))
    else:
        path = folder / f"{file_stem('card', sweep, card.variant)}.{kind}"
        write_card(path, card)
    return path


def _maker(context: AppContext, kind: str, files: FilesAVisitor) -> Callable[..., str]:
    def make(request: gr.Request, sweep: str, variant: str | None = None) -> str:
        try:
            files.check(request)
            return str(share_file(context, kind, sweep, variant))
        except FtlabError as error:
            raise _shown_error(error) from None

    return make


def _shown_error(error: FtlabError) -> gr.Error:
    """Returns the error for the corner of the page; escaped, as gradio renders it as HTML."""
    return gr.Error(str(escape(str(error))), print_exception=False)
