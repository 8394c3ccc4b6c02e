"""What the prompt grid's sheet asks and shows, worked out by plain functions."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder
from pydantic import TypeAdapter

from ftlab.errors import FtlabError
from ftlab.playground.grid.export import write_csv
from ftlab.playground.grid.prompts import prompts_of_file, read_prompts
from ftlab.playground.grid.record import (
    GridDirectory,
    GridRequest,
    Progress,
    list_grids,
    read_progress,
)
from ftlab.playground.grid.validation import MAX_PROMPTS
from ftlab.report.grid import grid_page, grid_section
from ftlab.runs.directory import write_atomically
from ftlab.runs.parsing import parse_json
from ftlab.runs.result import OPEN
from ftlab.runs.store import Run
from ftlab.tasks.reference import TaskReference, parse_task
from ftlab.tasks.registry import TASKS
from ftlab.ui.context import AppContext
from ftlab.ui.html import blank, chip, escape, field_error
from ftlab.ui.playground.session import SINGLE
from ftlab.ui.playground.view import SETTINGS, make_request
from ftlab.units import format_seconds

_TASK: TypeAdapter[TaskReference] = TypeAdapter(TaskReference)

HELD_OUT, TYPED, UPLOADED = "held-out", "typed", "uploaded"
SOURCES = [("Held-out examples", HELD_OUT), ("Typed", TYPED), ("Uploaded", UPLOADED)]

NO_GRID = blank(
    "No prompt grid yet.",
    "Choose a task's held-out examples, or your own prompts, and press Run grid: every pane "
    "answers all of them, and the answers are scored, saved and ready to send.",
)


def task_choices(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The bundled tasks, and the files that a run was trained on."""
    tasks = {task.label: task.id for task in TASKS.values()}
    for run in runs:
        reference = run.spec.task
        if reference.kind == "file":
            tasks.setdefault(reference.label, _as_choice(reference))
    return list(tasks.items())


def _as_choice(reference: TaskReference) -> str:
    """A file's reference with its columns, as the text that a choice can hold."""
    return json.dumps(asdict(reference))


def chosen_task(choice: str) -> TaskReference:
    """Raises `FtlabError` for a choice that names no task."""
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
    """The grid that the form asks for; raises `FtlabError` for what cannot be read."""
    settings = make_request("", model, SINGLE, dict(zip(SETTINGS, values, strict=True)), panes)
    if source == TYPED:
        return GridRequest(settings, tuple(read_prompts(typed)))
    if source == UPLOADED:
        context.access.check_upload()
        if not upload:
            raise FtlabError("No file is chosen; upload one with a prompt a line or row.")
        return GridRequest(settings, tuple(prompts_of_file(Path(upload))))
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
            f"No held-out examples of '{reference.label}' can be read here; choose another task."
        )
    return GridRequest(settings, tuple(prompts), reference)


def grid_choices(runs_folder: Path) -> list[tuple[str, str]]:
    """Saved grids, newest first, as in "25 Nov 14:02 · SQL · 20 prompts x 4 panes · done"."""
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
    """A grid under way as a bar with what is left, one that ended with all its answers."""
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
    """Paths of the CSV and of the report of a grid that has ended, written once for download."""
    folder = Path(get_upload_folder()) / "ftlab" / grid.grid_id
    folder.mkdir(parents=True, exist_ok=True)
    csv, report = (folder / f"ftlab-grid-{grid.grid_id}.{kind}" for kind in ("csv", "html"))
    if not (csv.exists() and report.exists()):  # after a day both are deleted, not at once
        write_csv(grid, csv)
        write_atomically(report, grid_page(grid).encode())
    return [str(csv), str(report)]
