"""`serving`: measure many adapters on one base, beside as many full models."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ftlab.basics.errors import FtlabError
from ftlab.basics.units import format_bytes, format_seconds
from ftlab.basics.words import printable
from ftlab.commands.options import add_runs_folder
from ftlab.commands.tables import output_console
from ftlab.commands.waiting import say, shown_status
from ftlab.models.bundled import ensure_bundled
from ftlab.models.reference import is_bundled
from ftlab.playground.serving import COUNTS, MOST, Progress, ServingRequest, check, measure
from ftlab.records.serving import ServingPoint, ServingRecord, keep_record
from ftlab.settings.generation import PRECISIONS

NAME = "serving"
SUMMARY = "measure 1 to 64 adapters on one base, beside as many full models"
DESCRIPTION = f"""Loads copies of a run's adapter on one base, each read from its file and with
weights of its own, and measures memory, loading, the time between two prompts, and answers a
second; then as many full models as memory holds. Says first how long that takes. Compare shows the
numbers in Storage and serving, for adapters of that method and size.

  python -m ftlab serving RUN_ID
  python -m ftlab serving shipped:sql --counts 1,8,{MOST} --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run_id", metavar="RUN",
        help="a run's id, adapter:ID of an uploaded one, or shipped:sql",
    )  # fmt: skip
    parser.add_argument(
        "--counts", default=",".join(map(str, COUNTS)), metavar="A,B",
        help=f"how many adapters, ascending, at most {MOST} (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--new-tokens", type=int, default=32, metavar="N", help="of each answer (%(default)s)"
    )
    parser.add_argument(
        "--precision", choices=list(PRECISIONS), default="bf16",
        help="of the base (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--no-full-models", action="store_true", help="measure adapters alone")
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON object")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    folder: Path = options.runs_dir.resolve()
    request = ServingRequest(
        options.run_id, _counts(options.counts), options.precision, options.new_tokens,
        not options.no_full_models,
    )  # fmt: skip
    _, model = check(request, folder)
    if is_bundled(model):
        ensure_bundled(say)
    with shown_status(Console(stderr=True, quiet=options.json)) as tell:
        record = measure(request, folder, lambda progress: tell(_words(progress)))
    if options.json:
        print(json.dumps(asdict(record), indent=2))
    else:
        print(printable(f"{record.sentence} The base is in {PRECISIONS[record.precision]}."))
        output_console().print(table(record))
    keep_record(record, folder)
    return 0


def table(record: ServingRecord) -> Table:
    """One row a count: what the adapters took, and the full models if they were measured."""
    shown = Table(box=None, pad_edge=False)
    for head in ("", "Memory", "Loading", "Swap", "Answers/s"):
        shown.add_column(head, justify="right" if head else "left")
    for points, kind in (record.adapters, "adapter"), (record.full_models, "full model"):
        for point in points:
            shown.add_row(f"{point.count} {kind}{'s' if point.count > 1 else ''}", *_cells(point))
    if record.stopped:
        shown.caption = f"{record.stopped[:1].upper()}{record.stopped[1:]}."
    return shown


def _cells(point: ServingPoint) -> list[str]:
    memory = "–" if point.memory_bytes is None else format_bytes(point.memory_bytes)
    times = [format_seconds(point.load_seconds), format_seconds(point.swap_seconds)]
    return [memory, *times, f"{point.answers_per_second:.2f}"]


def _words(progress: Progress) -> str:
    if progress.left_seconds is None:
        return progress.words
    return f"{progress.words}; about {format_seconds(progress.left_seconds)} left"


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise FtlabError(
            f"--counts is '{text}'; give whole numbers by commas, as in 1,4,16."
        ) from None
