"""`import`: import published results to compare with your own runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from ftlab.commands.options import add_runs_folder
from ftlab.commands.waiting import say
from ftlab.records.published import import_files

NAME = "import"
SUMMARY = "import published results, to look at them next to your own"
DESCRIPTION = """Imports result files of huggingface/peft's method_comparison: JSON files, folders
of them, or a CSV of them. They are marked as imported and never part of a comparison of your own
runs. Ends with status 1 if a file was refused.

  python -m ftlab import peft/method_comparison/MetaMathQA/results"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a file or a folder")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    report = import_files(options.files, options.runs_dir.resolve())
    for _, sentence in report.refused:
        say(sentence)
    print(report.sentence)
    return 1 if report.refused else 0
