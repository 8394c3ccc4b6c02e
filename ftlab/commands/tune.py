"""`tune`: try a short ladder (series) of learning rates, and suggest one."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
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
from ftlab.commands.sweep import parse_columns
from ftlab.commands.sweep_time import predicted_meanwhile
from ftlab.commands.tables import output_console, print_ladder
from ftlab.commands.watch import watch_or_cancel
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.inputs import check_inputs
from ftlab.jobs.launch import checked
from ftlab.jobs.tuning import (
    EXTENSIONS,
    POINTS,
    Ladder,
    Tuned,
    between,
    enqueue_ladders,
    further_ladders,
    ladder_request,
    ladders_of,
    latest_ladders,
    parse_rates,
    starting_ladder,
    tuning_settings,
)
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant, apply_settings
from ftlab.models.bundled import ensure_bundled
from ftlab.models.reference import is_bundled, parse_model
from ftlab.models.resolve import ModelReach
from ftlab.prediction.source import find_size
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.share.learning_rates import write_document
from ftlab.tasks.reference import with_columns

NAME = "tune"
SUMMARY = "find a learning rate: a short ladder on the tuning examples"
DESCRIPTION = f"""Trains a method at several learning rates, each a run of its own, and measures the
loss on the task's tuning examples, never on the test examples. It suggests the rate with the lowest
loss; of rates within noise of it, the smallest. A ladder whose best rate is at its end goes on by
one rate, {EXTENSIONS} times at most.

  python -m ftlab tune --method lora --task sql
  python -m ftlab tune --method lora,dora --task my.csv --from 1e-4 --to 1e-2 --points 5
  python -m ftlab tune --method all --show

methods: {", ".join(METHODS)}"""

_DEFAULTS = tuning_settings(TrainingSettings())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is tuned")
    what.add_argument("--method", required=True, metavar="A,B", help="methods by commas, or all")
    what.add_argument(
        "--set", action="append", default=[], metavar="lora.r=16", dest="settings",
        help="a hyperparameter of a method; repeatable",
    )  # fmt: skip
    add_settings(what, SweepRequest, WHAT)
    what.add_argument("--columns", metavar="prompt=q,completion=a", help="as of sweep")
    ladder = parser.add_argument_group(
        "the ladder",
        "Without these, rates around the method's own for the model, three times apart.",
    )
    ladder.add_argument("--rates", metavar="A,B", help="the learning rates themselves")
    ladder.add_argument("--from", type=float, dest="low", metavar="RATE", help="the lowest rate")
    ladder.add_argument("--to", type=float, dest="high", metavar="RATE", help="the highest")
    ladder.add_argument(
        "--points", type=int, default=POINTS, metavar="N", help="how many (%(default)s)"
    )
    how = parser.add_argument_group("settings, the same for all")
    tuned = ("steps", "batch_size", "max_length", "eval_examples")
    add_settings(how, TrainingSettings, tuned, _DEFAULTS)
    add_settings(how, SweepRequest, without=WHAT)
    out = parser.add_argument_group("output")
    out.add_argument(
        "--show", action="store_true", help="run nothing: show what the runs of the folder say"
    )
    out.add_argument("--write", type=Path, metavar="FILE", help="write the ladders as Markdown too")
    out.add_argument("--json", action="store_true", help="print nothing but a JSON list of ladders")
    add_launcher(out)
    add_runs_folder(out)


def run(options: argparse.Namespace) -> int:
    use_launcher(options)
    folder: Path = options.runs_dir.resolve()
    variants, request = _variants(options), _request(options)
    rates = _rates(options)
    if options.show:
        found = _known(RunStore(folder), variants, request)
    else:
        if parse_model(request.model).kind == "bundled":
            ensure_bundled(lambda line: print(line, file=sys.stderr))
        settings = tuning_settings(request.settings)
        valid = checked(replace(request, variants=tuple(variants), settings=settings))
        check_inputs(valid, ModelReach())
        console = Console(stderr=True, quiet=options.json)
        found = []
        for ladder in _ladders(variants, rates, options.points, request.model):
            (tuned,) = run_ladders([ladder], request, RunStore(folder), console, console)
            found.append(tuned)
            if not options.json:
                print_ladder(tuned, output_console())
    if options.json:
        print(json.dumps([tuned.to_json() for tuned in found], indent=2, ensure_ascii=False))
    elif options.show:
        for tuned in found:
            print_ladder(tuned, output_console())
    if options.write is not None:
        write_document(options.write, found, _command(options, request))
    return 0 if all(_is_answered(tuned) for tuned in found) else 1


def _ladders(
    variants: list[Variant], rates: tuple[float, ...] | None, points: int, model: str
) -> list[Ladder]:
    """The given rates, else rates around each method's default for the model."""
    if rates is not None:
        return [Ladder(variant, rates) for variant in variants]
    size = find_size(model)
    return [starting_ladder(variant, size, points) for variant in variants]


