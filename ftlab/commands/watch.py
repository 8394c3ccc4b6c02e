"""Live progress of a sweep in the terminal."""

from __future__ import annotations

import time
from collections.abc import Collection

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.commands.waiting import say
from ftlab.jobs.control import control_folder, request_cancel, start_dispatcher, trouble_of
from ftlab.records.kept_bases import MEASURED_IN
from ftlab.records.progress import Progress, ProgressBook, progress_of, sweep_eta
from ftlab.records.result import STATUS_LABELS
from ftlab.records.store import Run, RunStore

POLL_SECONDS = 0.5
_RESTART_AFTER = 10.0  # seconds without a running run before the dispatcher is restarted

_RESTARTS = 3

_RECORDED_SECONDS = 3.0
_RECORDED_ELSEWHERE_SECONDS = 100.0
"""How long the dispatcher may take to record a dead worker, or to have the run go on; more on other
machines: until the lease expires, and the launcher says what became of the job."""


def watch(store: RunStore, sweep_id: str, console: Console, known: Collection[str] = ()) -> None:
    """Shows the sweep's progress until its last run has ended.

    On a terminal the display is redrawn. Elsewhere each run gets a line when it starts to download
    the base model and one when it ends, except the runs in `known`. Restarts a dispatcher that was
    killed. Raises `FtlabError` if that does not help.
    """
    idle_since, restarts = time.monotonic(), 0
    book = ProgressBook()
    said = set(known)  # ids of runs that have their line; "downloading" before that of a download

    silent_since: dict[str, float] = {}

    def has_ended(run: Run) -> bool:
        if run.status != "interrupted" or run.run_id in known:
            silent_since.pop(run.run_id, None)
            return not run.is_open
        since = silent_since.setdefault(run.run_id, time.monotonic())
        most = _RECORDED_ELSEWHERE_SECONDS if run.queued_for else _RECORDED_SECONDS
        return time.monotonic() - since >= most

    def tell(key: str, line: str) -> None:
        if key not in said and not console.is_terminal:
            console.print(line, markup=False, highlight=False)
        said.add(key)

    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            folder = store.runs()
            runs = [run for run in folder if run.spec.sweep_id == sweep_id]
            ways = progress_of(runs, book)
            if console.is_terminal:
                live.update(_picture(runs, ways), refresh=True)
            for run, way in zip(runs, ways, strict=True):
                if way.download is not None:
                    line = f"{run.spec.label}: downloading the base model, {way.download.label}"
                    tell(f"downloading {run.run_id}", line)
                if has_ended(run):
                    tell(run.run_id, _line(run))
            if all(map(has_ended, runs)):
                return
            if any(run.status == "running" for run in folder):  # may be another sweep's
                idle_since, restarts = time.monotonic(), 0
            elif time.monotonic() - idle_since > _RESTART_AFTER:
                trouble = trouble_of(store.folder)
                if trouble:  # the queue goes on once that is mended
                    tell(trouble, trouble)
                elif restarts == _RESTARTS and any(run.is_open for run in runs):
                    raise FtlabError(
                        f"The queue in '{store.folder}' does not move though its dispatcher was "
                        f"started {restarts} times; is the disk full? "
                        f"See {control_folder(store.folder) / 'dispatcher.log'}."
                    )
                idle_since, restarts = time.monotonic(), restarts + (not trouble)
                start_dispatcher(store.folder)
            time.sleep(POLL_SECONDS)


def watch_queued(store: RunStore, console: Console) -> None:
    """Watches the runs that are open already, as those of a killed command, until they end.

    For commands that use what is there and add what is missing. Raises `KeyboardInterrupt` after
    Ctrl-C, which cancels them.
    """
    for sweep_id in dict.fromkeys(run.spec.sweep_id for run in store.runs() if run.is_open):
        start_dispatcher(store.folder)
        if not watch_or_cancel(store, sweep_id, console):
            raise KeyboardInterrupt


def watch_or_cancel(
    store: RunStore, sweep_id: str, console: Console, known: Collection[str] = ()
) -> bool:
    """Calls `watch`; Ctrl-C cancels the open runs and waits for them; then returns `False`."""
    try:
        watch(store, sweep_id, console, known)
        return True
    except KeyboardInterrupt:
        request_cancel(store.folder, [run.run_id for run in store.sweep(sweep_id) if run.is_open])
        say("cancelling what is left of the sweep …")
        watch(store, sweep_id, console, known)
        return False


def _picture(runs: list[Run], ways: list[Progress]) -> Group:
    table = Table.grid(padding=(0, 2))
    for run, way in zip(runs, ways, strict=True):
        eta = units.format_seconds(way.left_seconds) if way.left_seconds is not None else ""
        counted = f"{way.step}/{way.steps}" if way.steps else ""
        table.add_row(
            Text(run.spec.label + (f" seed {run.spec.seed}" if run.spec.seed else "")),
            STATUS_LABELS[run.status] if run.status != "running" else way.label,
            ProgressBar(total=1.0, completed=(way.download or way).fraction, width=24),
            way.download.label if way.download is not None else counted,
            f"loss {way.loss:.3f}" if way.loss is not None else "",
            f"≈ {eta} left" if run.status == "running" and eta else "",
        )
    left = sweep_eta(runs, ways)
    total = "" if left is None else f"≈ {units.format_seconds(left)} left in all"
    return Group(table, Text(total, style="dim"))


def _line(run: Run) -> str:
    if run.result is not None and MEASURED_IN in run.result.environment:  # its time is another's
        return f"{run.spec.label}: measured before"
    seconds = run.result.measures.total_seconds if run.result else None
    took = f" in {units.format_seconds(seconds)}" if seconds else ""
    reason = f": {run.reason}" if run.reason else ""
    return f"{run.spec.label}: {STATUS_LABELS[run.status]}{took}{reason}"
