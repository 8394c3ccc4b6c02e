"""`doctor`: check that this machine can run ftlab, and report how to fix problems."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from ftlab.commands.options import add_launcher, add_runs_folder
from ftlab.jobs.launchers.launcher import where_runs_go
from ftlab.operations.doctor import Finding, examine, examine_cluster

NAME = "doctor"
SUMMARY = "check device, libraries, disks, folders, model, port and queue"
DESCRIPTION = (
    "One line for each check: ok, warn or fail, what was found, and what to do about it.\n"
    "Ends with status 0 if nothing failed, else with 1. Nothing is changed.\n"
    "With --on, the nodes of that cluster are checked instead: the runs folder, libraries, cards."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address of the app (%(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port of the app (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON array")
    add_launcher(parser)
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    folder = options.runs_dir.resolve()
    on = options.on or where_runs_go()
    findings = []
    asked = examine_cluster(on, folder) if on else examine(folder, options.host, options.port)
    for finding in asked:
        findings.append(finding)
        if not options.json:
            print(line(finding), flush=True)
    if options.json:
        json.dump([asdict(finding) for finding in findings], sys.stdout, indent=2)
        print()
    return int(any(finding.mark == "fail" for finding in findings))


def line(finding: Finding) -> str:
    """Formats as "fail  port           127.0.0.1:7860 cannot be used (…)  ->  choose another …"."""
    fix = f"  ->  {finding.fix}" if finding.fix else ""
    return f"{finding.mark:<5} {finding.check:<14} {finding.found}{fix}"
