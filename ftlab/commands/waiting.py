"""Progress on stderr while a command waits: a bar or a redrawn line, or occasional lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ftlab.basics.units import format_part
from ftlab.models.download import DownloadProgress
from ftlab.models.resolve import ResolvedModel, resolve_model

_SECONDS_BETWEEN_LINES = 20.0


def fetched_model(name: str) -> ResolvedModel:
    """Downloads the model if needed, with progress on stderr; raises as `resolve_model` does."""
    with shown_progress(Console(stderr=True)) as progress:
        return resolve_model(name, say=lambda line: print(line, file=sys.stderr), progress=progress)


@contextmanager
def shown_progress(console: Console) -> Iterator[DownloadProgress]:
    """Shows download progress: on a terminal as a bar, removed at the end; elsewhere as lines."""
    if not console.is_terminal:
        yield _Lines(console)
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

    Elsewhere each status is printed once, without its progress.
    """
    if not console.is_terminal:
        yield _Changes(console)
        return
    with console.status("") as status:
        yield lambda words: status.update(escape(words))


class _Changes:
    """Prints each new status once; the text after a colon is its progress, which is ignored."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said = ""

    def __call__(self, words: str) -> None:
        what = words.partition(":")[0]
        if what != self._said:
            self._said = what
            self._console.print(words, markup=False, highlight=False)


class _Lines:
    """Prints the first report, the last one, and some in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._next or done >= total:
            self._next = time.monotonic() + _SECONDS_BETWEEN_LINES
            part = format_part(done, total)
            self._console.print(
                f"Downloading the base model: {part}", markup=False, highlight=False
            )
