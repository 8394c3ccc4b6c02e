"""The Results tab: every run as a row, one run opened beside it, and exports of what is shown."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd
from gradio.utils import get_upload_folder

from ftlab.errors import FtlabError
from ftlab.runs.directory import find_run
from ftlab.runs.result import OPEN
from ftlab.runs.store import RunStore, UnreadableRun, read_run
from ftlab.ui.context import AppContext
from ftlab.ui.html import H, blank, field_error, live
from ftlab.ui.results_events import opened
from ftlab.ui.results_panel import panel
from ftlab.ui.results_table import (
    ALL_SWEEPS,
    DATATYPES,
    RUN_COLUMN,
    WIDTHS,
    caption,
    filtered,
    headers,
    how_measured,
    styled,
    sweep_choices,
    to_csv,
    write_exports,
)

_REFRESH_SECONDS = 3
_EMPTY = blank(
    "No run yet.",
    "Open Experiment, tick the methods to compare and press Launch. "
    "Every run becomes a row here, with all that was measured.",
)
_NOTHING_FOUND = blank(
    "No run matches.", "Shorten the filter, or choose all sweeps to see every run again."
)


def build(context: AppContext) -> None:
    """Lays the tab out and wires it."""
    store = context.store
    with gr.Row(elem_classes="ft-tools"):
        text = live(
            gr.Textbox,
            placeholder="Filter by status, method, task, device or run, e.g.  done lora",
            show_label=False,
            container=False,
            scale=5,
            min_width=240,
            elem_classes="ft-mono",
        )
        sweep = live(
            gr.Dropdown,
            [("All sweeps", ALL_SWEEPS)],
            value=ALL_SWEEPS,
            show_label=False,
            container=False,
            scale=2,
            min_width=220,
        )
        csv = gr.DownloadButton("CSV", size="sm", scale=0, min_width=64)
        as_json = gr.DownloadButton("JSON", size="sm", scale=0, min_width=64)
    empty = H(_EMPTY)
    with gr.Row(elem_classes="ft-work", visible=False) as work:
        with gr.Column(scale=3, min_width=320, elem_classes="ft-sheet ft-flush"):
            table = gr.Dataframe(
                headers=headers(_no_rows(store)),
                datatype=DATATYPES,  # type: ignore[arg-type]
                column_widths=WIDTHS,  # type: ignore[arg-type]
                interactive=False,
                show_label=False,
                elem_id="runs",
                elem_classes="ft",
                max_height=620,
                buttons=[],
            )
            below = H()
            with gr.Accordion(
                "How each number is measured", open=False, elem_classes="ft-fold ft-how"
            ):
                how = H()
        with gr.Column(
            scale=1, min_width=340, elem_classes="ft-sheet ft-run", visible=False
        ) as side:
            close = gr.Button("Close", size="sm", elem_classes="ft-close")
            top = H()
            with gr.Tabs(elem_classes="ft-inner"):
                pages = []
                for name in ("Samples", "Config", "Environment", "Log"):
                    with gr.Tab(name):
                        pages.append(H())

    seen = gr.State("")  # digest of the rows that are on the page
    chosen = gr.State("")  # id of the run that is opened
    timer = gr.Timer(_REFRESH_SECONDS, active=False)
    shown = [table, below, how, csv, as_json, empty, work, sweep, timer, seen]
    parts = [side, top, *pages]

    def refresh(sweep_id: str | None, words: str, digest: str) -> list[Any]:
        return _refresh(store, sweep_id or ALL_SWEEPS, words or "", digest)

    def look(run_id: str) -> list[Any]:
        return _open(context.runs_folder, run_id)

    def select(event: gr.SelectData) -> list[Any]:
        run_id = run_of(event.row_value)
        return [run_id, *look(run_id)]

    def tick(run_id: str) -> list[Any]:
        return look(run_id) if run_id else [gr.skip()] * len(parts)

    quiet: dict[str, Any] = {
        "show_progress": "hidden",
        "concurrency_limit": None,
        "api_visibility": "private",
    }
    gr.on(
        [opened(), timer.tick, text.change, sweep.input],
        refresh,
        [sweep, text, seen],
        shown,
        **quiet,
    )
    timer.tick(tick, chosen, parts, **quiet)
    table.select(select, None, [chosen, *parts], **quiet)
    close.click(lambda: ["", gr.Column(visible=False)], None, [chosen, side], **quiet)


def run_of(row: Any) -> str:
    """The run id in a row that the browser sends; it may have sorted, so an index says nothing."""
    return str(row[RUN_COLUMN]) if isinstance(row, list) and len(row) > RUN_COLUMN else ""


def _no_rows(store: RunStore) -> pd.DataFrame:
    return store.table().iloc[:0]


def _refresh(store: RunStore, sweep: str, words: str, digest: str) -> list[Any]:
    """Updates for `shown`; nothing at all if the rows are those on the page."""
    table = store.table()
    choices = sweep_choices(table)
    if sweep not in [value for _, value in choices]:
        sweep = ALL_SWEEPS
    rows = filtered(table, sweep, words)
    now = _digest(rows, store.unreadable, sweep, len(table))
    if now == digest:
        return [gr.skip()] * 10
    files = write_exports(rows, Path(get_upload_folder()) / "ftlab" / now)
    some, there = bool(len(table)), bool(len(rows) or store.unreadable)
    return [
        styled(rows),
        caption(rows, len(table), store.unreadable),
        how_measured(rows),
        *files,
        gr.HTML(_NOTHING_FOUND if some else _EMPTY, visible=rows.empty),
        gr.Row(visible=there),
        gr.Dropdown(choices=choices, value=sweep),
        gr.Timer(active=bool(table["status"].isin(OPEN).any())),
        now,
    ]


def _digest(rows: pd.DataFrame, unreadable: tuple[UnreadableRun, ...], sweep: str, of: int) -> str:
    text = f"{to_csv(rows)}{unreadable}{sweep}{of}"
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _open(runs_folder: Path, run_id: str) -> list[Any]:
    """Updates for the side panel; a run that is gone says so in its place."""
    try:
        parts = panel(read_run(find_run(runs_folder, run_id))).parts()
    except (FtlabError, OSError) as error:
        parts = (field_error([str(error)]), "", "", "", "")
    return [gr.Column(visible=True), *parts]
