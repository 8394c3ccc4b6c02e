"""`race_sweep`: records the exhaustive sweep against which races are replayed."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pydantic import TypeAdapter
from rich.console import Console

from ftlab.basics.errors import FtlabError
from ftlab.commands.options import add_runs_folder, add_settings, named_methods, read_options
from ftlab.commands.waiting import say
from ftlab.commands.watch import watch_queued
from ftlab.jobs.tuning import around
from ftlab.methods.rates import TUNED_ON
from ftlab.models.bundled import ensure_bundled
from ftlab.models.dimensions import size_of_model
from ftlab.models.reference import is_bundled
from ftlab.race.conduct import rungs
from ftlab.race.record import RaceDirectory, RaceRequest, RaceSettings, list_races, new_race
from ftlab.race.recorded import RecordedReading, RecordedScore, Recording, write_recording
from ftlab.race.runner import QueuedRunner
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, RunStore
from ftlab.settings.training import TrainingSettings

NAME = "race_sweep"
SUMMARY = "record the exhaustive sweep against which races are replayed"
DESCRIPTION = """Trains 12 methods, each at its default rate and at both neighbours, to both rungs
of a race, then as finalists with the first seed, and the three with the best scores with all seeds.
What is done in the runs folder is not done again.

  python -m ftlab.maintain race_sweep --task sql --runs-dir build/race --write race-sql.json"""

METHODS = "full,last_layers,lora,dora,pissa,lora_plus,qlora,vera,miss,oft,ia3,prompt_tuning"
BEST = 3
_SEEDS = (0, 1, 2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--methods", default=METHODS, metavar="A,B", help="by commas (%(default)s)")
    add_settings(parser, SweepRequest, ("model", "task", "seeds", "dtype_policy", "device"),
                 SweepRequest(seeds=_SEEDS))  # fmt: skip
    add_settings(parser, TrainingSettings, ("steps", "batch_size", "max_length", "eval_examples"))
    parser.add_argument("--write", type=Path, required=True, metavar="FILE", help="the recording")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    request = _request(options)
    folder = options.runs_dir.resolve()
    if is_bundled(request.request.model):
        ensure_bundled(say)
    race = _race(request, folder)
    watch_queued(RunStore(folder), Console(stderr=True))
    recording = record(race, request)
    write_recording(recording, options.write)
    print(f"{len(recording.readings)} readings, {len(recording.scores)} scores: {options.write}")
    return 0


def _request(options: argparse.Namespace) -> RaceRequest:
    """Every method at its default rate, then all at the rates three times lower and higher."""
    given = read_options(options, SweepRequest)
    methods = named_methods(options.methods, others=False)
    size = size_of_model(given["model"]) or TUNED_ON
    rates = {one.method: one.spec.rate_for(size) for one in methods}
    others = [
        replace(one, learning_rate=rate)
        for one in methods
        for rate in around(rates[one.method])
        if rate != rates[one.method]
    ]
    settings = TrainingSettings(**read_options(options, TrainingSettings))
    request = SweepRequest(**given, variants=(*methods, *others), settings=settings)
    return RaceRequest(request, RaceSettings(), tuple(range(len(methods))))


def _race(request: RaceRequest, folder: Path) -> RaceDirectory:
    """The one that was begun before with this request, else a new one."""
    for race in list_races(folder):
        if race.request() == request:
            return race
    race = new_race(folder)
    race.write_request(request)
    return race


def record(race: RaceDirectory, request: RaceRequest) -> Recording:
    """Trains what is missing, and returns all that was measured."""
    steps = rungs(request.request.settings.steps)
    runner = QueuedRunner(race, request, steps)
    every = range(len(request.request.variants))
    for step in steps:
        _train(race, runner, every, step)
    first, *others = request.request.seeds
    runner.score(every, first, math.inf)
    store = RunStore(race.runs_folder)
    scored = [one for one in _scores(store, runner, request) if one.seed == first]
    scored.sort(key=lambda one: (-sum(one.scores), one.candidate))  # the same three each time
    best = [one.candidate for one in scored[:BEST]]
    for seed in others:
        runner.score(best, seed, math.inf)
    done = [run for run in store.sweep(runner.finals) if run.result is not None]
    if not done:
        raise FtlabError("No run of the sweep has a result; see the logs of its runs.")
    return Recording(
        task=request.request.task.label,
        steps=request.request.settings.steps,
        variants=request.request.variants,
        defaults=request.defaults,
        base_loss=runner.base_loss,
        readings=tuple(_readings(race)),
        scores=tuple(_scores(store, runner, request)),
        environment=dict(done[0].result.environment) if done[0].result else {},
    )


def _train(race: RaceDirectory, runner: QueuedRunner, every: range, step: int) -> None:
    """Trains what is missing to the rung; the readings are kept as events, as those of a race."""
    before = runner.elapsed
    for reading in runner.train(every, step, math.inf):
        if not reading.is_kept:
            race.report(reading.event(step) | {"seconds": round(runner.elapsed - before, 2)})
        before = runner.elapsed


def _readings(race: RaceDirectory) -> Iterator[RecordedReading]:
    found = TypeAdapter(RecordedReading)
    for event in race.events():
        if event.get("event") == "reading":
            yield found.validate_python(event)


def _scores(store: RunStore, runner: QueuedRunner, request: RaceRequest) -> Iterator[RecordedScore]:
    places: dict[str, int] = {repr(one): at for at, one in enumerate(request.request.variants)}
    for run in store.sweep(runner.finals):
        if run.spec.is_base or run.result is None or run.status != "done":
            continue
        seconds = run.result.measures.total_seconds or 0.0
        candidate = places[repr(run.spec.variant)]
        scores = _each(run, "score_after")
        yield RecordedScore(candidate, run.spec.seed, round(seconds, 2), scores)


def _each(run: Run, key: str) -> tuple[float, ...]:
    return tuple(float(row[key]) for row in run.directory.samples() if row.get(key) is not None)
