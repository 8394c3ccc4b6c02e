"""The row below the panes: the answers as one file, and the link to the panes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ftlab.basics.errors import FtlabError
from ftlab.tabs.context import DOWNLOAD, QUIET, FilesAVisitor, one_at_a_time
from ftlab.tabs.playground.answers import answers_file, why_no_file
from ftlab.tabs.playground.links import LONGEST_PROMPT, link_notes, panes_address
from ftlab.tabs.playground.session import Session
from ftlab.tabs.widgets import H, escape, note_html, small_button

# A prompt stands behind '#', which no browser sends to a server. Returns the prompt if it is too
# long for the link.
_COPY = f"""(prompt, ...panes) => {{
  const once = {{ prompt: prompt ?? '' }};
  const fits = `${{new URLSearchParams(once)}}`.length <= {LONGEST_PROMPT};
  window.ft.address.copy(document.getElementById('pg-link'), once.prompt && fits ? once : {{}});
  return [fits ? '' : once.prompt, ...panes];
}}"""


class ShareRow:
    """The components; `outputs` change with the answers, `link_note` with the panes."""

    def __init__(self) -> None:
        with gr.Row(elem_classes="ft-tools"):
            self.file = small_button("Answers as HTML", 130, interactive=False, elem_id="pg-file")
            self.link = small_button("Copy link", 96, elem_id="pg-link")
            self.reason = H(elem_id="pg-file-reason")
            self.link_note = H(elem_id="pg-link-note")
        self._made = gr.DownloadButton(elem_classes="ft-carrier")

    @property
    def outputs(self) -> list[Any]:
        return [self.file, self.reason]

    def wire(
        self, session: gr.State, against: Any, prompt: Any, count: Any, choosers: Sequence[Any]
    ) -> None:
        """Adds the events of both buttons."""
        files = FilesAVisitor()

        def download_answers(request: gr.Request, session: Session, against: int | None) -> str:
            try:
                files.check(request)
                return str(answers_file(session, against))
            except FtlabError as error:
                raise gr.Error(str(escape(str(error))), print_exception=False) from None

        def copied(long_prompt: str, count: int, *chosen: str | None) -> str:
            return link_html(chosen[:count], long_prompt or "")

        self.file.click(
            download_answers, [session, against], self._made, **one_at_a_time("share")
        ).success(None, self._made, None, js=DOWNLOAD, **QUIET)
        self.link.click(copied, [prompt, count, *choosers], self.link_note, js=_COPY, **QUIET)


def share_updates(session: Session) -> list[Any]:
    """Returns the updates for `ShareRow.outputs`."""
    reason = why_no_file(session)
    return [gr.update(interactive=not reason), note_html(reason)]


def link_html(chosen: Sequence[str | None], long_prompt: str) -> str:
    """HTML: what the page's address names, and what a link that was copied leaves out."""
    notes = "".join(note_html(said, "status") for said in link_notes(chosen, long_prompt))
    return panes_address(chosen) + notes
