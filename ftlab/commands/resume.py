"""`resume`: resume runs that ended early."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from ftlab.commands.options import add_launcher, add_runs_folder, use_launcher
from ftlab.commands.sweep_time import is_next, sentence_from
from ftlab.jobs.control import start_dispatcher
from ftlab.records.progress import later_of, resumed_seconds, seconds_together
from ftlab.records.resume import ask_to_resume
from ftlab.records.run import find_run
from ftlab.records.store import RunStore

NAME = "resume"
SUMMARY = "resume an interrupted run from its last checkpoint"
DESCRIPTION = (
    "Queues killed, cancelled or failed runs to continue from their last checkpoint, to the\n"
    "result that they would have had. Their record says that they were resumed. See sweep\n"
    "--checkpoint-every."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="RUN_ID")
    add_launcher(parser)
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    use_launcher(options)
    folder = options.runs_dir.resolve()
    runs = [find_run(folder, run_id) for run_id in options.ids]
    took = _time(RunStore(folder), options.ids)
    for run in runs:
        ask_to_resume(run)
    start_dispatcher(folder)
    print(f"{len(options.ids)} queued to resume; `python -m ftlab runs` shows their progress.")
    if took is not None:
        print(took)
    return 0


def _time(store: RunStore, ids: Sequence[str]) -> str | None:
    """How long these runs take from their checkpoints.

    `None` if the time of one is not known, or if they are of several devices.
    """
    runs = sorted(map(store.find, ids), key=lambda run: run.spec.created_at)
    left = [resumed_seconds(run, later_of(store.sweep(run.spec.sweep_id))) for run in runs]
    known = [seconds for seconds in left if seconds is not None]
    devices = {run.spec.may_use for run in runs}
    if len(known) < len(runs) or len(devices) > 1:
        return None
    are_next = is_next(runs[-1].spec, ids, store.runs())  # nothing is queued between them either
    together = seconds_together(known, len(devices.pop()))
    return sentence_from(time.time() if are_next else None, together)
