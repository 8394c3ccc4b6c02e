"""`grid`: answer many prompts with the base and with finished runs, as one job."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ftlab.basics import units
from ftlab.basics.devices import Device
from ftlab.basics.errors import FtlabError
from ftlab.basics.locks import DeviceLock, free_device
from ftlab.basics.words import plural, printable
from ftlab.commands.options import add_generation, add_runs_folder, generation_request
from ftlab.commands.sweep_time import sentence_from
from ftlab.commands.tables import json_text
from ftlab.commands.waiting import say
from ftlab.models.reference import BUNDLED_ID, parse_model
from ftlab.playground.grid import (
    GridDirectory,
    GridRequest,
    Progress,
    list_grids,
    read_progress,
    start_grid,
)
from ftlab.playground.grid_table import as_record, headline, prompts_of_file, summary, write_csv
from ftlab.playground.grid_time import expected_seconds
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import BASE, adapters_on, all_sources
from ftlab.playground.requests import MAX_GRID_PANES
from ftlab.prediction.machine_rates import rates_here
from ftlab.records.result import OPEN
from ftlab.records.store import RunStore
from ftlab.share.report_sections import grid_page
from ftlab.tasks.reference import TaskReference, parse_task

NAME = "grid"
SUMMARY = "answer many prompts with several runs, and score those of a task"
DESCRIPTION = """Answers every prompt with each of the named runs on one copy of the base model, in
a process of its own that lets training and single prompts go first. Ctrl-C cancels; the answers so
far are kept. Ends with status 1 unless every prompt was answered.

  python -m ftlab grid --runs base,RUN_ID --task sql --count 20 --html grid.html
  python -m ftlab grid --runs base,RUN_ID --prompts prompts.txt --csv grid.csv
  python -m ftlab grid --runs all --task sql    # the base of --model, and every adapter on it"""

EVERY = "all"
"""`--runs all`: every adapter on the base."""

POLL_SECONDS = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--prompts", type=Path, metavar="FILE",
        help="text (one prompt a line, or blocks between lines of ---), or CSV, JSON, JSONL or "
        "Parquet with a column of prompts",
    )  # fmt: skip
    what.add_argument(
        "--task", help="test examples of sql, shakespeare, medical or a task file, with scores"
    )
    parser.add_argument(
        "--count", type=int, default=20, metavar="N", help="of a task's examples (%(default)s)"
    )
    add_generation(parser, or_all=True)
    out = parser.add_argument_group("output")
    out.add_argument("--csv", type=Path, metavar="FILE", help="write one row an answer")
    out.add_argument("--html", type=Path, metavar="FILE", help="write a page that stands alone")
    out.add_argument("--json", action="store_true", help="print nothing but a JSON object")
    add_runs_folder(out)


def request_from(options: argparse.Namespace) -> GridRequest:
    """Returns the request of the options; raises `FtlabError` for invalid input."""
    task = parse_task(options.task) if options.task is not None else None
    prompts = held_out_prompts(task, options.count) if task else prompts_of_file(options.prompts)
    if options.runs.strip() == EVERY:
        options.runs = ",".join(_every(options))
    settings = generation_request(options, prompt="")
    return GridRequest(settings, tuple(prompts), task)


def _every(options: argparse.Namespace) -> list[str]:
    """The base, and every adapter on it, newest first, as many as a grid takes."""
    if options.base_is:
        raise FtlabError("--runs all takes the adapters on --model; leave --base-is out.")
    store = RunStore(options.runs_dir.resolve())
    model = parse_model(options.model or BUNDLED_ID).name
    found = adapters_on(model, all_sources(store.runs(), store.folder))
    if not found:
        raise FtlabError(
            f"There is no adapter on {model} here; name its base with --model, or train one."
        )
    taken = found[: MAX_GRID_PANES - 1]
    say(f"the base and {plural(len(taken), 'adapter')} of {len(found)} on {model}")
    return [BASE, *taken]


