"""`predict`: predict parameters, file size and memory of methods, without loading a model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ftlab.basics import units
from ftlab.basics.cards import Card
from ftlab.basics.errors import FtlabError
from ftlab.basics.words import rate_name
from ftlab.commands.options import add_settings, named_methods, read_options
from ftlab.commands.tables import output_console
from ftlab.methods.rates import NOT_TUNED, how_scaled, size_of
from ftlab.methods.registry import CORE, METHODS, rates_kept
from ftlab.methods.variant import Variant, parse_variant
from ftlab.models.dimensions import known_model
from ftlab.models.reference import is_bundled, names_hub_model
from ftlab.prediction.adapters import read_adapter
from ftlab.prediction.client import Predictor
from ftlab.prediction.duration import (
    NO_TIME_OVER_CARDS,
    ON_CARDS,
    cost,
    format_cost,
    seconds_of_steps,
)
from ftlab.prediction.fit import fit
from ftlab.prediction.question import (
    Prediction,
    Question,
    Step,
    Target,
    ask_about,
    own,
)
from ftlab.prediction.rows import capability_of, prediction_row
from ftlab.prediction.source import find_config
from ftlab.records.result import MEMORY_PARTS, OF_SHARDS
from ftlab.records.spec import rate_of
from ftlab.settings.training import TrainingSettings

NAME = "predict"
SUMMARY = "what methods would take on any model: parameters, file, memory needed"
DESCRIPTION = f"""Predicts from a model's config.json alone, without its weights and without a
GPU: trainable parameters and file size exactly, and the memory needed for a training step on CUDA
by simulating it.

The step is the standard loop of published measurements (logits of all positions, AdamW); with
--completion-tokens it is ftlab's own, which computes the logits that carry loss alone.

  python -m ftlab predict --model meta-llama/Llama-3.1-8B --methods full,lora,qlora --length 1024
  python -m ftlab predict --model ./config.json --methods all --completion-tokens 40 --json
  python -m ftlab predict --model Llama-3.1-8B --methods full --device rtx-4090 --shard 4
  python -m ftlab predict --model Llama-3.1-70B --device h100 --report plan.html --card plan.png

