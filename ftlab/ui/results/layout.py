"""The components of the Results tab above and below the table; `results` wires them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from ftlab.ui.html import H, blank, live
from ftlab.ui.results.filter import ALL_SWEEPS
from ftlab.ui.results.ranges import EXAMPLE

EMPTY = blank(
    "No run yet.",
    "Open Experiment, tick the methods to compare and press Launch. "
    "Every run becomes a row here, with all that was measured.",
)
NOTHING_FOUND = blank(
    "No run matches.", "Take words or filters away, or press Clear to see every run again."
)
_GROUPS = [("Each run", "runs"), ("By sweep", "sweeps"), ("Mean over seeds", "seeds")]
_TABLE = "window.ftRuns.table(element, trigger, watch)"
_BOXES = "window.ftRuns.boxes(element, trigger, watch)"


@dataclass(frozen=True)
class Tools:
    """What chooses and exports rows. `file` is out of sight: it hands an export to the browser."""

    text: gr.Textbox
    sweep: gr.Dropdown
    group: gr.Radio
    csv: gr.Button
    json: gr.Button
    file: gr.DownloadButton
    bring: gr.UploadButton
    fold: gr.Accordion
    facets: gr.HTML
    conditions: gr.Textbox
    wrong: gr.HTML
    archived: gr.Checkbox
    clear: gr.Button
    columns: gr.HTML
    usual: gr.Button


@dataclass(frozen=True)
class Sheet:
    """The table and what stands around it."""

    empty: gr.HTML
    table: gr.HTML
    below: gr.HTML
    how: gr.HTML


def build_tools(may_upload: bool = True) -> Tools:
    """The row of tools, and the folds with filters and columns."""
    bare: dict[str, Any] = {"show_label": False, "container": False}
    with gr.Row(elem_classes="ft-tools ft-results-tools"):
        text = live(
            gr.Textbox,
            label="Search runs",
            placeholder="Search status, method, task, tags, notes, e.g.  done lora",
            scale=5,
            min_width=220,
            max_lines=1,
            elem_id="results-text",
            **bare,
        )
        sweep = live(
            gr.Dropdown,
            [("All sweeps", ALL_SWEEPS)],
            value=ALL_SWEEPS,
            label="Sweep",
            scale=2,
            min_width=220,
            elem_id="results-sweep",
            **bare,
        )
        group = live(
            gr.Radio,
            _GROUPS,
            value="runs",
            label="Group rows",
            scale=0,
            min_width=280,
            elem_classes="ft-seg",
            elem_id="results-group",
            **bare,
        )
        small: dict[str, Any] = {"size": "sm", "scale": 0}
        csv = gr.Button("CSV", min_width=60, elem_id="results-csv", **small)
        as_json = gr.Button("JSON", min_width=60, elem_id="results-json", **small)
        bring = gr.UploadButton(
            "Import",
            min_width=72,
            file_count="multiple",
            file_types=[".json", ".csv"],
            elem_id="results-import",
            visible=may_upload,
            **small,
        )
        file = gr.DownloadButton(
            "Export", elem_id="results-file", elem_classes="ft-carrier", **small
        )
    with gr.Column(elem_classes="ft-sheet ft-folds"):
        with gr.Accordion("Filters", open=False, elem_classes="ft-fold") as fold:
            facets = H(js_on_load=_BOXES, elem_id="results-facets")
            with gr.Row(elem_classes="ft-conditions"):
                conditions = live(
                    gr.Textbox,
                    label="Numbers, between commas; Enter applies",
                    placeholder=EXAMPLE,
                    max_lines=1,
                    scale=4,
                    min_width=260,
                    elem_classes="ft-mono",
                    elem_id="results-conditions",
                )
                archived = live(
                    gr.Checkbox,
                    False,
                    label="Show archived",
                    scale=0,
                    min_width=150,
                    container=False,
                    elem_id="results-archived",
                )
                clear = gr.Button("Clear", min_width=72, elem_id="results-clear", **small)
            wrong = H("")
        with gr.Accordion("Columns", open=False, elem_classes="ft-fold"):
            columns = H(js_on_load=_BOXES, elem_id="results-columns")
            usual = gr.Button("Usual columns", min_width=110, elem_id="results-usual", **small)
    return Tools(
        text, sweep, group, csv, as_json, file, bring, fold, facets, conditions, wrong, archived,
        clear, columns, usual,
    )  # fmt: skip


def build_sheet() -> Sheet:
    """The table with its captions."""
    with gr.Column(scale=3, min_width=320, elem_classes="ft-sheet ft-flush ft-table"):
        empty = H(EMPTY)
        table = H(js_on_load=_TABLE, elem_id="runs")
        below = H()
        with gr.Accordion("How each number is measured", open=False, elem_classes="ft-fold ft-how"):
            how = H()
    return Sheet(empty, table, below, how)