def held_out_prompts(task: TaskReference, count: int) -> list[str]:
    """Returns the task's first test prompts; raises `FtlabError` if there are none."""
    if count < 1:
        raise FtlabError(f"--count is {count}; give 1 or more.")
    prompts = HeldOut().prompts(task, count)
    if not prompts:
        raise FtlabError(
            f"No test examples of '{task.label}' can be read here; name a bundled task or a "
            "file with prompts and completions."
        )
    return prompts


def run(options: argparse.Namespace) -> int:
    for path in filter(None, (options.csv, options.html)):
        _check_folder(path)  # check before minutes of work
    folder = options.runs_dir.resolve()
    request = request_from(options)
    device = free_device()
    expected = expected_seconds(request, folder, device, rates_here(device), HeldOut())
    console = Console(stderr=True, quiet=options.json)
    if expected is not None:
        words = sentence_from(None if _must_wait(folder, device) else time.time(), expected)
        console.print(words, markup=False, highlight=False)
    grid = start_grid(replace(request, expected_seconds=expected), folder)
    try:
        follow(grid, console)
    except KeyboardInterrupt:
        grid.cancel()
        say("cancelling the grid …")
        follow(grid, console)
    _write_files(grid, options.csv, options.html)
    if options.json:
        print(json_text(as_record(grid)))
    else:
        _print(grid)
    status = grid.status()
    if status != "done":
        result = grid.result()
        reason = f": {result.reason}" if result and result.reason else f"; see {grid.log_file}"
        say(f"the grid is {status}{reason}")
    way = read_progress(grid)
    return 0 if status == "done" and way.done == way.total and not way.errors else 1


def _must_wait(folder: Path, device: Device) -> bool:
    """Whether another grid or a training run comes first."""
    if any(grid.status() in OPEN for grid in list_grids(folder)):
        return True
    lock = DeviceLock(device.id, in_line=False)
    if not lock.try_acquire():
        return True
    lock.release()
    return False


def follow(grid: GridDirectory, console: Console) -> None:
    """Shows the grid's progress until it ends; on a terminal the line is redrawn."""
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while grid.status() in OPEN:
            if console.is_terminal:
                live.update(_line(read_progress(grid)), refresh=True)
            time.sleep(POLL_SECONDS)


def _line(way: Progress) -> Table:
    left = "" if way.eta_seconds is None else f"≈ {units.format_seconds(way.eta_seconds)} left"
    table = Table.grid(padding=(0, 2))
    table.add_row(
        ProgressBar(total=1.0, completed=way.fraction, width=24),
        f"{way.done}/{way.total} answers",
        f"{way.errors} errors" if way.errors else "",
        way.waiting or left,
    )
    return table


def _print(grid: GridDirectory) -> None:
    print(printable(headline(grid)))
    for pane in summary(grid):
        parts = [f"{pane.answered} answered"]
        parts += [f"{pane.errors} errors"] if pane.errors else []
        if pane.score is not None:
            parts.append(f"score {pane.score:.2f}")
        if pane.gain:
            low, high = pane.gain.low, pane.gain.high
            parts.append(f"{pane.gain.mean:+.2f} [{low:+.2f}, {high:+.2f}] over {pane.gain.over}")
        if pane.tokens_per_second is not None:
            parts.append(f"{pane.tokens_per_second:.1f} tokens/s")
        print(printable(f"  {pane.label}: {', '.join(parts)}", keep=""))
    for error in dict.fromkeys(cell.error for cell in grid.cells() if cell.error):
        say(error)


def _check_folder(path: Path) -> None:
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise FtlabError(f"'{path}' cannot be written: name a file in a folder that exists.")


def _write_files(grid: GridDirectory, csv: Path | None, html: Path | None) -> None:
    try:
        if csv is not None:
            write_csv(grid, csv)
        if html is not None:
            html.write_text(grid_page(grid), encoding="utf-8")
    except OSError as error:
        raise FtlabError(
            f"'{error.filename or csv or html}' cannot be written ({error.strerror}); the grid "
            f"is kept in {grid.path}."
        ) from None
