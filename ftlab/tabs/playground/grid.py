"""The prompt grid in the Playground tab: form, progress, results and downloads."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from pydantic import TypeAdapter

from ftlab.basics.devices import resolve_device
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import parse_json
from ftlab.basics.units import format_seconds
from ftlab.basics.words import plural
from ftlab.playground.grid import (
    MAX_PROMPTS,
    GridDirectory,
    GridRequest,
    Progress,
    find_grid,
    list_grids,
    read_progress,
    start_grid,
)
from ftlab.playground.grid_table import prompts_of_file, read_prompts, write_csv
from ftlab.playground.grid_time import expected_seconds
from ftlab.playground.panes import BASE, adapters_on, all_sources, line_up
from ftlab.playground.requests import MAX_GRID_PANES, check_named
from ftlab.prediction.machine_rates import kept_rates
from ftlab.records.result import OPEN
from ftlab.records.run import write_atomically
from ftlab.records.store import Run, RunStore
from ftlab.share.report_sections import grid_page, grid_section
from ftlab.tabs.context import NO_OVERLAY, AppContext, opened
from ftlab.tabs.playground.session import SINGLE
from ftlab.tabs.playground.view import SETTINGS, make_request
from ftlab.tabs.widgets import (
    BARE,
    H,
    blank,
    chip,
    escape,
    field_error,
    head,
    live,
    small_button,
    warn,
)
from ftlab.tasks.reference import TaskReference, parse_task
from ftlab.tasks.registry import TASKS

_TASK: TypeAdapter[TaskReference] = TypeAdapter(TaskReference)

PANES, ALL = "panes", "all"
ANSWERED_BY = [("The panes above", PANES), ("All adapters on their base", ALL)]

HELD_OUT, TYPED, UPLOADED = "held-out", "typed", "uploaded"
SOURCES = [("Test examples", HELD_OUT), ("Typed", TYPED), ("Uploaded", UPLOADED)]

NO_GRID = blank(
    "No prompt grid yet.",
    "Choose a task's test examples, or your own prompts, and press Run grid: every pane, or every "
    "adapter on their base, answers all of them, and the answers are scored, saved and ready to "
    "send.",
)


def task_choices(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Returns (label, value) of the bundled tasks and of files that runs were trained on."""
    tasks = {task.label: task.id for task in TASKS.values()}
    for run in runs:
        reference = run.spec.task
        if reference.kind == "file":
            # With its columns, as JSON: a choice holds only text.
            tasks.setdefault(reference.label, json.dumps(asdict(reference)))
    return list(tasks.items())


def chosen_task(choice: str) -> TaskReference:
    """Parses a choice; raises `FtlabError` if it names no task."""
    if not choice.startswith("{"):
        return parse_task(choice)
    return parse_json(_TASK, choice.encode(), "The task")


def grid_request(
    source: str,
    task: str,
    number: Any,
    typed: str,
    upload: str | None,
    model: str | None,
    panes: Sequence[str],
    values: Sequence[Any],
    context: AppContext,
) -> GridRequest:
    """Builds the grid request from the form; raises `FtlabError` for invalid input."""
    settings = make_request("", model, SINGLE, dict(zip(SETTINGS, values, strict=True)), panes)
    if source == TYPED:
        return GridRequest(settings, tuple(read_prompts(typed)))
    if source == UPLOADED:
        context.access.check_upload()
        if not upload:
            raise FtlabError("No file is chosen; upload one with a prompt a line or row.")
        return GridRequest(settings, tuple(prompts_of_file(Path(upload))))
    if source != HELD_OUT:
        raise FtlabError("Choose where the prompts come from: test examples, typed, or uploaded.")
    whole = isinstance(number, int | float) and float(number).is_integer()
    if not whole or not 1 <= number <= MAX_PROMPTS:
        raise FtlabError(
            f"Examples: {number} is no whole number between 1 and {MAX_PROMPTS}; give one."
        )
    reference = chosen_task(task)
    context.access.check_task(reference)
    prompts = context.held_out.prompts(reference, int(number))
    if not prompts:
        raise FtlabError(
            f"No test examples of '{reference.label}' can be read here; choose another task."
        )
    return GridRequest(settings, tuple(prompts), reference)


