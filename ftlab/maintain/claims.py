"""`claims`: tries claims of papers on the small model, as `ftlab.records.claims` says."""

from __future__ import annotations

import argparse
from dataclasses import replace

from rich.console import Console

from ftlab.basics.files import put_between
from ftlab.basics.words import rate_name
from ftlab.commands.waiting import say
from ftlab.commands.watch import watch_queued
from ftlab.maintain.record import code_commit
from ftlab.maintain.studies import add_study_arguments, study_runs, train_missing
from ftlab.models.bundled import ensure_bundled
from ftlab.models.reference import is_bundled
from ftlab.records.claims import (
    ClaimsProtocol,
    ClaimsRecord,
    Found,
    read_protocol,
    tried_claims,
    write_claims,
)
from ftlab.records.store import RunStore

NAME = "claims"
SUMMARY = "try claims of papers on the small model, and say which are seen"
DESCRIPTION = """Trains what assets/studies/claims.json fixes: ladders of learning rates first, then
the methods at their best rates, over several seeds. Each claim gets its estimates with 95 %
intervals, and a verdict: seen, not seen, or cannot be seen at this size. What is done in the runs
folder is not done again.

  python -m ftlab.maintain claims --runs-dir build/claims
  python -m ftlab.maintain claims --runs-dir build/claims --show"""

BEGIN, END = "<!-- made by `make claims` -->", "<!-- end of the claims -->"

add_arguments = add_study_arguments


def run(options: argparse.Namespace) -> int:
    protocol, store = read_protocol(options.protocol), RunStore(options.runs_dir.resolve())
    if not options.show:
        if is_bundled(protocol.request(protocol.sweeps[0]).model):
            ensure_bundled(say)
        _train(protocol, store, Console(stderr=True))
    record = tried_claims(protocol, study_runs(store))
    for line in lines(record):
        print(line)
    if options.write is not None:
        write_claims(replace(record, commit=options.commit or code_commit()), options.write)
    if options.document is not None:
        put_between(BEGIN, END, document(record), options.document)
    return 0 if record.is_complete else 1


def _train(protocol: ClaimsProtocol, store: RunStore, console: Console) -> None:
    """Trains what is missing, sweep by sweep: later ones need the ladders of earlier ones."""
    watch_queued(store, console)
    for sweep in protocol.sweeps:
        missing = Found(protocol, study_runs(store)).missing(sweep)
        train_missing(protocol.request(sweep), missing, store, console)


def lines(record: ClaimsRecord) -> list[str]:
    """Each claim with its verdict and estimates; which have no estimate yet; what diverged."""
    claims = {claim.id: claim for claim in record.protocol.claims}
    said = []
    for tried in record.tried:
        claim = claims[tried.id]
        if len(tried.estimates) < len(claim.estimates):
            said.append(f"{claim.title}: not measured yet.")
            continue
        said.append(f"{claim.title}: {tried.verdict}.")
        said += [
            f"  {one.words}: {one.numbers}; the claim is {one.agreeing}" for one in tried.estimates
        ]
    return [*said, left_out] if (left_out := record.left_out(record.diverged)) else said


def document(record: ClaimsRecord) -> str:
    """The verdicts and estimates, as Markdown."""
    claims = {claim.id: claim for claim in record.protocol.claims}
    rows = ["| claim | estimate, 95 % interval | agrees with it | verdict |", "|---|---|---|---|"]
    for tried in record.tried:
        claim = claims[tried.id]
        for at, found in enumerate(tried.estimates):
            name = f"{claim.says} [{claim.paper}]({claim.url})" if at == 0 else ""
            rows.append(
                f"| {name} | {found.words}: {found.numbers} | {found.agreeing} | {found.verdict} |"
            )
    rates = ", ".join(f"{ladder} {rate_name(rate)}" for ladder, rate in record.rates.items())
    machines = ", ".join(record.machines)
    said = f"Best learning rates: {rates}. {record.left_out(record.diverged)}".strip()
    return "\n".join([*rows, "", f"{said} Measured on {machines}."])
