"""`sweep`: run several methods on the same examples, and print their costs and results."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ftlab.basics.errors import FtlabError
from ftlab.commands.options import (
    WHAT,
    add_launcher,
    add_runs_folder,
    add_settings,
    named_methods,
    read_options,
    use_launcher,
)
from ftlab.commands.sweep_time import predicted_meanwhile
from ftlab.commands.tables import output_console, print_table, rates_line, rows_json
from ftlab.commands.waiting import fetched_model, say
from ftlab.commands.watch import watch_or_cancel
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.inputs import Inputs, check_inputs
from ftlab.jobs.launch import ValidRequest, checked, enqueue_sweep
from ftlab.jobs.peft_check import by_hand
from ftlab.methods.limits import describe, match_parameters, read_budget
from ftlab.methods.registry import CORE, METHODS
from ftlab.methods.variant import Variant, apply_settings, parse_variant, read_option
from ftlab.models.bundled import ensure_bundled
from ftlab.models.dimensions import shape_of_model
from ftlab.models.reference import parse_model
from ftlab.models.resolve import ModelReach
from ftlab.records.power import promise_of
from ftlab.records.result import STATUS_LABELS
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import TaskReference, with_columns

NAME = "sweep"
SUMMARY = "fine-tune with several methods and compare what they cost"
DESCRIPTION = f"""Trains each variant on the same examples in the same order, each in a process
of its own, measures the untouched base once, and prints the results table.
Ctrl-C cancels what is left.

  python -m ftlab sweep --task sql --methods full,lora,qlora,prompt_tuning --steps 10
  python -m ftlab sweep --task my.csv --variant lora:r=4 --variant lora:r=32 --seeds 0,1,2
  python -m ftlab sweep --task sql --methods lora --peft-config c3a.json --variant oft:base=nf4

methods: {", ".join(METHODS)}"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_sweep(parser)
    out = parser.add_argument_group("output")
    out.add_argument("--json", action="store_true", help="print nothing but a JSON list of rows")
    add_launcher(out)
    add_runs_folder(out)


def add_sweep(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `request_from` reads, and --match-parameters."""
    what = parser.add_argument_group("what is compared")
    add_settings(what, SweepRequest, WHAT)
    what.add_argument(
        "--columns", metavar="prompt=q,completion=a",
        help="columns of a file or Hub data set: prompt, completion, messages, system "
        "(default: guessed)",
    )  # fmt: skip
    add_settings(what, TaskReference)
    what.add_argument(
        "--methods",
        metavar="A,B",
        help=f"methods with their defaults, or all (default: {','.join(CORE)})",
    )
    what.add_argument(
        "--variant", action="append", default=[], metavar="lora:r=4",
        help="a method with hyperparameters; repeatable",
    )  # fmt: skip
    what.add_argument(
        "--peft-config", action="append", default=[], metavar="FILE.json", dest="peft_configs",
        help="any kind of adapter that PEFT has, by its PeftConfig as JSON; repeatable; settings "
        "after a colon: FILE.json:learning_rate=1e-3,base=nf4",
    )  # fmt: skip
    what.add_argument(
        "--set", action="append", default=[], metavar="lora.r=16", dest="settings",
        help="a hyperparameter of every variant of a method; repeatable",
    )  # fmt: skip
    what.add_argument(
        "--match-parameters", default="", metavar="2.4M|lora",
        help="choose each method's rank, tokens or blocks so that trainable parameters are within "
        "10 %% of a number, or of what a method trains; a size set otherwise is replaced",
    )  # fmt: skip
    how = parser.add_argument_group("settings, the same for all")
    add_settings(how, TrainingSettings)
    add_settings(how, SweepRequest, without=WHAT)


def request_from(options: argparse.Namespace) -> SweepRequest:
    """Returns the request of the options; raises `FtlabError` for invalid input."""
    given = read_options(options, SweepRequest)
    given["model"] = parse_model(given["model"]).name
    columns = parse_columns(options.columns)
    given["task"] = with_columns(given["task"], columns, **read_options(options, TaskReference))
    settings = TrainingSettings(**read_options(options, TrainingSettings))
    return SweepRequest(**given, variants=tuple(_variants(options)), settings=settings)


def parse_columns(text: str | None) -> dict[str, str]:
    """Parses "prompt=q,completion=a"; raises `FtlabError` for any other form."""
    columns = {}
    for part in filter(None, (part.strip() for part in (text or "").split(","))):
        role, equals, column = part.partition("=")
        if not equals or not column.strip():
            raise FtlabError(f"'{part}' is not of the form role=column, as in prompt=question.")
        columns[role.strip()] = column.strip()
    return columns


def run(options: argparse.Namespace) -> int:
    use_launcher(options)
    request = request_from(options)
    if options.match_parameters.strip():
        fetched_model(request.model)
    valid, found = checked_with_inputs(request, options.match_parameters)
    return run_sweep(valid, found, options.runs_dir.resolve(), options.json)


def checked_with_inputs(request: SweepRequest, budget: str = "") -> tuple[ValidRequest, Inputs]:
    """The request with every variant near the budget, and what was found of its model and data.

    Fetches the bundled model if it is not here. Raises `FtlabError` for anything that is invalid,
    and for a budget if the model is not here.
    """
    if parse_model(request.model).kind == "bundled":
        ensure_bundled(lambda line: print(line, file=sys.stderr))
    valid = checked(_matched(request, budget))
    if by_hand(valid.variants):
        say("asking PEFT about each PeftConfig …")
    return valid, check_inputs(valid, ModelReach())


def run_sweep(valid: ValidRequest, found: Inputs, folder: Path, as_json: bool = False) -> int:
    """Queues the sweep, watches it until it is over or cancelled, and prints its results.

    Returns the exit status. Raises `FtlabError` if it cannot be queued.
    """
    specs = enqueue_sweep(valid, folder)
    say(rates_line(specs))
    start_dispatcher(folder)
    store = RunStore(folder)
    promise = promise_of(valid, found.scored, store.runs())
    for words in (found.words, promise.words if promise else ""):
        if words:
            say(words)
    sweep_id = specs[0].sweep_id
    console = Console(stderr=True, quiet=as_json)
    with predicted_meanwhile(valid, specs, store, console):
        watch_or_cancel(store, sweep_id, console)
    runs = store.sweep(sweep_id)
    shown = [run for run in runs if not run.spec.is_base]
    if as_json:
        print(rows_json(shown))
    else:
        print_table(shown, output_console())
    for run in runs:
        if run.spec.is_base and run.status != "done":
            say(f"{run.spec.label}: {STATUS_LABELS[run.status]}: {run.reason}")
    return 0 if all(run.status in ("done", "not_applicable") for run in runs) else 1


def _matched(request: SweepRequest, budget_text: str) -> SweepRequest:
    """Returns the request with every variant near the budget; prints the choices to stderr."""
    if not budget_text.strip():
        return request
    shape = shape_of_model(request.model)
    budget = read_budget(budget_text, shape)
    if shape is None or budget is None:
        return request
    matches = match_parameters(request.variants, shape, budget)
    for match in matches:
        say(describe(match, budget))
    return replace(request, variants=tuple(match.variant for match in matches))


def _variants(options: argparse.Namespace) -> list[Variant]:
    variants = [
        *named_methods(options.methods, bool(options.variant or options.peft_configs)),
        *map(parse_variant, options.variant),
        *map(read_option, options.peft_configs),
    ]
    return apply_settings(variants, options.settings)
