"""One run opened beside the table: its numbers, its tags and note, and what can be done to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ftlab.errors import FtlabError
from ftlab.runs.annotations import NOTE_LENGTH
from ftlab.runs.progress import Progress, read_progress
from ftlab.runs.published import PublishedRun
from ftlab.runs.store import Run, RunStore
from ftlab.ui.events import QUIET, Action
from ftlab.ui.html import H, field_error, live
from ftlab.ui.results.actions import save_notes
from ftlab.ui.results.panel import PAGES, Panel, panel, published_panel
from ftlab.ui.results.use import Use, build_use, wire_use

_PANEL = "window.ftRuns.panel(element, watch)"


@dataclass(frozen=True)
class Side:
    """The panel's components; `chosen` holds the id of the run that is opened, or ""."""

    chosen: gr.State
    block: gr.Column
    close: gr.Button
    top: gr.HTML
    pages: tuple[gr.HTML, ...]
    edits: gr.Accordion
    tags: gr.Textbox
    note: gr.Textbox
    save: gr.Button
    saved: gr.HTML
    clone: gr.Button
    again: gr.Button
    resume: gr.Button
    archive: gr.Button
    delete: gr.Button
    use: Use

    @property
    def facts(self) -> list[Any]:
        """What changes while a run goes on."""
        return [self.top, *self.pages]

    @property
    def outputs(self) -> list[Any]:
        """What `opened_run` updates."""
        return [
            self.chosen, self.block, *self.facts, self.edits, self.tags, self.note, self.saved,
            self.clone, self.again, self.resume, self.archive, self.delete,
        ]  # fmt: skip


def build_side() -> Side:
    """Lays the panel out, hidden until a run is opened."""
    small: dict[str, Any] = {"size": "sm", "min_width": 60}
    with gr.Column(
        scale=1, min_width=340, elem_classes="ft-sheet ft-run", visible=False, elem_id="run-panel"
    ) as block:
        close = gr.Button("Close", size="sm", elem_classes="ft-close")
        top = H(js_on_load=_PANEL, elem_id="run-top")
        with gr.Row(elem_classes="ft-run-buttons"):
            clone = gr.Button("Clone", elem_id="run-clone", **small)
            again = gr.Button("Re-run", elem_id="run-again", **small)
            resume = gr.Button("Resume", elem_id="run-resume", **small)
            archive = gr.Button("Archive", elem_id="run-archive", **small)
            delete = gr.Button("Delete", variant="stop", elem_id="run-delete", **small)
        with gr.Accordion("Tags and note", open=False, elem_classes="ft-fold") as edits:
            tags = live(gr.Textbox, label="Tags, between commas", max_lines=1, elem_id="run-tags")
            note = live(
                gr.Textbox,
                label="Note",
                lines=2,
                max_lines=10,
                max_length=NOTE_LENGTH,
                elem_id="run-note",
            )
            with gr.Row(elem_classes="ft-run-buttons"):
                save = gr.Button("Save", elem_id="run-save", **small)
                saved = H("")
        use = build_use()
        with gr.Tabs(elem_classes="ft-inner"):
            pages = []
            for name in PAGES:
                with gr.Tab(name):
                    pages.append(H())
    return Side(
        gr.State(""), block, close, top, tuple(pages), edits, tags, note, save, saved, clone,
        again, resume, archive, delete, use,
    )  # fmt: skip


def wire_side(side: Side, store: RunStore, refresh: Action) -> None:
    """Close, Save and `Use it`; the other buttons belong to who confirms and reports."""

    def save(run_id: str, tags: str, note: str) -> list[Any]:
        try:
            said = f'<p class="meta" role="status">{save_notes(store, run_id, tags, note)}</p>'
        except FtlabError as error:
            said = field_error([str(error)])
        return [said, edits_label(find(store, run_id))]

    side.close.click(lambda: closed(side), None, side.outputs, **QUIET)
    saving = gr.on(
        [side.save.click, side.tags.submit],
        save,
        [side.chosen, side.tags, side.note],
        [side.saved, side.edits],
        **QUIET,
    )
    refresh.after(saving)
    wire_use(side.use, side.chosen, store)


def opened_run(store: RunStore, run_id: str) -> list[Any]:
    """Updates for `Side.outputs`; a run that is gone says so in its place."""
    found = find(store, run_id)
    run = found if isinstance(found, Run) else None
    own = run is not None and run.origin == "measured"
    return [
        run_id,
        gr.Column(visible=True),
        *facts(store, run_id),
        edits_label(found),
        ", ".join(run.annotations.tags) if run else "",
        run.annotations.note if run else "",
        "",
        gr.Button(visible=run is not None),
        gr.Button(visible=own),
        gr.Button(visible=own and run is not None and run.resumes_from is not None),
        gr.Button(archive_label(run), visible=own),
        gr.Button(visible=own),
    ]


def facts(
    store: RunStore, run_id: str, read: Callable[[Run], Progress] = read_progress
) -> tuple[str, ...]:
    """The HTML of `Side.facts`; `read` is how an open run's progress is read."""
    found = find(store, run_id)
    if isinstance(found, Run):
        return panel(found, read).parts()
    if isinstance(found, PublishedRun):
        return published_panel(found).parts()
    return Panel(field_error([found]), "", "", "", "").parts()


def closed(side: Side) -> list[Any]:
    """Updates for `Side.outputs` that close the panel."""
    updates = ["", gr.Column(visible=False), *("" for _ in side.facts)]
    return updates + [gr.skip()] * (len(side.outputs) - len(updates))


def find(store: RunStore, run_id: str) -> Run | PublishedRun | str:
    """The run of that id, whatever the filters; or the sentence that says why there is none."""
    try:
        return store.find(run_id)
    except (FtlabError, OSError) as error:
        published = [run for run in store.published() if run.run_id == run_id]
        return published[0] if published else str(error)


def archive_label(run: Run | None) -> str:
    return "Unarchive" if run is not None and run.annotations.archived else "Archive"


def edits_label(found: Run | PublishedRun | str) -> gr.Accordion:
    """The fold's label says what is in it; it is there for own runs alone."""
    if not isinstance(found, Run) or found.origin != "measured":
        return gr.Accordion(visible=False)
    tags = ", ".join(found.annotations.tags)
    words = [f"tags: {tags}"] if tags else []
    words += ["a note"] if found.annotations.note else []
    return gr.Accordion(
        label=f"Tags and note ({'; '.join(words)})" if words else "Tags and note", visible=True
    )
