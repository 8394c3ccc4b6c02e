"""The "Use it" section of an opened run: zip, merge, script, and upload command.

No field accepts a token, because anyone who can open the page could use it. The user copies the
command and runs it where the token is in the environment.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
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
from ftlab.tabs.widgets import H, escape, field_error

_SECONDS = 1.5


@dataclass(frozen=True)
class Use:
    """The section's components. `file` is hidden: it sends a file to the browser."""

    block: gr.Accordion
    zip: gr.Button
    about_zip: gr.HTML
    merge: gr.Button
    cancel: gr.Button
    merged: gr.Button
    about_merge: gr.HTML
    script: gr.Button
    about_script: gr.HTML
    command: gr.Textbox
    about_push: gr.HTML
    said: gr.HTML
    file: gr.DownloadButton
    timer: gr.Timer

    @property
    def view(self) -> list[Any]:
        """The components that `use_view` updates."""
        return [
            self.block, self.zip, self.about_zip, self.merge, self.cancel, self.merged,
            self.about_merge, self.script, self.about_script, self.command, self.timer,
        ]  # fmt: skip


def build_use() -> Use:
    """Builds the section, hidden until a suitable run is opened."""
    small: dict[str, Any] = {"size": "sm", "scale": 0, "min_width": 124}
    with gr.Accordion("Use it", open=False, visible=False, elem_classes="ft-fold ft-use") as block:
        with gr.Row(elem_classes="ft-use-row"):
            zip_button = gr.Button("Download zip", elem_id="use-zip", **small)
            about_zip = H()
        with gr.Row(elem_classes="ft-use-row"):
            merge = gr.Button("Merge", elem_id="use-merge", **small)
            cancel = gr.Button("Cancel merge", variant="stop", visible=False, **small)
            merged = gr.Button("Merged zip", visible=False, elem_id="use-merged", **small)
            about_merge = H(elem_id="use-about-merge")
        with gr.Row(elem_classes="ft-use-row"):
            script = gr.Button("Script", elem_id="use-script", **small)
            about_script = H()
        command = gr.Textbox(
            label="Upload to the Hugging Face Hub, in a terminal",
            interactive=False,
            lines=2,
            buttons=["copy"],
            elem_classes="ft-mono",
            elem_id="use-push",
        )
        about_push = H(
            f'<p class="meta">Private unless you add --public. Set {TOKEN} in that terminal '
            "first: this page takes no token, since whoever reaches it could then use yours.</p>"
        )
        said = H(elem_id="use-said")
        file = gr.DownloadButton(elem_classes="ft-carrier")
    return Use(
        block, zip_button, about_zip, merge, cancel, merged, about_merge, script, about_script,
        command, about_push, said, file, gr.Timer(_SECONDS, active=False),
    )  # fmt: skip


def wire_use(use: Use, chosen: gr.State, store: RunStore) -> None:
    """Wires the section. `chosen` holds the id of the opened run, or ""."""

    def show(run_id: str) -> list[Any]:
        return [*use_view(store, run_id), ""]

    files = FilesAVisitor()

    def offer(button: gr.Button, words: str, make: Callable[[Run, RunStore], Path]) -> None:
        def made(request: gr.Request, run_id: str) -> list[Any]:
            try:
                files.check(request)
                return [str(make(store.find(run_id), store)), ""]
            except (FtlabError, OSError) as error:
                return [None, field_error([str(error)])]

        busy = button.click(
            lambda: f'<p class="meta" role="status">{words}</p>', None, use.said, **QUIET
        )
        busy.then(made, chosen, [use.file, use.said], **one_at_a_time("use")).success(
            None, use.file, None, js=DOWNLOAD, **QUIET
        )

    def press(act: Callable[[Run], object]) -> Callable[[str], list[Any]]:
        def handler(run_id: str) -> list[Any]:
            try:
                (run,) = own_runs(store, [run_id])
                act(run)
                wrong = ""
            except FtlabError as error:
                wrong = field_error([str(error)])
            return [*use_view(store, run_id), wrong]

        return handler

    chosen.change(show, chosen, [*use.view, use.said], **QUIET)
    use.timer.tick(lambda run_id: use_view(store, run_id), chosen, use.view, **QUIET)
    offer(use.zip, "Packing …", adapter_file)
    offer(use.merged, "Packing …", merged_file)
    offer(use.script, "Writing the script, which takes some seconds …", script_file)
    for button, act in (
        (use.merge, start_merge),
        (use.cancel, lambda run: MergeDirectory(run.directory).cancel()),
    ):
        button.click(press(act), chosen, [*use.view, use.said], **QUIET)


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
        _meta(none or _about_zip(run)),
        gr.Button(interactive=not fixed, visible=not merging),
        gr.Button(visible=merging),
        gr.Button(visible=has_merged),
        merge_html(run, merge, fixed),
        gr.Button(interactive=not base),
        _meta(
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
        return f'<p class="meta" role="status">{escape(merge.progress().capitalize())} …</p>'
    try:
        record = merge.record()
    except FtlabError as error:
        return field_error([str(error)])
    parts = [_meta(sentence) for sentence in record_words(record)] if record else []
    if status in ("failed", "interrupted", "cancelled"):
        parts.insert(0, field_error([f"Not merged: {merge.reason}"]))
    return "".join(parts) or _meta(
        fixed or "A whole model that needs no PEFT, scored again on the same examples."
    )


def push_command(store: RunStore, run: Run) -> str:
    """The shell command for the upload. The user fills in OWNER/NAME."""
    command = f"python -m ftlab push {shlex.quote(run.run_id)} --repo OWNER/NAME"
    if store.folder.resolve() == default_runs_folder():
        return command
    return f"{command} --runs-dir {shlex.quote(os.path.relpath(store.folder))}"


def adapter_file(run: Run, store: RunStore) -> Path:
    return _zip_file(run, merged=False)


def merged_file(run: Run, store: RunStore) -> Path:
    return _zip_file(run, merged=True)


def script_file(run: Run, store: RunStore) -> Path:
    target = _folder(run) / f"{bundle_name(run)}-script.zip"
    zip_script(run, store.folder, target)
    return target


def _zip_file(run: Run, merged: bool) -> Path:
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


def _meta(text: str) -> str:
    return f'<p class="meta">{escape(text)}</p>'
