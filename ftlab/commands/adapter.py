"""`adapter`: write a run's trained weights as one zip with a model card."""

from __future__ import annotations

import argparse
from pathlib import Path

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.commands.options import add_run
from ftlab.share.bundle import run_bundle, write_zip
from ftlab.share.weights import any_run

NAME = "adapter"
SUMMARY = "write a run's trained weights as one zip with a model card"
DESCRIPTION = """Writes a zip with the weights (safetensors), their configuration and a README.md in
the form of a model card: results, settings, how to load it, base model and licence. A full
fine-tuning gives the whole model. No path of this machine is in the zip.

  python -m ftlab adapter RUN
  python -m ftlab adapter RUN --merged -o model.zip"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser, or_merged=True)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the zip (default: named by the run)"
    )


def run(options: argparse.Namespace) -> int:
    bundle = run_bundle(any_run(options.runs_dir, options.run_id), options.merged)
    target: Path = options.output or Path(f"{bundle.name}.zip")
    if target.is_dir():
        raise FtlabError(f"'{target}' is a folder; name a file, as in {target / bundle.name}.zip.")
    write_zip(bundle, target.absolute())
    print(f"{target} ({units.format_bytes(target.stat().st_size)})")
    return 0
