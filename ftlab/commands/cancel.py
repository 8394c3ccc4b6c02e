"""`cancel`: end runs."""

from __future__ import annotations

import argparse

from ftlab.basics.errors import FtlabError
from ftlab.commands.options import add_runs_folder
from ftlab.jobs.control import request_cancel
from ftlab.records.store import RunStore

NAME = "cancel"
SUMMARY = "end a run, or all open runs of a sweep"
DESCRIPTION = "Ends runs within 10 seconds; what is queued never starts. Finished runs stay."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="+", metavar="ID", help="run id or sweep id")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    folder = options.runs_dir.resolve()
    runs = RunStore(folder).runs()
    chosen: list[str] = []
    for wanted in options.ids:
        matching = [run for run in runs if wanted in (run.run_id, run.spec.sweep_id)]
        if not matching:
            raise FtlabError(f"There is no run and no sweep '{wanted}' in {folder}.")
        chosen += [run.run_id for run in matching if run.is_open]
    if chosen:
        request_cancel(folder, chosen)
    print(f"{len(chosen)} open run{'s' if len(chosen) != 1 else ''} will end within seconds.")
    return 0
