"""`script`: write a run as a script with plain transformers and peft, or as vLLM's command."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ftlab.commands.options import add_run
from ftlab.commands.waiting import say
from ftlab.share.vllm import vllm_command
from ftlab.share.weights import any_run, script_base, script_command

NAME = "script"
SUMMARY = "write a run as a Python script without ftlab, or as vLLM's command"
DESCRIPTION = """Writes reproduce.py, which trains the same with plain transformers and peft and
prints the loss of every step, and examples.jsonl, the examples in the order of the steps. Recorded
runs have a script too: no weights are needed.

  python -m ftlab script RUN -o my-run
  python my-run/reproduce.py

With --vllm it prints the command with which vLLM serves the run: as an adapter on its base, or
merged where vLLM does not take the adapter.

  python -m ftlab script RUN --vllm"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("."), metavar="FOLDER",
        help="where the two files are written (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--vllm", action="store_true", help="print vLLM's command for the run instead"
    )


def run(options: argparse.Namespace) -> int:
    found = any_run(options.runs_dir, options.run_id)
    if options.vllm:
        print(vllm_command(found))
        return 0
    # Imported here because it imports torch, which is slow and not needed by other commands.
    from ftlab.share.script import SCRIPT_FILE, write_reproduction

    for path in write_reproduction(found, options.output):
        print(path)
    model = found.spec.model
    typed = script_command(model, shlex.quote(str(options.output / SCRIPT_FILE)))
    say(f"type {typed}; {script_base(model)}.")
    return 0
