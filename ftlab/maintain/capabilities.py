"""`probe`: test on a tiny model what each method can do, and write the table."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from ftlab.basics.files import checkout_folder, put_between
from ftlab.commands.methods import print_methods
from ftlab.commands.tables import output_console
from ftlab.methods import capabilities
from ftlab.methods.capabilities import BEGIN, END, Capability, readme_table
from ftlab.methods.registry import METHODS, get_method

NAME = "probe"
SUMMARY = "try what each method can do, on a tiny model"
DESCRIPTION = (
    "Trains each method for 20 steps on a tiny Llama, saves it, loads it in a fresh process, has\n"
    "it answer, merges it, and tries it on 4 and 8 bits and with gradient checkpointing."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", metavar="A,B", help="only these, by commas (default: all)")
    parser.add_argument(
        "--write",
        action="store_true",
        help="write assets/capabilities.json and the README's table (of some methods: their rows)",
    )


def run(options: argparse.Namespace) -> int:
    names = list(filter(None, (name.strip() for name in (options.methods or "").split(","))))
    chosen = [get_method(name).id for name in names] or list(METHODS)
    readme = checkout_folder() / "README.md" if options.write else None
    found = _probe(chosen)
    print_methods(found, output_console())
    if readme:
        _write(found, readme)
    return 0


def _probe(methods: list[str]) -> dict[str, Capability]:
    os.environ["HF_HUB_OFFLINE"] = "1"  # otherwise saving an adapter queries the Hub
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from ftlab.training.probe import in_silence, probe, variant_to_probe

    in_silence()
    with tempfile.TemporaryDirectory() as folder:
        return probe(map(variant_to_probe, methods), Path(folder))


def _write(found: dict[str, Capability], readme: Path) -> None:
    known = capabilities.capabilities() | found
    capabilities.write_capabilities(known[method] for method in METHODS if method in known)
    table = readme_table(capabilities.capabilities(), capabilities.made_with())
    put_between(BEGIN, END, table, readme)
