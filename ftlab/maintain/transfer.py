"""`transfer`: whether a short run of a small model orders the methods as long runs of a large one.

What is compared, and how, is `ftlab.records.transfer`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from ftlab.basics.files import put_between
from ftlab.commands.waiting import say
from ftlab.commands.watch import watch_queued
from ftlab.maintain.record import code_commit
from ftlab.maintain.studies import add_study_arguments, study_runs, train_missing
from ftlab.methods.registry import label_of
from ftlab.methods.variant import Variant
from ftlab.models.bundled import ensure_bundled
from ftlab.models.reference import is_bundled
from ftlab.records.metrics import METRICS
from ftlab.records.store import RunStore
from ftlab.records.transfer import (
    WHICH,
    TransferRecord,
    Which,
    done_runs,
    far_apart,
    measured,
    read_protocol,
    write_transfer,
)

NAME = "transfer"
SUMMARY = "compare the order of the methods here with that of PEFT's published runs"
DESCRIPTION = """Trains every method that PEFT's table of Llama-3.2-3B and ftlab share, over several
seeds, and says how far both order the methods alike: Spearman's correlation with its bootstrap
interval, for score, loss and forgetting. Methods and columns are fixed in
assets/studies/transfer.json. What is done in the runs folder is not done again.

  python -m ftlab.maintain transfer --runs-dir build/transfer
  python -m ftlab.maintain transfer --runs-dir build/transfer --show"""

BEGIN, END = "<!-- made by `make transfer` -->", "<!-- end of the study -->"

add_arguments = add_study_arguments


def run(options: argparse.Namespace) -> int:
    store = RunStore(options.runs_dir.resolve())
    protocol = read_protocol(options.protocol)
    record = measured(protocol, study_runs(store))
    if not options.show and record.missing:
        if is_bundled(protocol.request.model):
            ensure_bundled(say)
        console = Console(stderr=True)
        watch_queued(store, console)
        by_seeds: dict[tuple[int, ...], list[Variant]] = {}
        for method, done in done_runs(protocol, study_runs(store)).items():
            seeds = tuple(seed for seed in protocol.seeds if seed not in done)
            if seeds:
                by_seeds.setdefault(seeds, []).append(Variant(method))
        train_missing(protocol.request, by_seeds, store, console)
        record = measured(protocol, study_runs(store))
    for line in lines(record):
        print(line)
    if options.write is not None:
        commit = options.commit or code_commit()
        write_transfer(replace(record, commit=commit), options.write)
    if options.document is not None:
        put_between(BEGIN, END, document(record), options.document)
    return 1 if record.missing else 0


def lines(record: TransferRecord) -> list[str]:
    """The answer in sentences, and what is missing for it."""
    said = [f"{len(record.rows)} of {len(record.protocol.methods)} methods are measured."]
    if record.missing:
        said.append(f"Missing: {', '.join(record.missing)}.")
    for column in record.protocol.columns:
        for which, agreed in record.agreements.get(column.id, {}).items():
            said.append(
                f"{column.id} against the published {which} rows' {column.published}: "
                f"Spearman {agreed.sentence}"
            )
    return said


def document(record: TransferRecord) -> str:
    """The correlations and both orders, as Markdown."""
    protocol = record.protocol
    parts = [
        _table(
            ["column here", "published column", *(f"against {WHICH[which]}" for which in WHICH)],
            [
                [
                    METRICS[column.ours].name,
                    column.published,
                    *(_agreed(record, column.id, which) for which in WHICH),
                ]
                for column in protocol.columns
            ],
        ),
        f"Measured on {', '.join(record.machines)}; {_versions(record)}.",
    ]
    for column in protocol.columns:
        metric, placed = METRICS[column.ours], record.placed(column, "default")
        parts += [
            f"### {metric.name}".replace("### ", "### By ", 1),
            _table(
                ["method", "here, mean", "seeds from", "to", "published", "place here", "there"],
                [
                    [
                        label_of(one.method),
                        metric.format(one.mean),
                        metric.format(min(one.ours)),
                        metric.format(max(one.ours)),
                        f"{one.theirs:.3f}",
                        f"{one.our_rank:g}",
                        f"{one.their_rank:g}",
                    ]
                    for one in placed
                ],
            ),
            far_apart(placed),
        ]
    return "\n\n".join(part for part in parts if part)


def _agreed(record: TransferRecord, column: str, which: Which) -> str:
    found = record.agreements.get(column, {}).get(which)
    return found.sentence if found else "too few methods"


def _versions(record: TransferRecord) -> str:
    return ", ".join(
        f"{name} {record.versions[name]}"
        for name in ("torch", "transformers", "peft")
        if name in record.versions
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
