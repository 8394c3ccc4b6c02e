"""Actions on runs from the Results tab, and the "Use it" section of an opened run.

Runs shipped with ftlab are read-only. Imported results can only be removed.

No field accepts a token, because anyone who can open the page could use it. The user copies the
command and runs it where the token is in the environment. In a Space where people log in with
Hugging Face, `push` has a section for the upload instead.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from ftlab.basics import units
from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.basics.files import default_runs_folder
from ftlab.basics.people import asking
from ftlab.basics.words import some_names
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.jobs.launch import enqueue_again, room_for
from ftlab.jobs.launchers.hub_errors import TOKEN
from ftlab.records.merge import MergeDirectory, record_words
from ftlab.records.published import remove_published
from ftlab.records.removal import removable, remove_runs
from ftlab.records.result import OPEN
from ftlab.records.resume import ask_to_resume
from ftlab.records.run import Annotations, parse_tags, write_annotations
from ftlab.records.store import Run, RunStore, sweep_data
from ftlab.share.bundle import run_bundle, write_zip, zip_script
from ftlab.share.gguf_control import file_name as gguf_name
from ftlab.share.gguf_control import usual_type, write_in_process
from ftlab.share.merge_control import start_merge, why_not_mergeable
from ftlab.share.model_card import bundle_name
from ftlab.share.pack import file_name, pack_sweep, why_not_packable
from ftlab.share.unpack import remove_opened
from ftlab.share.weights import script_base, script_command, why_no_weights
from ftlab.tabs.context import DOWNLOAD, QUIET, FilesAVisitor, one_at_a_time
from ftlab.tabs.results.columns import run_name, sweep_name
from ftlab.tabs.results.push import Push, wire_push
from ftlab.tabs.widgets import H, field_error, live, note_html, plural, small_button

_MOST_NAMED = 6


def own_runs(store: RunStore, run_ids: Collection[str]) -> list[Run]:
    """Returns these runs. Raises `FtlabError` for an id that is not in the store's folder."""
    if not run_ids:
        raise FtlabError("No run is ticked; tick the rows that are meant.")
    known = {run.run_id: run for run in store.runs()}
    for run_id in run_ids:
        if run_id not in known:
            raise FtlabError(_not_own(store, run_id))
    return [known[run_id] for run_id in dict.fromkeys(run_ids)]


def changeable_runs(store: RunStore, run_ids: Collection[str]) -> list[Run]:
    """As `own_runs`; raises `FtlabError`, too, if one is somebody else's."""
    runs = own_runs(store, run_ids)
    for run in runs:
        asking().check_change(run.spec.owner, f"The run {run_name(run.run_id)}")
    return runs


def delete_question(store: RunStore, run_ids: Sequence[str]) -> str:
    """The confirmation question. Raises `FtlabError` if the runs cannot be deleted."""
    own, imported, opened = _to_delete(store, run_ids)
    removable(store.folder, own)
    parts = []
    if own:
        goes = "Its adapter goes with it" if len(own) == 1 else "Their adapters go with them"
        named = some_names([run_name(run_id) for run_id in own], _MOST_NAMED)
        parts.append(f"Delete {plural(len(own), 'run')} ({named})? {goes}; this cannot be undone.")
    if imported:
        parts.append(
            f"Remove {plural(len(imported), 'imported result')}? "
            "They can be imported again from their files."
        )
    for sweep in opened:
        count = sum(run.spec.sweep_id == sweep and not run.spec.is_base for run in store.opened())
        parts.append(
            f"Remove the whole sweep {sweep_name(sweep)} ({plural(count, 'run')}) from another "
            "machine, with its adapters in the Playground? It can be opened again from its file."
        )
    return " ".join(parts)


def delete(store: RunStore, run_ids: Sequence[str]) -> str:
    """Deletes own runs permanently; removes imported results and opened sweeps."""
    own, imported, opened = _to_delete(store, run_ids)
    gone = remove_runs(store.folder, own)
    if imported:
        remove_published(store.folder, imported)
    parts = [f"{plural(len(own), 'run')} deleted"] if own else []
    bases = len(gone) - len(own)
    if bases:
        parts.append(f"with {plural(bases, 'base run')} that no other run needs")
    if imported:
        parts.append(f"{plural(len(imported), 'imported result')} removed")
    for sweep in opened:
        remove_opened(store.folder, sweep)
    if opened:
        parts.append(f"{plural(len(opened), 'opened sweep')} removed")
    return ", ".join(parts) + "."


def archive(store: RunStore, run_ids: Sequence[str], archived: bool) -> str:
    """Archives or unarchives runs. Deletes no files."""
    runs = changeable_runs(store, run_ids)
    for run in runs:
        _annotate(run, replace(run.annotations, archived=archived))
    if not archived:
        return f"{plural(len(runs), 'run')} taken out of the archive."
    return f"{plural(len(runs), 'run')} archived; the filter 'Show archived' brings them back."


def all_archived(store: RunStore, run_ids: Collection[str]) -> bool:
    """Whether all runs are archived, so that only unarchiving makes sense."""
    wanted = set(run_ids)
    found = [run for run in store.runs() if run.run_id in wanted]
    return bool(found) and all(run.annotations.archived for run in found)


