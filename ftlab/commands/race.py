"""`race`: find the method for one's data within minutes and memory."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from ftlab.basics.errors import FtlabError
from ftlab.basics.units import format_seconds
from ftlab.basics.words import join_names, plural, some_names
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
from ftlab.commands.sweep_time import sentence_from
from ftlab.commands.waiting import fetched_model, say
from ftlab.jobs.inputs import check_inputs
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import apply_settings
from ftlab.models.reference import parse_model
from ftlab.models.resolve import ModelReach
from ftlab.race.record import RaceDirectory, RaceResult, RaceSettings, find_race
from ftlab.race.start import begin_race, resume_race
from ftlab.records.result import OPEN
from ftlab.records.spec import SweepRequest
from ftlab.records.store import RunStore
from ftlab.settings.request import parse_memory_limit
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import with_columns

NAME = "race"
SUMMARY = "find the method for your data within minutes and memory"
DESCRIPTION = f"""Trains every method that is predicted to fit, at its default and at neighbouring
rates and sizes, for a few steps; those with the highest loss on the tuning examples stop, and the
rest go on from their checkpoints (successive halving). The last few are trained anew over the seeds
and scored on the test examples, by which nothing was chosen. Ctrl-C ends it with an answer from
what there is; --resume goes on.

  python -m ftlab race --task my.csv --minutes 20 --memory 8GB
  python -m ftlab race --task sql --methods lora,dora,prompt_tuning --prefer memory
  python -m ftlab race --resume RACE

methods: {", ".join(METHODS)}"""

_SEEDS = (0, 1, 2)
_SECONDS_BETWEEN_LOOKS = 0.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is raced")
    what.add_argument("--methods", default="all", metavar="A,B", help="by commas (%(default)s)")
    what.add_argument(
        "--set", action="append", default=[], metavar="lora.r=16", dest="hyperparameters",
        help="a hyperparameter of a method; repeatable",
    )  # fmt: skip
    add_settings(what, SweepRequest, WHAT, SweepRequest(seeds=_SEEDS))
    what.add_argument("--columns", metavar="prompt=q,completion=a", help="as of sweep")
    race = parser.add_argument_group("the race")
    add_settings(race, RaceSettings)
    race.add_argument(
        "--memory", metavar="8GB", help="what a run may take; methods that need more are left out"
    )
    race.add_argument("--resume", metavar="RACE", help="go on with a race that was cut off")
    how = parser.add_argument_group("settings of the last runs")
    used = ("steps", "batch_size", "max_length", "eval_examples", "schedule")
    add_settings(how, TrainingSettings, used)
    add_settings(how, SweepRequest, ("dtype_policy", "device"))
    out = parser.add_argument_group("output")
    out.add_argument("--json", action="store_true", help="print nothing but a JSON object")
    add_launcher(out)
    add_runs_folder(out)


def run(options: argparse.Namespace) -> int:
    use_launcher(options)
    folder = options.runs_dir.resolve()
    console = Console(stderr=True, quiet=options.json)
    if options.resume:
        race = find_race(folder, options.resume)
        resume_race(race)
    else:
        race = _start(options, console)
    left = max(0.0, race.request().seconds - race.spent())
    console.print(sentence_from(time.time(), left), markup=False, highlight=False)
    result = follow(race, console)
    if options.json:
        content = {"race": race.race_id, **asdict(result)}
        print(json.dumps(content, indent=2, ensure_ascii=False))
    else:
        for line in (result.sentence, *result.details):
            print(line)
        if result.status != "done":
            say(f"{result.reason} {_to_go_on(race)}")
    return 0 if result.status == "done" else 1


def follow(race: RaceDirectory, console: Console) -> RaceResult:
    """Prints what happens until the race has ended; Ctrl-C stops it and waits for its answer.

    Raises `FtlabError` if its process died.
    """
    told = 0
    try:
        while race.status() in OPEN:
            told = _tell(race, told, console)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        print("ftlab: stopping the race; its answer follows …", file=sys.stderr)
        race.cancel()
    _tell(race, told, console)
    result = race.result()
    if result is None:
        raise FtlabError(f"The race was cut off: {race.reason} {_to_go_on(race)}")
    return result


def _to_go_on(race: RaceDirectory) -> str:
    return f"To go on: python -m ftlab race --resume {race.race_id}"


def _tell(race: RaceDirectory, told: int, console: Console) -> int:
    events = race.events()
    for line in lines(events[told:]):
        console.print(line, markup=False, highlight=False)
    return len(events)


def lines(events: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """What a terminal is told of the events, one line each."""
    for event in events:
        kind = event.get("event")
        if kind == "rung":
            yield f"To step {event['step']}: {plural(event['candidates'], 'candidate')}"
        elif kind == "reading" and event["loss"] is not None:
            at = format_seconds(event["elapsed"])
            yield f"  {event['label']}: loss {event['loss']:.3f} after step {event['step']} ({at})"
        elif kind == "left":
            yield f"  {event['label']} is out: {event['reason']}"
        elif kind == "no_time":
            names = some_names(event["labels"])
            yield f"  No time was left to train to step {event['step']}: {names}"
        elif kind == "final":
            names = join_names(event["finalists"])
            yield f"Scored on the test examples with seed {event['seed']}: {names}"
        elif kind == "note":
            yield str(event["sentence"])


def _start(options: argparse.Namespace, console: Console) -> RaceDirectory:
    request = _request(options)
    store = RunStore(options.runs_dir.resolve())
    fetched_model(request.model)
    check_inputs(request, ModelReach())
    settings = RaceSettings(**read_options(options, RaceSettings))
    tell = console.print if not options.json else (lambda sentence: None)
    race = begin_race(request, settings, store, tell)
    planned = race.request()
    methods = plural(len(planned.defaults), "method")
    candidates = plural(len(planned.request.variants), "candidate")
    console.print(f"Race {race.race_id}: {candidates} of {methods}", markup=False, highlight=False)
    return race


def _request(options: argparse.Namespace) -> SweepRequest:
    given = read_options(options, SweepRequest)
    given["model"] = parse_model(given["model"]).name
    given["task"] = with_columns(given["task"], parse_columns(options.columns))
    if options.memory:
        given["memory_limit"] = parse_memory_limit(options.memory)
    variants = apply_settings(named_methods(options.methods, others=False), options.hyperparameters)
    settings = replace(TrainingSettings(), **read_options(options, TrainingSettings))
    return SweepRequest(**given, variants=tuple(variants), settings=settings)