def time_line(request: GridRequest, seconds: float | None) -> str:
    """HTML: how many answers the form asks for, and how long they take."""
    takes = f": about {format_seconds(seconds)}" if seconds is not None else ""
    many = f"{plural(len(request.prompts), 'prompt')} in {plural(len(request.panes), 'pane')}"
    return f'<p class="meta">{escape(many + takes)}</p>'


def all_on_base(panes: Sequence[str], model: str | None, store: RunStore) -> list[str]:
    """The base of these panes, and every adapter on it, newest first, as many as a grid takes."""
    base = model or line_up(panes, None, store.folder).model
    sources = all_sources(store.runs(), store.folder)
    return [BASE, *adapters_on(base, sources)[: MAX_GRID_PANES - 1]]


def grid_choices(runs_folder: Path) -> list[tuple[str, str]]:
    """Returns (label, id) of saved grids, newest first, as "25 Nov 14:02 · SQL · 20 x 4 · done"."""
    choices = []
    for grid in list_grids(runs_folder):
        try:
            request = grid.request()
        except FtlabError:
            continue
        parts = [
            time.strftime("%d %b %H:%M", grid.made_at),
            request.task.label if request.task else "own prompts",
            f"{len(request.prompts)} x {len(request.panes)}",
            grid.status(),
        ]
        choices.append((" · ".join(parts), grid.grid_id))
    return choices


def grid_html(grid: GridDirectory) -> str:
    """HTML: a running grid as a progress bar with remaining time, an ended one with all answers."""
    if grid.status() in OPEN:
        return _bar(read_progress(grid))
    problem = grid.result()
    words = field_error([problem.reason]) if problem and problem.reason else ""
    return f'{words}<div class="grid">{grid_section(grid)}</div>'


def _bar(way: Progress) -> str:
    left = f"about {format_seconds(way.eta_seconds)} left" if way.eta_seconds else "estimating …"
    words = way.waiting or left
    percent = f"{way.fraction:.0%}"
    errors = chip(f"{way.errors} without answer", "bad") if way.errors else ""
    return (
        f'<div class="way" role="status"><span class="prog" role="progressbar" '
        f'aria-valuenow="{percent.rstrip("%")}" aria-valuemin="0" aria-valuemax="100">'
        f'<i style="width:{percent}"></i></span><b>{way.done} of {way.total} answers</b>'
        f"<span>{escape(words)}</span>{errors}</div>"
    )


def export_files(grid: GridDirectory) -> list[str | None]:
    """Returns the paths of CSV and report of an ended grid; writes the files once, for download."""
    folder = Path(get_upload_folder()) / "ftlab" / grid.grid_id
    folder.mkdir(parents=True, exist_ok=True)
    csv, report = (folder / f"ftlab-grid-{grid.grid_id}.{kind}" for kind in ("csv", "html"))
    if not (csv.exists() and report.exists()):  # gradio may have deleted only one after a day
        write_csv(grid, csv)
        write_atomically(report, grid_page(grid).encode())
    return [str(csv), str(report)]


_PRIVATE: dict[str, Any] = NO_OVERLAY | {"api_visibility": "private"}
_SECONDS = 1.0


