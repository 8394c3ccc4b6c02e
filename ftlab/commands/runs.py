"""`runs`: print the results table of all runs."""

from __future__ import annotations

import argparse
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import recorded_folder
from ftlab.basics.words import inert, printable
from ftlab.commands.options import add_runs_folder
from ftlab.commands.tables import output_console, print_table, rows_json
from ftlab.commands.waiting import say
from ftlab.records.store import RunStore
from ftlab.records.table import to_table

NAME = "runs"
SUMMARY = "list the runs with their numbers"
DESCRIPTION = (
    "Prints one row a run, oldest first, then those that were opened from packed sweeps. Base runs "
    "give the 'before' numbers of the others."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table")
    parser.add_argument("--sweep", metavar="ID", help="only this sweep: own, opened or recorded")
    parser.add_argument("--with-base", action="store_true", help="list base runs too")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    store = RunStore(options.runs_dir.resolve(), recorded_folder())
    every = [*store.runs(), *store.opened()]
    runs = [
        run
        for run in (every if options.sweep is None else store.sweep(options.sweep))
        if options.with_base or not run.spec.is_base
    ]
    for broken in store.unreadable:
        say(f"left out {broken.run_id}: {broken.reason}")
    if options.format == "json":
        print(rows_json(runs))
    elif options.format == "csv":
        print(to_table(runs).map(_cell).to_csv(index=False, lineterminator="\r\n"), end="")
    elif runs:
        print_table(runs, output_console())
    elif options.sweep is not None:
        raise FtlabError(f"There is no sweep '{options.sweep}' in {store.folder}.")
    else:
        print(f"No runs in {store.folder}. Start some with: python -m ftlab sweep --task sql")
    return 0


def _cell(value: Any) -> Any:
    """Makes a text safe for spreadsheets (no formula) and terminals (no control characters)."""
    return printable(inert(value), keep="\n\t") if isinstance(value, str) else value
