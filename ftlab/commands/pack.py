"""`pack`: write a sweep as one file, to be opened in another ftlab."""

from __future__ import annotations

import argparse
from pathlib import Path

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import recorded_folder
from ftlab.commands.options import add_runs_folder
from ftlab.commands.waiting import say
from ftlab.records.store import RunStore, sweep_data

NAME = "pack"
SUMMARY = "write a sweep as one file, to be opened in another ftlab"
DESCRIPTION = """Writes results, loss curves and answers of all runs of a sweep as one zip, and with
--adapters their adapters too. The test prompts are in it; logs, data files, tags and notes are
not, and nothing that names a folder, a user or a token of this machine. `python -m ftlab open`, or
Open sweep in Results, shows it elsewhere.

  python -m ftlab pack SWEEP
  python -m ftlab pack SWEEP --adapters -o sweep.zip"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="id of a sweep: own, opened or recorded")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the zip (default: named by the sweep)"
    )
    parser.add_argument("--adapters", action="store_true", help="with the adapters of its runs")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    # Imported here because plotly is slow to import and the other commands do not need it.
    from ftlab.share.pack import file_name, pack_sweep

    store = RunStore(options.runs_dir.resolve(), recorded_folder())
    data = sweep_data(store, options.sweep)
    target: Path = options.output or Path(file_name(data.sweep_id))
    if target.is_dir():
        raise FtlabError(f"'{target}' is a folder; name a file, as in {target / 'sweep.zip'}.")
    packed = pack_sweep(data, target.absolute(), options.adapters)
    for sentence in packed.left_out:
        say(sentence)
    print(f"{packed.sentence} {target}")
    return 0
