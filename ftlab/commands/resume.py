"""`resume`: resume runs that ended early."""

from __future__ import annotations

import argparse

from ftlab.commands.options import add_runs_folder
from ftlab.jobs.control import start_dispatcher
from ftlab.records.resume import ask_to_resume
from ftlab.records.run import find_run

NAME = "resume"
SUMMARY = "resume an interrupted run from its last checkpoint"
DESCRIPTION = (
    "Queues killed, cancelled or failed runs to continue from their last checkpoint, to the\n"
    "result that they would have had. Their record says that they were resumed. See sweep\n"
    "--checkpoint-every."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="RUN_ID")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    folder = options.runs_dir.resolve()
    for run_id in options.ids:
        ask_to_resume(find_run(folder, run_id))
    start_dispatcher(folder)
    print(f"{len(options.ids)} queued to resume; `python -m ftlab runs` shows their progress.")
    return 0
