"""`merge`: merge an adapter into its base model, and score it again."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

from rich.console import Console

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.commands.options import add_run
from ftlab.commands.waiting import shown_status
from ftlab.records.merge import MergeDirectory, record_words
from ftlab.records.result import OPEN
from ftlab.share.merge_control import start_merge
from ftlab.share.weights import any_run

NAME = "merge"
SUMMARY = "merge a run's adapter into its base and score the result"
DESCRIPTION = """Adds a run's adapter to its base in 32 bits, saves the whole model in the run's own
precision (a run on 4 bits merges into the 16-bit base), and answers the run's test examples
with it, to compare the score after merging with the one before. It runs in a separate process as
soon as the device is free. Ctrl-C cancels.

  python -m ftlab merge RUN
  python -m ftlab merge RUN -o my-model"""

POLL_SECONDS = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER",
        help="a new folder for the model (default: merged/ in the run's own)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON object")


def run(options: argparse.Namespace) -> int:
    merge = start_merge(any_run(options.runs_dir, options.run_id), options.output)
    console = Console(stderr=True, quiet=options.json)
    try:
        follow(merge, console)
    except KeyboardInterrupt:
        merge.cancel()
    record = merge.record()
    if merge.status() != "done" or record is None:
        raise FtlabError(f"Not merged: {merge.reason or merge.status()}")
    if options.json:
        print(json.dumps(dataclasses.asdict(record), indent=2))
    else:
        for sentence in record_words(record):
            print(sentence)
        print(f"{merge.target} ({units.format_bytes(record.bytes)})")
    return 0


def follow(merge: MergeDirectory, console: Console) -> None:
    """Shows the merge's progress until it ends."""
    with shown_status(console) as tell:
        while merge.status() in OPEN:
            tell(merge.progress())
            time.sleep(POLL_SECONDS)
