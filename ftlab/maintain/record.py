"""`record`: save a finished sweep as a sample that ships with ftlab."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from ftlab.basics import units
from ftlab.basics.files import checkout_folder, is_checkout, need_checkout, recorded_folder
from ftlab.commands.options import add_runs_folder
from ftlab.jobs.launch import requests_of
from ftlab.records.recording import newest_sweep, read_provenance, record_sweep
from ftlab.records.store import RunStore
from ftlab.share.report_sections import command_of

NAME = "record"
SUMMARY = "keep a finished sweep as a sample that ships with ftlab"
DESCRIPTION = """Copies the records of a finished sweep, without weights and logs, to a folder from
which ftlab shows it read-only, with a file that says how, where and with what it was measured.

  python -m ftlab.maintain record --runs-dir build/recorded --replace"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", nargs="?", metavar="SWEEP", help="sweep id (default: the newest)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR",
        help="folder of recordings (default: where ftlab ships them)",
    )  # fmt: skip
    parser.add_argument(
        "--replace", action="store_true", help="take the recordings away that are there"
    )
    parser.add_argument(
        "--commit", metavar="HASH", help="commit of the code that measured (default: this one's)"
    )
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    if options.output is None:
        need_checkout()
    runs_folder = options.runs_dir.resolve()
    sweep_id = options.sweep or newest_sweep(runs_folder)
    specs = [run.spec for run in RunStore(runs_folder).sweep(sweep_id)]
    folder = record_sweep(
        runs_folder,
        sweep_id,
        (options.output or recorded_folder()).resolve(),
        " && ".join(command_of(request).text for request in requests_of(specs)),
        options.commit or code_commit(),
        options.replace,
    )
    provenance = read_provenance(folder)
    size = sum((folder / name).stat().st_size for name in provenance.files)
    print(f"{len(specs)} runs, {units.format_bytes(size)}, in {folder}")
    for run_id in provenance.disturbed:
        print(
            f"ftlab: the computer was busy during {run_id}, so its times are too long.",
            file=sys.stderr,
        )
    return 0


def code_commit() -> str | None:
    """Returns the commit of this code's checkout, with a mark if files were changed.

    Returns `None` outside a checkout: a wheel may be installed inside another project's repository.
    """
    if not is_checkout():
        return None
    root = checkout_folder()
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", "ftlab", "requirements.txt")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit} and changes on it" if changed else commit


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return done.stdout.strip()