def build(
    context: AppContext,
    choosers: Sequence[gr.Dropdown],
    count: gr.Radio,
    model: gr.Dropdown,
    settings: Sequence[Any],
) -> None:
    """Builds the section and its events. The grid uses the panes and settings above it."""
    folder = context.runs_folder
    with gr.Column(elem_classes="ft-sheet", elem_id="pg-grid", visible=context.access.may_train):
        head("Prompt grid", sub="Many prompts in the panes and settings above, run as one job")
        with gr.Row(elem_classes="ft-tools"):
            source = live(
                gr.Radio, SOURCES, value=HELD_OUT, label="Prompts from", elem_classes="ft-seg",
                scale=0, min_width=290, **BARE,
            )  # fmt: skip
            task = live(
                gr.Dropdown, task_choices(context.store.runs()), value="sql", label="Task", scale=0,
                min_width=170, **BARE,
            )  # fmt: skip
            by = live(
                gr.Radio, ANSWERED_BY, value=PANES, label="Answered by", elem_classes="ft-seg",
                scale=0, min_width=330, **BARE,
            )  # fmt: skip
            number = live(gr.Number, 20, label="Examples", scale=0, min_width=80, **BARE)
            run = small_button("Run grid", 96, variant="primary", elem_id="pg-grid-run")
            cancel = small_button("Cancel", 80, variant="stop", visible=False)
        typed = live(
            gr.Textbox, "", label="Prompts", visible=False, lines=4, max_lines=12,
            elem_id="pg-grid-prompts", **BARE,
            placeholder="One prompt a line; with lines of --- between them, one a block",
        )  # fmt: skip
        upload = live(
            gr.File, label=f"Prompts, at most {MAX_PROMPTS} (.txt, .csv, .json, .jsonl, .parquet)",
            file_types=[".txt", ".csv", ".json", ".jsonl", ".parquet"], visible=False, height=110,
        )  # fmt: skip
        takes, error = H(""), H("")
        with gr.Row(elem_classes="ft-tools"):
            saved = live(
                gr.Dropdown, [], label="Saved grids", scale=1, min_width=260, visible=False, **BARE
            )
            csv = gr.DownloadButton("CSV", size="sm", scale=0, min_width=64, visible=False)
            report = gr.DownloadButton("Report", size="sm", scale=0, min_width=76, visible=False)
        shown = H(NO_GRID)
    timer = gr.Timer(_SECONDS, active=False)

    def choose_source(source: str) -> list[Any]:
        places = (HELD_OUT, HELD_OUT, TYPED, UPLOADED)
        return [gr.update(visible=source == place) for place in places]

    def asked(source: str, task: str, number: Any, typed: str, upload: str | None, by: str,
              model: str | None, count: int, *rest: Any) -> GridRequest:  # fmt: skip
        panes = [pane for pane in rest[: len(choosers)][:count] if pane]
        if by == ALL:
            panes = all_on_base(panes, model, context.store)
        request = grid_request(
            source, task, number, typed, upload, model, panes, rest[len(choosers) :], context
        )
        check_named(request.panes, request.request.model, folder, context.access)
        device = resolve_device("auto")
        seconds = expected_seconds(request, folder, device, kept_rates(device), context.held_out)
        return replace(request, expected_seconds=seconds)

    def say_time(*form: Any) -> str:
        if not context.access.may_train:  # the form is hidden
            return ""
        try:
            request = asked(*form)
        except FtlabError:  # Run grid says what is wrong
            return ""
        return time_line(request, request.expected_seconds) if request.prompts else ""

    def start(*form: Any) -> list[Any]:
        try:
            grid = start_grid(asked(*form), folder)
        except FtlabError as error:
            sentences = [wrong.message for wrong in getattr(error, "errors", ())]
            return [field_error(sentences or [str(error)]), *[gr.skip()] * len(view)]
        return ["", *look(grid.grid_id)]

    def look(grid_id: str | None) -> list[Any]:
        """Returns updates for the grid's current state: choices, HTML, buttons and timer."""
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
            new[0] = gr.skip()  # does not disturb an open dropdown
        return new

    def end(grid_id: str | None) -> None:
        try:
            find_grid(folder, grid_id or "").cancel()
        except FtlabError as error:
            warn(str(error))

    view = [saved, shown, cancel, csv, report, timer]
    source.change(choose_source, source, [task, number, typed, upload], **_PRIVATE)
    form = [source, task, number, typed, upload, by, model, count, *choosers, *settings]
    run.click(start, form, [error, *view], **_PRIVATE)
    by_person = (source, task, number, by, *settings)
    also_set = (typed, model, count, *choosers)  # pasted, or chosen by other events of the tab
    gr.on(
        [
            *(part.input for part in by_person), *(part.change for part in also_set),
            upload.upload, upload.clear,
        ],
        say_time, form, takes, trigger_mode="always_last", **_PRIVATE,
    )  # fmt: skip
    opened()(say_time, form, takes, **_PRIVATE)
    timer.tick(tick, saved, view, **_PRIVATE)
    saved.input(look, saved, view, **_PRIVATE)
    opened()(look, saved, view, **_PRIVATE)
    cancel.click(end, saved, None, **_PRIVATE)
    opened()(lambda: gr.update(choices=task_choices(context.store.runs())), None, task, **_PRIVATE)
