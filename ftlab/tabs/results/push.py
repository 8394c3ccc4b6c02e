"""The section "Push to the Hub" of an opened run, where people log in with Hugging Face.

The token is the person's own. gradio hands it to the handler, which passes it on as an argument: no
field, no state and no environment variable holds it.
"""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.records.store import Run, RunStore
from ftlab.share.bundle import run_bundle
from ftlab.share.hub_uploads import HubUploads, Upload
from ftlab.share.model_card import bundle_name
from ftlab.share.weights import why_no_weights
from ftlab.tabs.context import QUIET
from ftlab.tabs.gate import visitor_of
from ftlab.tabs.hub_login import may_write
from ftlab.tabs.widgets import H, escape, field_error, live, note_html, small_button

_SECONDS = 1.0

NO_LOGIN = "Your login has ended; log in with Hugging Face again, and push once more."
NO_SCOPE = (
    "Your login does not let this app write to the Hub: its README.md needs contribute-repos "
    "below hf_oauth_scopes; then log out and log in again."
)


class Push:
    """The section's components."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="push", elem_classes="ft-push") as self.block:
            self.about = H(elem_id="push-about")
            self.person = gr.LoginButton(
                "Log in with Hugging Face", "Logged in as {}: log out", size="sm",
                variant="secondary", elem_id="push-login",
                icon=None,  # gradio's own names its path on this machine
            )  # fmt: skip
            self.repo = live(
                gr.Textbox, label="Repository: OWNER/NAME", max_lines=1, max_length=200,
                elem_id="push-repo",
            )  # fmt: skip
            with gr.Row(elem_classes="ft-use-row"):
                self.go = small_button("Push to the Hub", 140, elem_id="push-go")
                self.public = live(
                    gr.Checkbox, False, label="public", scale=0, min_width=90, container=False,
                    elem_id="push-public",
                )  # fmt: skip
            self.said = H(elem_id="push-said")
        self.timer = gr.Timer(_SECONDS, active=False)

    @property
    def view(self) -> list[Any]:
        """The components that `push_view` updates."""
        return [self.block, self.about, self.go, self.said, self.timer]


def wire_push(
    push: Push, chosen: gr.State, store: RunStore, uploads: HubUploads | None = None
) -> None:
    """Wires the section. `chosen` holds the id of the opened run, or ""."""
    going = uploads or HubUploads()

    def show(request: gr.Request, run_id: str, token: gr.OAuthToken | None) -> list[Any]:
        person = visitor_of(request).name
        repo = default_repo(store, run_id, person)
        return [*push_view(store, going, run_id, person, _wrong(token)), repo, False]

    def look(request: gr.Request, run_id: str) -> list[Any]:
        return push_view(store, going, run_id, visitor_of(request).name)

    def start(
        request: gr.Request, run_id: str, repo: str, public: bool, token: gr.OAuthToken | None
    ) -> list[Any]:
        person, wrong = visitor_of(request).name, _wrong(token)
        try:
            if token is not None and not wrong:
                bundle = run_bundle(store.find(run_id))
                going.start(person, run_id, bundle, repo.strip(), public, token.token)
        except (FtlabError, OSError) as error:
            wrong = str(error)
        return push_view(store, going, run_id, person, wrong)

    chosen.change(show, chosen, [*push.view, push.repo, push.public], **QUIET)
    push.go.click(start, [chosen, push.repo, push.public], push.view, **QUIET)
    push.timer.tick(look, chosen, push.view, **QUIET)


def push_view(
    store: RunStore, uploads: HubUploads, run_id: str, person: str, wrong: str = ""
) -> list[Any]:
    """Updates for `Push.view`. `wrong`: why the last press, or any, cannot be answered."""
    try:
        run = store.find(run_id)
    except (FtlabError, OSError):  # imported, deleted, or no run is opened
        return [gr.Column(visible=False), gr.skip(), gr.skip(), "", gr.Timer(active=False)]
    none = why_no_weights(run)
    upload = uploads.of(person, run_id)
    is_going = upload is not None and not upload.is_over
    return [
        gr.Column(visible=not none),
        note_html(
            "Push the weights with a model card to the Hub, with your own token, which is never "
            "stored here. Private unless you tick public."
        ),
        gr.Button("Pushing …" if is_going else "Push to the Hub", interactive=not is_going),
        field_error([wrong]) if wrong else upload_html(upload),
        gr.Timer(active=is_going),
    ]


def upload_html(upload: Upload | None) -> str:
    """HTML: how an upload stands; empty if there is none."""
    if upload is None:
        return ""
    if upload.wrong:
        return field_error([upload.wrong])
    if upload.address:
        address = escape(upload.address)
        return (
            f'<p class="meta" role="status">Pushed to <a href="{address}" target="_blank" '
            f'rel="noopener">{escape(upload.repo)}</a>.</p>'
        )
    seconds = round(time.monotonic() - upload.began)
    size = f" {units.format_bytes(upload.bytes)}" if upload.stage == "Uploading" else ""
    return note_html(f"{upload.stage}{size} … {seconds} s", "status")


def default_repo(store: RunStore, run_id: str, person: str) -> str:
    """The person's own repository, named like the zip; "" without a run."""
    try:
        run: Run = store.find(run_id)
    except (FtlabError, OSError):
        return ""
    return f"{person}/{bundle_name(run)}"


def _wrong(token: gr.OAuthToken | None) -> str:
    if token is None:
        return NO_LOGIN
    return "" if may_write(token.scope) else NO_SCOPE
