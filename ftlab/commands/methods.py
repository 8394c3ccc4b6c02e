"""`methods`: list the methods, and what each can do according to the probe."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from ftlab.basics import units
from ftlab.basics.words import rate_name
from ftlab.commands.tables import output_console
from ftlab.methods.capabilities import (
    COLUMNS,
    MARKS,
    Capability,
    answer,
    capabilities,
    footnotes,
    is_offered,
    made_with,
)
from ftlab.methods.rates import NOT_TUNED, TUNED_ON, ModelSize, how_scaled
from ftlab.methods.registry import METHODS, rates_kept
from ftlab.methods.spec import MethodSpec
from ftlab.models.reference import BUNDLED_ID, is_bundled
from ftlab.prediction.source import find_size

NAME = "methods"
SUMMARY = "list the methods and what each can do"
DESCRIPTION = (
    "Lists every method with what it can do, as observed on a tiny model.\n"
    "What was not probed is null in the JSON."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        default=BUNDLED_ID,
        help="whose learning rates are listed: 'bundled', a model of the catalogue, a folder, or a "
        "Hub id",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list")


def run(options: argparse.Namespace) -> int:
    known = capabilities()
    size = find_size(options.model)
    if options.json:
        print(json.dumps(rows(known, size), indent=2, ensure_ascii=False))
        return 0
    console = output_console()
    print_methods(known, console, list(METHODS), size)
    if not is_bundled(options.model):
        words = f"{NOT_TUNED}. {how_scaled(size, rates_kept())} `python -m ftlab tune` tunes them."
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    versions = ", ".join(f"{name} {version}" for name, version in made_with().items())
    if versions:
        console.print(f"Probed with {versions}.", highlight=False)
    return 0


def rows(known: Mapping[str, Capability], size: ModelSize = TUNED_ON) -> list[dict[str, Any]]:
    """Returns one object per registered method; its capabilities are null if it was not probed.

    `learning_rate` is for a model of the given size, `tuned_rate` for the bundled model.
    """
    unknown = {item.name: None for item in fields(Capability)} | {"reason": "", "note": ""}
    return [
        _facts(spec, size)
        | (asdict(known[spec.id]) if spec.id in known else unknown | {"id": spec.id})
        | {"offered": is_offered(known.get(spec.id))}
        for spec in METHODS.values()
    ]


def _facts(spec: MethodSpec, size: ModelSize) -> dict[str, Any]:
    rule = spec.rate_rule
    return {
        "id": spec.id,
        "label": spec.label,
        "family": spec.family,
        "summary": spec.summary,
        "good_for": spec.good_for,
        "weak_at": spec.weak_at,
        "paper": asdict(spec.paper),
        "learning_rate": spec.rate_for(size),
        "tuned_rate": spec.learning_rate,
        "rate_rule": {"words": rule.words, "source": rule.source, "url": rule.url},
        "base_precision": spec.base_precision,
    }


def print_methods(
    known: Mapping[str, Capability],
    console: Console,
    methods: list[str] | None = None,
    size: ModelSize = TUNED_ON,
) -> None:
    """Prints a table grouped by family, and below it the reasons why something does not work.

    `methods` are the ids to list (`None`: those in `known`); rates are for a model of `size`.
    """
    listed = list(known) if methods is None else methods
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("Family", "Method", "Id"):
        table.add_column(name, no_wrap=True)
    table.add_column("Rate", justify="right", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column.head, justify="center")
    table.add_column("File", justify="right", no_wrap=True)
    family = ""
    for method in listed:
        spec, capability = METHODS[method], known.get(method)
        first, family = spec.family != family, spec.family
        marks = [MARKS[answer(capability, item)][0] if capability else "?" for item in COLUMNS]
        file = units.format_bytes(capability.adapter_bytes if capability else None)
        shown = spec.family if first else ""
        table.add_row(shown, spec.label, method, rate_name(spec.rate_for(size)), *marks, file)
    console.print(table)
    legend = "✓ seen to work, ✗ seen not to, – does not apply"
    console.print(f"{legend}{', ? not probed' if set(listed) - set(known) else ''}.")
    for method, text in footnotes(known).items():
        console.print(
            f"{METHODS[method].label}: {text}", markup=False, highlight=False, soft_wrap=True
        )
