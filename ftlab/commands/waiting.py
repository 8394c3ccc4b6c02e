"""Progress on stderr while a command waits: a bar or a redrawn line, or occasional lines."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ftlab.basics.units import format_part
from ftlab.basics.words import printable
from ftlab.models.download import DownloadProgress
from ftlab.models.resolve import ResolvedModel, resolve_model

_SECONDS_BETWEEN_LINES = 20.0


def say(sentence: str) -> None:
    """Prints "ftlab: …" to stderr, on one line."""
    print(f"ftlab: {printable(sentence)}", file=sys.stderr)


def fetched_model(name: str) -> ResolvedModel:
    """Downloads the model if needed, with progress on stderr; raises as `resolve_model` does."""
    with shown_progress(Console(stderr=True)) as progress:
        return resolve_model(name, say=lambda line: print(line, file=sys.stderr), progress=progress)


@contextmanager
def shown_progress(console: Console) -> Iterator[DownloadProgress]:
    """Shows download progress: on a terminal as a bar, which is removed at the end.

    Elsewhere the first and the last report are printed, and some in between.
    """
    following = 0.0

    def print_line(done: int, total: int) -> None:
        nonlocal following
        if time.monotonic() >= following or done >= total:
            following = time.monotonic() + _SECONDS_BETWEEN_LINES
            part = format_part(done, total)
            console.print(f"Downloading the base model: {part}", markup=False, highlight=False)

    if not console.is_terminal:
        yield print_line
        return
    bar = Progress(
        TextColumn("Downloading the base model"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[part]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        auto_refresh=False,
    )
    task: TaskID | None = None

    def show(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task("", total=total, part=format_part(done, total))
        bar.update(task, completed=done, part=format_part(done, total), refresh=True)

    try:
        yield show
    finally:
        if task is not None:
            bar.stop()


@contextmanager
def shown_status(console: Console) -> Iterator[Callable[[str], None]]:
    """Shows the current status: on a terminal as one line, which is removed at the end.

    Elsewhere each status is printed once: what follows a colon or comma is only its progress.
    """
    if console.is_terminal:
        with console.status("") as status:
            yield lambda words: status.update(escape(words))
        return
    said = ""

    def tell(words: str) -> None:
        nonlocal said
        what = re.split("[:,]", words)[0]
        if what != said:
            said = what
            console.print(words, markup=False, highlight=False)

    yield tell