def tag(store: RunStore, run_ids: Sequence[str], text: str, instead: bool = False) -> str:
    """Adds the tags in the text to the runs. With `instead`, replaces their tags."""
    tags = parse_tags(text or "")
    if not tags and not instead:
        raise FtlabError("No tag is given; write one or more, as in demo, for Ada.")
    runs = changeable_runs(store, run_ids)
    kept = [() if instead else run.annotations.tags for run in runs]
    changed = [parse_tags(", ".join((*own, *tags))) for own in kept]  # all checked before a write
    for run, new in zip(runs, changed, strict=True):
        _annotate(run, replace(run.annotations, tags=new))
    if not tags:
        return f"Tags taken from {plural(len(runs), 'run')}."
    done = "tagged with" if instead else "also tagged with"
    return f"{plural(len(runs), 'run')} {done} {', '.join(tags)}."


def save_notes(store: RunStore, run_id: str, tags: str, note: str) -> str:
    """Replaces one run's tags and note."""
    (run,) = changeable_runs(store, [run_id])
    _annotate(run, replace(run.annotations, tags=parse_tags(tags or ""), note=(note or "").strip()))
    return "Saved."


def run_again(store: RunStore, run_ids: Sequence[str]) -> str:
    """Queues the same runs again as new sweeps and starts the dispatcher."""
    runs = own_runs(store, run_ids)
    try:
        sweeps = enqueue_again([run.spec for run in runs], store.folder)
    except InvalidRequest as error:
        raise FtlabError(f"Not queued: {error.errors[0].message}") from None
    start_dispatcher(store.folder)
    count = sum(not spec.is_base for specs in sweeps for spec in specs)
    return (
        f"{plural(count, 'run')} queued in {plural(len(sweeps), 'new sweep')}; "
        "Experiment shows how they go."
    )


def resume(store: RunStore, run_ids: Sequence[str]) -> str:
    """Queues runs that ended early, to resume from their checkpoints."""
    runs = changeable_runs(store, run_ids)
    with room_for(len(runs), store.folder):
        for run in runs:
            ask_to_resume(run.directory)
    start_dispatcher(store.folder)
    return f"{plural(len(runs), 'run')} queued to go on; Experiment shows how."


def can_clone(store: RunStore, run_ids: Sequence[str]) -> list[str]:
    """The ids of own, opened and shipped runs, whose settings can be copied into Experiment.

    Raises `FtlabError` if there are none.
    """
    published = {run.run_id for run in store.published()}
    found = [run_id for run_id in run_ids if run_id not in published]
    if not found:
        raise FtlabError(
            "Imported results have no settings that Experiment could take over; tick a run."
        )
    return [store.find(run_id).run_id for run_id in found]


def _to_delete(store: RunStore, run_ids: Sequence[str]) -> tuple[list[str], list[str], list[str]]:
    """Returns (own runs, imported results, opened sweeps). Raises `FtlabError` for any other id."""
    own = {run.run_id for run in store.runs()}
    published = {run.run_id for run in store.published()}
    sweeps = {run.run_id: run.spec.sweep_id for run in store.opened() if run.run_id not in own}
    imported = [run_id for run_id in run_ids if run_id in published]
    opened = list(dict.fromkeys(sweeps[run_id] for run_id in run_ids if run_id in sweeps))
    others = [run_id for run_id in run_ids if run_id not in published and run_id not in sweeps]
    if others or not (imported or opened):
        others = [run.run_id for run in own_runs(store, others)]
    return others, imported, opened


def _annotate(run: Run, annotations: Annotations) -> None:
    if annotations != run.annotations:
        write_annotations(run.directory, annotations)


def _not_own(store: RunStore, run_id: str) -> str:
    if any(run.run_id == run_id for run in store.shipped()):
        return (
            f"{run_name(run_id)} comes recorded with ftlab and is read-only; "
            "clone it into Experiment to run it here."
        )
    if any(run.run_id == run_id for run in store.opened()):
        return (
            f"{run_name(run_id)} is from another machine and read-only; clone it into Experiment, "
            "or remove its whole sweep."
        )
    if any(run.run_id == run_id for run in store.published()):
        return f"{run_id[:80]} was imported and is read-only; it can only be removed."
    return f"There is no run '{run_id[:80]}' in this runs folder; it may have been deleted."


_SECONDS = 1.5


