"""Options that several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path

from ftlab.paths import default_runs_folder


def add_runs_folder(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--runs-dir",
        type=Path,
        default=default_runs_folder(),
        metavar="DIR",
        help="folder of run directories (default: $FTLAB_RUNS, else ./runs)",
    )
