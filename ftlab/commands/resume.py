"""`resume`: resume runs that ended early."""

from __future__ import annotations

import argparse

from ftlab.commands.options import add_runs_folder
from ftlab.jobs.control import start_dispatcher
from ftlab.records.resume import ask_to_resume
from ftlab.records.run import find_run

NAME = "resume"
SUMMARY = "let a run that was cut off go on from its last checkpoint"
DESCRIPTION = (
    "Queues runs that were killed, cancelled or failed at their last checkpoint. They end where\n"
    "they would have ended; their record says that they were resumed. See sweep --checkpoint-every."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="RUN_ID")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    folder = options.runs_dir.resolve()
    for run_id in options.ids:
        ask_to_resume(find_run(folder, run_id))
    start_dispatcher(folder)
    print(f"{len(options.ids)} queued to go on; `python -m ftlab runs` shows how.")
    return 0
