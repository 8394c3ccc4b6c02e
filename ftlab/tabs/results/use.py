"""The "Use it" section of an opened run: zip, merge, script, and upload command.

No field accepts a token, because anyone who can open the page could use it. The user copies the
command and runs it where the token is in the environment.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import default_runs_folder
from ftlab.records.merge import MergeDirectory, record_words
from ftlab.records.result import OPEN
from ftlab.records.store import Run, RunStore
from ftlab.share.bundle import TOKEN, bundle_name, run_bundle, write_zip, zip_script
from ftlab.share.merge_control import start_merge, why_not_mergeable
from ftlab.share.weights import script_base, script_command, why_no_weights
from ftlab.tabs.context import DOWNLOAD, QUIET, FilesAVisitor, one_at_a_time
from ftlab.tabs.results.actions import own_runs
from ftlab.tabs.widgets import H, field_error, note_html, small_button

_SECONDS = 1.5


class Use:
    """The section, hidden until a suitable run is opened.

    `file` is hidden: it sends a file to the browser.
    """

    def __init__(self) -> None:
        fold: dict[str, Any] = {"open": False, "visible": False, "elem_classes": "ft-fold ft-use"}
        with gr.Accordion("Use it", **fold) as self.block:
            with gr.Row(elem_classes="ft-use-row"):
                self.zip = small_button("Download zip", 124, elem_id="use-zip")
                self.about_zip = H()
            with gr.Row(elem_classes="ft-use-row"):
                self.merge = small_button("Merge", 124, elem_id="use-merge")
                self.cancel = small_button("Cancel merge", 124, variant="stop", visible=False)
                self.merged = small_button("Merged zip", 124, visible=False, elem_id="use-merged")
                self.about_merge = H(elem_id="use-about-merge")
            with gr.Row(elem_classes="ft-use-row"):
                self.script = small_button("Script", 124, elem_id="use-script")
                self.about_script = H()
            self.command = gr.Textbox(
                label="Upload to the Hugging Face Hub, in a terminal", interactive=False, lines=2,
                buttons=["copy"], elem_classes="ft-mono", elem_id="use-push",
            )  # fmt: skip
            H(
                note_html(
                    f"Private unless you add --public. Set {TOKEN} in that terminal first: this "
                    "page takes no token, since whoever reaches it could then use yours."
                )
            )
            self.said = H(elem_id="use-said")
            self.file = gr.DownloadButton(elem_classes="ft-carrier")
        self.timer = gr.Timer(_SECONDS, active=False)

    @property
    def view(self) -> list[Any]:
        """The components that `use_view` updates."""
        return [
            self.block, self.zip, self.about_zip, self.merge, self.cancel, self.merged,
            self.about_merge, self.script, self.about_script, self.command, self.timer,
        ]  # fmt: skip


def wire_use(use: Use, chosen: gr.State, store: RunStore) -> None:
    """Wires the section. `chosen` holds the id of the opened run, or ""."""

    files = FilesAVisitor()

    def offer(button: gr.Button, words: str, make: Callable[[Run, RunStore], Path]) -> None:
        def made(request: gr.Request, run_id: str) -> list[Any]:
            try:
                files.check(request)
                return [str(make(store.find(run_id), store)), ""]
            except (FtlabError, OSError) as error:
                return [None, field_error([str(error)])]

        busy = button.click(lambda: note_html(words, "status"), None, use.said, **QUIET)
        busy.then(made, chosen, [use.file, use.said], **one_at_a_time("use")).success(
            None, use.file, None, js=DOWNLOAD, **QUIET
        )

    def show(run_id: str) -> list[Any]:
        return [*use_view(store, run_id), ""]

    def press(run_id: str, act: Callable[[Run], object]) -> list[Any]:
        wrong = ""
        try:
            (run,) = own_runs(store, [run_id])
            act(run)
        except FtlabError as error:
            wrong = field_error([str(error)])
        return [*use_view(store, run_id), wrong]

    def cancel(run: Run) -> None:
        MergeDirectory(run.directory).cancel()

    shown = [*use.view, use.said]
    chosen.change(show, chosen, shown, **QUIET)
    use.merge.click(partial(press, act=start_merge), chosen, shown, **QUIET)
    use.cancel.click(partial(press, act=cancel), chosen, shown, **QUIET)
    use.timer.tick(lambda run_id: use_view(store, run_id), chosen, use.view, **QUIET)
    offer(use.zip, "Packing …", zip_file)
    offer(use.merged, "Packing …", partial(zip_file, merged=True))
    offer(use.script, "Writing the script, which takes some seconds …", script_file)


def use_view(store: RunStore, run_id: str) -> list[Any]:
    """Updates for `Use.view`: what is available for the run, and why the rest is not."""
    try:
        run = store.find(run_id)
    except (FtlabError, OSError):  # imported, deleted, or no run is opened
        return [gr.Accordion(visible=False), *[gr.skip()] * 9, gr.Timer(active=False)]
    none, fixed = why_no_weights(run), why_not_mergeable(run)
    merge = MergeDirectory(run.directory)
    merging = merge.status() in OPEN
    has_merged = not merging and any(run.directory.merged.glob("*.safetensors"))
    base = run.spec.is_base
    return [
        gr.Accordion(visible=True),
        gr.Button("No weights" if none else "Download zip", interactive=not none),
        note_html(none or _about_zip(run)),
        gr.Button(interactive=not fixed, visible=not merging),
        gr.Button(visible=merging),
        gr.Button(visible=has_merged),
        merge_html(run, merge, fixed),
        gr.Button(interactive=not base),
        note_html(
            "Nothing was trained, so there is no script."
            if base
            else "reproduce.py with plain transformers and peft, and the examples of every step. "
            f"Unzip it and type there: {script_command(run.spec.model)}; "
            f"{script_base(run.spec.model)}."
        ),
        gr.Textbox(push_command(store, run), visible=not none),
        gr.Timer(active=merging or run.is_open),
    ]


def merge_html(run: Run, merge: MergeDirectory, fixed: str) -> str:
    """Progress, result or description of the merge. `fixed`: why the run cannot be merged."""
    status = merge.status()
    if status in OPEN:
        return note_html(f"{merge.progress().capitalize()} …", "status")
    try:
        record = merge.record()
    except FtlabError as error:
        return field_error([str(error)])
    parts = [note_html(sentence) for sentence in record_words(record)] if record else []
    if status in ("failed", "interrupted", "cancelled"):
        parts.insert(0, field_error([f"Not merged: {merge.reason}"]))
    return "".join(parts) or note_html(
        fixed or "A whole model that needs no PEFT, scored again on the same examples."
    )


def push_command(store: RunStore, run: Run) -> str:
    """The shell command for the upload. The user fills in OWNER/NAME."""
    command = f"python -m ftlab push {shlex.quote(run.run_id)} --repo OWNER/NAME"
    if store.folder.resolve() == default_runs_folder():
        return command
    return f"{command} --runs-dir {shlex.quote(os.path.relpath(store.folder))}"


def script_file(run: Run, store: RunStore) -> Path:
    target = _folder(run) / f"{bundle_name(run)}-script.zip"
    zip_script(run, store.folder, target)
    return target


def zip_file(run: Run, store: RunStore, merged: bool = False) -> Path:
    bundle = run_bundle(run, merged)
    target = _folder(run) / f"{bundle.name}.zip"
    write_zip(bundle, target)
    return target


def _folder(run: Run) -> Path:
    """A folder that gradio serves, one per run, so that a new file overwrites the old one."""
    folder = Path(get_upload_folder()) / "ftlab" / "use" / run.run_id
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _about_zip(run: Run) -> str:
    size = run.result.measures.adapter_bytes if run.result else None
    about = f" ({units.format_bytes(size)})" if size else ""
    return f"Weights{about}, their configuration and a model card."
