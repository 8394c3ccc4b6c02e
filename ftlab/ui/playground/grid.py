"""The prompt grid on the Playground tab: many prompts in all panes, as one job that is saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ftlab.errors import FtlabError, InvalidRequest
from ftlab.playground.grid.control import start_grid
from ftlab.playground.grid.record import find_grid, list_grids
from ftlab.playground.grid.validation import MAX_PROMPTS
from ftlab.playground.named import check_named
from ftlab.runs.result import OPEN
from ftlab.ui.context import AppContext
from ftlab.ui.html import H, field_error, head, live, this_page, warn
from ftlab.ui.playground.grid_view import (
    HELD_OUT,
    NO_GRID,
    SOURCES,
    TYPED,
    UPLOADED,
    export_files,
    grid_choices,
    grid_html,
    grid_request,
    task_choices,
)

_PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_SECONDS = 1.0


def build(
    context: AppContext,
    choosers: Sequence[gr.Dropdown],
    count: gr.Radio,
    model: gr.Dropdown,
    settings: Sequence[Any],
) -> None:
    """Lays out the sheet and wires it. The panes and settings above it are the grid's own."""
    folder = context.runs_folder
    with gr.Column(elem_classes="ft-sheet", elem_id="pg-grid", visible=context.access.may_train):
        head("Prompt grid", sub="Many prompts in the panes and settings above, run as one job")
        with gr.Row(elem_classes="ft-tools"):
            bare: dict[str, Any] = {"show_label": False, "container": False, "scale": 0}
            source = live(
                gr.Radio, SOURCES, value=HELD_OUT, label="Prompts from", elem_classes="ft-seg",
                min_width=290, **bare,
            )  # fmt: skip
            task = live(
                gr.Dropdown, task_choices(context.store.runs()), value="sql", label="Task",
                min_width=170, **bare,
            )  # fmt: skip
            number = live(gr.Number, 20, label="Examples", min_width=80, **bare)
            run = gr.Button("Run grid", variant="primary", size="sm", scale=0, min_width=96,
                            elem_id="pg-grid-run")  # fmt: skip
            cancel = gr.Button("Cancel", variant="stop", size="sm", scale=0, min_width=80,
                               visible=False)  # fmt: skip
        typed = live(
            gr.Textbox, "", label="Prompts", show_label=False, container=False, visible=False,
            lines=4, max_lines=12, elem_id="pg-grid-prompts",
            placeholder="One prompt a line; with lines of --- between them, one a block",
        )  # fmt: skip
        upload = live(
            gr.File, label=f"Prompts, at most {MAX_PROMPTS} (.txt, .csv, .json, .jsonl, .parquet)",
            file_types=[".txt", ".csv", ".json", ".jsonl", ".parquet"], visible=False, height=110,
        )  # fmt: skip
        error = H("")
        with gr.Row(elem_classes="ft-tools"):
            saved = live(
                gr.Dropdown, [], label="Saved grids", show_label=False, container=False, scale=1,
                min_width=260, visible=False,
            )  # fmt: skip
            csv = gr.DownloadButton("CSV", size="sm", scale=0, min_width=64, visible=False)
            report = gr.DownloadButton("Report", size="sm", scale=0, min_width=76, visible=False)
        shown = H(NO_GRID)
    timer = gr.Timer(_SECONDS, active=False)

    def choose_source(source: str) -> list[Any]:
        return [
            gr.update(visible=source == HELD_OUT),
            gr.update(visible=source == HELD_OUT),
            gr.update(visible=source == TYPED),
            gr.update(visible=source == UPLOADED),
        ]

    def start(source: str, task: str, number: Any, typed: str, upload: str | None, *rest: Any
              ) -> list[Any]:  # fmt: skip
        model, count, values = rest[0], rest[1], rest[2 + len(choosers) :]
        panes = [pane for pane in rest[2 : 2 + len(choosers)][:count] if pane]
        try:
            request = grid_request(
                source, task, number, typed, upload, model, panes, values, context
            )
            check_named(request.panes, request.request.model, folder, context.access)
            grid = start_grid(request, folder)
        except InvalidRequest as error:
            return [field_error(e.message for e in error.errors), *[gr.skip()] * 6]
        except FtlabError as error:
            return [field_error([str(error)]), *[gr.skip()] * 6]
        return ["", *look(grid.grid_id)]

    def look(grid_id: str | None) -> list[Any]:
        """The grid as it is now: choices, HTML, buttons, and whether to look again."""
        choices = grid_choices(folder)
        known = [value for _, value in choices]
        chosen = grid_id if grid_id in known else next(iter(known), None)
        drop = gr.update(choices=choices, value=chosen, visible=bool(choices))
        if chosen is None:
            return [drop, NO_GRID, *[gr.update(visible=False)] * 3, gr.Timer(active=False)]
        grid = find_grid(folder, chosen)
        is_open = grid.status() in OPEN
        files = [None, None] if is_open else export_files(grid)
        return [
            drop,
            grid_html(grid),
            gr.update(visible=is_open),
            gr.update(value=files[0], visible=not is_open),
            gr.update(value=files[1], visible=not is_open),
            gr.Timer(active=is_open),
        ]

    def tick(grid_id: str | None) -> list[Any]:
        new = look(grid_id)
        if new[-1].active and grid_id in [grid.grid_id for grid in list_grids(folder)]:
            new[0] = gr.skip()  # a list of choices that is open is left alone
        return new

    def end(grid_id: str | None) -> None:
        try:
            find_grid(folder, grid_id or "").cancel()
        except FtlabError as error:
            warn(str(error))

    view = [saved, shown, cancel, csv, report, timer]
    source.change(choose_source, source, [task, number, typed, upload], **_PRIVATE)
    run.click(
        start,
        [source, task, number, typed, upload, model, count, *choosers, *settings],
        [error, *view],
        **_PRIVATE,
    )
    timer.tick(tick, saved, view, **_PRIVATE)
    saved.input(look, saved, view, **_PRIVATE)
    this_page().load(look, saved, view, **_PRIVATE)
    cancel.click(end, saved, None, **_PRIVATE)
    this_page().load(
        lambda: gr.update(choices=task_choices(context.store.runs())), None, task, **_PRIVATE
    )
