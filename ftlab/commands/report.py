"""`report`: write a sweep as one HTML file, and its savings card as a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import recorded_folder
from ftlab.commands.options import add_runs_folder
from ftlab.commands.waiting import say
from ftlab.records.store import RunStore, sweep_data

NAME = "report"
SUMMARY = "write a sweep as one HTML file, and its savings card as a picture"
DESCRIPTION = """Writes one self-contained HTML file: the savings card, the table, figures, answers
side by side, what was held equal, and the command that runs the sweep again. It opens without a
network and prints to PDF. SWEEP is a sweep's id as `python -m ftlab runs` and the page name it.

  python -m ftlab report SWEEP -o report.html
  python -m ftlab report SWEEP --variant QLoRA --card card.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="id of a sweep: own, recorded or imported")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("report.html"), metavar="FILE",
        help="where the report is written (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="write the savings card too: .png or .svg"
    )
    parser.add_argument(
        "--variant", metavar="NAME", help="what the card is about, as in QLoRA (default: the best)"
    )
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    # Imported here because plotly is slow to import and the other commands do not need it.
    from ftlab.share.card_content import card_of
    from ftlab.share.report import (
        check_reportable,
        check_target,
        sweep_report,
        unreadable_notes,
        write_card,
        write_report,
    )

    check_target(options.output, "report")
    if options.card is not None:
        check_target(options.card, "card")
    store = RunStore(options.runs_dir.resolve(), recorded_folder())
    data = sweep_data(store, options.sweep)
    check_reportable(data)
    done = list(dict.fromkeys(data.table.loc[data.table["status"] == "done", "variant"]))
    if options.variant not in (None, *done):
        raise FtlabError(
            f"No variant '{options.variant}' of the sweep is done; done are: {', '.join(done)}."
        )
    notes = unreadable_notes(store, data.sweep_id)
    for note in notes:
        say(note)
    write_report(options.output, sweep_report(data, options.variant, notes))
    card = card_of(data, options.variant)
    print(card.sentence)
    for doubt in card.doubts:
        print(doubt)
    print(f"{options.output} ({units.format_bytes(options.output.stat().st_size)})")
    if options.card is not None:
        write_card(options.card, card)
        print(options.card)
    return 0