class Use:
    """The section, hidden until a suitable run is opened.

    `file` is hidden: it sends a file to the browser.
    """

    def __init__(self, may_pack: bool = True, pushes: bool = False) -> None:
        """`pushes`: everybody has a token of their own, so the page uploads."""
        fold: dict[str, Any] = {"open": False, "visible": False, "elem_classes": "ft-fold ft-use"}
        with gr.Accordion("Use it", **fold) as self.block:
            with gr.Row(elem_classes="ft-use-row"):
                self.zip = small_button("Download zip", 124, elem_id="use-zip")
                self.about_zip = H()
            with gr.Row(elem_classes="ft-use-row"):
                self.merge = small_button("Merge", 124, elem_id="use-merge")
                self.cancel = small_button("Cancel merge", 124, variant="stop", visible=False)
                self.merged = small_button("Merged zip", 124, visible=False, elem_id="use-merged")
                self.gguf = small_button("GGUF", 80, visible=False, elem_id="use-gguf")
                self.about_merge = H(elem_id="use-about-merge")
            with gr.Row(elem_classes="ft-use-row", visible=may_pack):
                self.pack = small_button("Pack sweep", 124, elem_id="use-pack")
                self.adapters = live(
                    gr.Checkbox, False, label="with adapters", scale=0, min_width=130,
                    container=False, elem_id="use-adapters",
                )  # fmt: skip
                self.about_pack = H()
            with gr.Row(elem_classes="ft-use-row"):
                self.script = small_button("Script", 124, elem_id="use-script")
                self.about_script = H()
            self.push = Push() if pushes else None
            with gr.Column(visible=not pushes) as self.by_command:
                self.command = gr.Textbox(
                    label="Upload to the Hugging Face Hub, in a terminal", interactive=False,
                    lines=2, buttons=["copy"], elem_classes="ft-mono", elem_id="use-push",
                )  # fmt: skip
                H(
                    note_html(
                        f"Private unless you add --public. Set {TOKEN} in that terminal first: "
                        "this page takes no token, since whoever reaches it could then use yours."
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
            self.gguf, self.about_merge, self.pack, self.adapters, self.about_pack, self.script,
            self.about_script, self.command, self.timer,
        ]  # fmt: skip


def wire_use(use: Use, chosen: gr.State, store: RunStore, access: Access = EVERYTHING) -> None:
    """Wires the section. `chosen` holds the id of the opened run, or ""."""

    files = FilesAVisitor()
    if use.push is not None:
        wire_push(use.push, chosen, store)

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

    def pack(request: gr.Request, run_id: str, adapters: bool) -> list[Any]:
        try:
            files.check(request)
            access.check_upload()  # a public demo packs nothing
            file, said = packed_file(store.find(run_id), store, adapters)
            return [str(file), note_html(said, "status")]
        except (FtlabError, OSError) as error:
            return [None, field_error([str(error)])]

    packing = use.pack.click(lambda: note_html("Packing …", "status"), None, use.said, **QUIET)
    packing.then(
        pack, [chosen, use.adapters], [use.file, use.said], **one_at_a_time("use")
    ).success(None, use.file, None, js=DOWNLOAD, **QUIET)

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
    offer(use.gguf, "Writing the GGUF file and reading it back …", gguf_file)
    offer(use.script, "Writing the script, which takes some seconds …", script_file)


def use_view(store: RunStore, run_id: str) -> list[Any]:
    """Updates for `Use.view`: what is available for the run, and why the rest is not."""
    try:
        run = store.find(run_id)
    except (FtlabError, OSError):  # imported, deleted, or no run is opened
        return [gr.Accordion(visible=False), *[gr.skip()] * 13, gr.Timer(active=False)]
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
        gr.Button(visible=has_merged),
        merge_html(run, merge, fixed),
        *_pack_view(store, run),
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
    if record:
        parts.append(note_html("GGUF: the merged model as one file for llama.cpp."))
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


def _pack_view(store: RunStore, run: Run) -> list[Any]:
    data = sweep_data(store, run.spec.sweep_id)
    why = why_not_packable(data)
    size = sum(
        other.result.measures.adapter_bytes or 0
        for other in data.own_runs
        if other.result and other.has_weights and not why_no_weights(other) and _is_adapter(other)
    )
    more = f"; adapters add about {units.format_bytes(size)}" if size else ""
    return [
        gr.Button(interactive=not why),
        gr.Checkbox(visible=bool(size) and not why),
        note_html(
            why
            or f"All {plural(len(data.own_runs), 'run')} of this sweep as one file{more}: results, "
            "curves and answers to the test prompts. Open sweep in another ftlab shows it."
        ),
    ]


def _is_adapter(run: Run) -> bool:
    return run.spec.variant is not None and run.spec.variant.spec.is_adapter


def packed_file(run: Run, store: RunStore, adapters: bool) -> tuple[Path, str]:
    """Packs the sweep of the run; returns the file, and a sentence about it."""
    target = _folder(run) / file_name(run.spec.sweep_id)
    packed = pack_sweep(sweep_data(store, run.spec.sweep_id), target, adapters)
    return target, " ".join([packed.sentence, *packed.left_out])


def script_file(run: Run, store: RunStore) -> Path:
    target = _folder(run) / f"{bundle_name(run)}-script.zip"
    zip_script(run, store.folder, target)
    return target


def zip_file(run: Run, store: RunStore, merged: bool = False) -> Path:
    bundle = run_bundle(run, merged)
    target = _folder(run) / f"{bundle.name}.zip"
    write_zip(bundle, target)
    return target


def gguf_file(run: Run, store: RunStore) -> Path:
    """The merged model in the usual type, for llama.cpp."""
    target = _folder(run) / gguf_name(run, usual_type(adapter=False), adapter=False)
    write_in_process(run, store.folder, target)
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