methods: {", ".join(METHODS)}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_settings(parser, Target)
    parser.add_argument(
        "--methods", metavar="A,B", help=f"methods, or all (default: {','.join(CORE)})"
    )
    parser.add_argument(
        "--variant", action="append", default=[], metavar="lora:r=4",
        help="a method with hyperparameters; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--peft-config", action="append", default=[], metavar="FILE.json",
        help="an adapter by its PeftConfig as JSON; repeatable",
    )  # fmt: skip
    add_settings(parser, Step)
    parser.add_argument("--json", action="store_true", help="print nothing but a JSON list of rows")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write the plan for --device as one HTML file"
    )
    parser.add_argument(
        "--card", dest="picture", type=Path, metavar="FILE",
        help="write a picture of the plan for --device, about the first adapter: .png or .svg",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    target = Target(**read_options(options, Target))
    _check_files(options, target)
    card, found = target.card, find_config(target.model)
    size = size_of(found.config)
    step = Step(**read_options(options, Step), capability=capability_of(card))
    questions = ask_about(found.config, variants_of(options), step)
    with Predictor(limits_of=own) as predictor:
        rows = dict(predictor.ask(questions))
    ordered = [rows[place] for place in sorted(rows)]
    _write_files(options, target, found.label, step, list(zip(questions, ordered, strict=True)))
    rates = [rate_of(question.variant, TrainingSettings(), size) for question in questions]
    if options.json:
        both = zip(ordered, rates, strict=True)
        print(json.dumps([prediction_row(row, target, step, rate) for row, rate in both], indent=2))
    else:
        console = output_console()
        print_predictions(found.label, ordered, console, card, rates, step.shard)
        print_times(ordered, console, target, step)
        if not is_bundled(options.model):
            print(f"{NOT_TUNED}. {how_scaled(size, rates_kept())}")
    return 0 if any(row.trainable_params is not None for row in ordered) else 1


def _check_files(options: argparse.Namespace, target: Target) -> None:
    """Raises `FtlabError` if the files asked for cannot be written; a cheap check."""
    if options.report is None and options.picture is None:
        return
    # Imported here because plotly is slow to import and the other commands do not need it.
    from ftlab.share.report import check_target

    if target.card is None:
        raise FtlabError("--report and --card say whether it fits; name a card with --device.")
    if options.report is not None:
        check_target(options.report, "report")
    if options.picture is not None:
        check_target(options.picture, "card")


def _write_files(
    options: argparse.Namespace,
    target: Target,
    label: str,
    step: Step,
    rows: list[tuple[Question, Prediction]],
) -> None:
    if target.card is None or (options.report is None and options.picture is None):
        return
    from ftlab.share.plan import Planned, plan_card, plan_report
    from ftlab.share.report import write_card, write_report

    known = known_model(target.model)
    name = known.id if known else target.model if names_hub_model(target.model) else ""
    rows = sorted(rows, key=lambda row: not row[0].variant.spec.is_adapter)
    asked, answers = zip(*rows, strict=True)
    plan = Planned(label, name, target.card, step, asked, answers)
    if options.report is not None:
        write_report(options.report, plan_report(plan))
    if options.picture is not None:
        write_card(options.picture, plan_card(plan))


def variants_of(options: argparse.Namespace) -> list[Variant]:
    """Returns the variants that the options name; the `CORE` methods if they name none."""
    return [
        *named_methods(options.methods, bool(options.variant or options.peft_config)),
        *map(parse_variant, options.variant),
        *map(read_adapter, options.peft_config),
    ]


def print_predictions(
    label: str,
    rows: list[Prediction],
    console: Console,
    card: Card | None = None,
    rates: Sequence[float | None] = (),
    over: int = 1,
) -> None:
    """Prints a table, with a verdict if there is a `card`, and why a row is incomplete.

    `rates` are the rows' learning rates. The step is divided `over` so many cards.
    """
    table = Table(box=None, header_style="bold", pad_edge=False, title=label, title_justify="left")
    table.add_column("Method", no_wrap=True)
    parts = [part for part in MEMORY_PARTS if over > 1 or part not in OF_SHARDS]
    for name in ("Trainable", "Share", "File", "Allocated", "Reserved", *map(str.title, parts)):
        table.add_column(name, justify="right", no_wrap=True)
    if rates:
        table.add_column("Rate", justify="right", no_wrap=True)
    if card is not None:
        table.add_column(card.label, no_wrap=True)
    for place, row in enumerate(rows):
        share = None
        if row.trainable_params is not None and row.total_params:
            share = row.trainable_params / row.total_params
        table.add_row(
            row.label,
            units.format_count(row.trainable_params),
            units.format_share(share),
            units.format_bytes(row.adapter_bytes),
            units.format_bytes(row.peak_allocated_bytes),
            units.format_bytes(row.peak_reserved_bytes),
            *(units.format_bytes(row.anatomy.get(part)) for part in parts),
            *([rate_name(rates[place])] if rates else []),
            *([] if card is None else [_verdict(row, card)]),
        )
    console.print(table)
    each = f", on each of {over} cards" if over > 1 else ""
    console.print(
        f"Predicted, for one training step on CUDA{each}: bytes that tensors take (allocated) and "
        "that torch asks the driver for (reserved); CUDA's own context comes on top.",
        highlight=False,
    )
    if card is not None:
        console.print(
            f"{card.label} has {units.format_bytes(card.memory_bytes)}, of which CUDA's context "
            f"takes about {units.format_bytes(card.context_bytes)}.",
            highlight=False,
        )
    for row in rows:
        if row.reason:
            console.print(f"{row.label}: {row.reason}", markup=False, highlight=False)


def print_times(rows: list[Prediction], console: Console, target: Target, step: Step) -> None:
    """Prints the time of 1,000 steps on the card and, with a price an hour, what they cost."""
    if target.card is None:
        return
    if step.shard > 1:
        console.print(NO_TIME_OVER_CARDS, highlight=False)
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("Method", no_wrap=True)
    for name in ("1,000 steps", *(["Cost"] if target.price is not None else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        seconds = seconds_of_steps(row.work, target.card, step.accumulation)
        costs = [] if target.price is None else [format_cost(cost(seconds, target.price))]
        table.add_row(row.label, units.format_seconds(seconds), *costs)
    console.print(table)
    console.print(
        f"Predicted for the {target.card.label} from its data sheet; published steps on an L40S "
        f"took {ON_CARDS.low:g} to {ON_CARDS.high:g} times that.",
        highlight=False,
    )


def _verdict(row: Prediction, card: Card) -> str:
    if row.peak_reserved_bytes is None:
        return units.DASH
    found = fit(row.peak_reserved_bytes, card)
    side = "left" if found.margin_bytes >= 0 else "short"
    return f"{found.verdict}, {units.format_bytes(abs(found.margin_bytes))} {side}"
