"""`recommend`: say which variant of a sweep to use, and what is not shown."""

from __future__ import annotations

import argparse
import json

from ftlab.basics.files import recorded_folder
from ftlab.commands.options import add_runs_folder
from ftlab.records.recommendation import CRITERIA, recommend
from ftlab.records.store import RunStore, sweep_data

NAME = "recommend"
SUMMARY = "say which variant of a sweep to use"
DESCRIPTION = """Recommends a variant that is shown to beat the untouched model, that no other is
shown to beat, and than which none is shown to be cheaper. Scores are paired by test example, over
all seeds, and all intervals hold at once, so that having looked at many variants makes none of them
a winner. Without such a variant nothing is recommended. SWEEP is a sweep's id as
`python -m ftlab runs` and the page name it.

  python -m ftlab recommend SWEEP
  python -m ftlab recommend SWEEP --prefer time --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="id of a sweep: own, opened or recorded")
    parser.add_argument(
        "--prefer", choices=list(CRITERIA), default="memory",
        help="what decides where no score does (%(default)s): "
        + "; ".join(f"{name}: {criterion.words}" for name, criterion in CRITERIA.items()),
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON object")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    store = RunStore(options.runs_dir.resolve(), recorded_folder())
    found = recommend(sweep_data(store, options.sweep).table, options.prefer)
    if options.json:
        print(json.dumps(found.as_json(), indent=2, allow_nan=False))
        return 0
    for sentence in filter(None, (found.sentence, *found.details, found.basis)):
        print(sentence)
    return 0