def run_ladders(
    ladders: Sequence[Ladder],
    request: SweepRequest,
    store: RunStore,
    console: Console,
    times: Console,
) -> list[Tuned]:
    """Runs the ladders and their extensions as one sweep; how long it takes is said on `times`.

    Raises `KeyboardInterrupt` after Ctrl-C, which cancels what is left.
    """
    specs: list[RunSpec] = []
    todo = list(ladders)
    for extended in range(EXTENSIONS + 1):
        known = [spec.run_id for spec in specs]
        new = enqueue_ladders(request, todo, store.folder, onto=specs)
        specs += new
        start_dispatcher(store.folder)
        sweep_id = specs[0].sweep_id
        with predicted_meanwhile(ladder_request(request, todo), new, store, times):
            if not watch_or_cancel(store, sweep_id, console, known):
                raise KeyboardInterrupt
        found = ladders_of(store.sweep(sweep_id))
        todo = further_ladders(found)
        if not todo or extended == EXTENSIONS:
            return found
    raise AssertionError("a ladder ends with its last extension")


def _is_answered(tuned: Tuned) -> bool:
    """Whether a rate is suggested, or the method is not applicable."""
    return tuned.suggestion.rate is not None or all(
        point.status == "not_applicable" for point in tuned.points
    )


def _known(store: RunStore, variants: list[Variant], request: SweepRequest) -> list[Tuned]:
    ladders = latest_ladders(store.runs())
    found = [
        tuned
        for variant in variants
        for tuned in ladders
        if tuned.variant == variant
        and (tuned.runs[0].spec.model, tuned.runs[0].spec.task) == (request.model, request.task)
    ]
    if not found:
        raise FtlabError(
            f"No run in {store.folder} was measured on the tuning examples of "
            f"{request.task.label} with these methods; run tune without --show first."
        )
    return found


def _command(options: argparse.Namespace, request: SweepRequest) -> str:
    """The command for these runs, with all settings whose defaults may change in later versions."""
    ends = [("rates", options.rates), ("from", options.low), ("to", options.high)]
    model = [] if is_bundled(request.model) else [("model", options.model)]
    settings = [
        ("method", options.method), *model, ("task", options.task),
        *[(name, value) for name, value in ends if value is not None],
        ("points", options.points), ("steps", request.settings.steps),
        ("batch-size", request.settings.batch_size),
        ("eval-examples", request.settings.eval_examples), ("seeds", options.seeds),
    ]  # fmt: skip
    return "python -m ftlab tune " + " ".join(
        f"--{name} {shlex.quote(str(value))}" for name, value in settings
    )


def _request(options: argparse.Namespace) -> SweepRequest:
    given = read_options(options, SweepRequest)
    given["model"] = parse_model(given["model"]).name
    given["task"] = with_columns(given["task"], parse_columns(options.columns))
    settings = replace(_DEFAULTS, **read_options(options, TrainingSettings))
    return SweepRequest(**given, settings=settings)


def _variants(options: argparse.Namespace) -> list[Variant]:
    variants = named_methods(options.method, others=False)
    if not variants:
        raise FtlabError(f"No method is named; methods: {', '.join(METHODS)}.")
    return apply_settings(variants, options.settings)


def _rates(options: argparse.Namespace) -> tuple[float, ...] | None:
    """The given rates; `None`: use rates around each method's default."""
    ends = options.low, options.high
    if options.rates and ends != (None, None):
        raise FtlabError("Give the rates themselves or the two ends of a ladder, not both.")
    if options.rates:
        return parse_rates(options.rates)
    if (options.low is None) != (options.high is None):
        raise FtlabError("A ladder has two ends: give both --from and --to.")
    if options.low is None:
        return None
    return between(options.low, options.high, options.points)
