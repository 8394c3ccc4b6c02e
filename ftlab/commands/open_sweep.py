"""`open`: open a packed sweep from another machine, to look at it and compare it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ftlab.basics.errors import FtlabError
from ftlab.commands.options import add_runs_folder

NAME = "open"
SUMMARY = "open a packed sweep from another machine"
DESCRIPTION = """Opens what `python -m ftlab pack` wrote: Results, Compare and `report` show the
sweep, read-only and marked as from another machine. Adapters in it are listed in the Playground,
after the checks of an uploaded adapter. The file is checked first; one that is not whole and
unchanged is refused, and nothing of it is kept.

  python -m ftlab open ftlab-sweep-20261125-221850-9f1d.zip
  python -m ftlab open --remove SWEEP"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="a packed sweep")
    parser.add_argument("--remove", metavar="SWEEP", help="remove an opened sweep again")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    # Imported here because plotly is slow to import and the other commands do not need it.
    from ftlab.share.unpack import open_packed, remove_opened

    if (options.file is None) == (options.remove is None):
        raise FtlabError("Name a packed sweep to open, or one to --remove.")
    folder = options.runs_dir.resolve()
    if options.remove is not None:
        remove_opened(folder, options.remove)
        print(f"{options.remove} removed.")
        return 0
    opened = open_packed(options.file.expanduser(), folder)
    print(opened.sentence)
    print(f"python -m ftlab report {opened.sweep_id}")
    return 0
