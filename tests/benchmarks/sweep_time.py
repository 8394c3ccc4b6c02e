"""Holds the predicted time of a sweep, and of each method, against what it takes on this machine.

Run as: python -m tests.benchmarks.sweep_time [--methods lora,ia3] [--steps N] [--eval-examples N]
        [--model FOLDER] [--policy fp32] [--runs-dir DIR] [--at-once N] [--json FILE]

Runs a sweep of the methods, and predicts it without any earlier run and with the first three of its
runs as earlier ones. Run it on an idle machine; all 29 methods take an hour or more. With --at-once
N it runs the next N methods that the folder has not, as a sweep of their own, and judges all once
none is left. Ends with status 1 if a bar is missed: within 1.5 times without earlier runs, within
25 % with three, and the methods in the right order (Spearman 0.9).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from ftlab.commands.watch import watch
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.launch import ValidRequest, enqueue_sweep
from ftlab.jobs.sweep_costs import Costing, SweepTimes, costing
from ftlab.methods.capabilities import why_not_offered
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant
from ftlab.models.reference import BUNDLED_ID, parse_model
from ftlab.models.resolve import resolve_model
from ftlab.prediction.client import Predictor
from ftlab.prediction.machine_rates import rates_here
from ftlab.prediction.question import Prediction, own
from ftlab.prediction.run_time import past_runs
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from tests.benchmarks.product_rate import product_rate, write_figures
from tests.benchmarks.step_times import spearman

NEW, KNOWN, ORDER = 1.5, 1.25, 0.9
EARLIER = 3


@dataclass(frozen=True)
class Held:
    """Predicted and measured seconds of the sweep, and of its runs by method, with so many runs
    before it."""

    earlier: int
    predicted: float
    measured: float
    runs: dict[str, tuple[float, float]]

    @property
    def off(self) -> float:
        """The larger over the smaller of both."""
        return max(self.predicted / self.measured, self.measured / self.predicted)

    @property
    def order(self) -> float:
        found, measured = zip(*self.runs.values(), strict=True)
        return spearman(found, measured)

    def __str__(self) -> str:
        return (
            f"with {self.earlier} earlier runs: {self.predicted:.1f} s predicted, "
            f"{self.measured:.1f} s measured, {self.off:.2f} times off, Spearman {self.order:.2f} "
            f"over {len(self.runs)} methods"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    offered = [method for method in METHODS if not why_not_offered(method)]
    parser.add_argument("--methods", default=",".join(offered))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--eval-examples", type=int, default=TrainingSettings().eval_examples)
    parser.add_argument("--model", default=BUNDLED_ID, help="a folder instead of the bundled model")
    parser.add_argument("--policy", default="bf16", choices=("bf16", "fp32", "mixed"))
    parser.add_argument("--runs-dir", type=Path, help="default: a new one")
    parser.add_argument("--at-once", type=int, metavar="N", help="default: all in one sweep")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    print(rate := product_rate(), flush=True)
    request = SweepRequest(
        model=resolve_model(options.model, print).reference.name,
        task=parse_task("sql"),
        variants=tuple(Variant(method) for method in options.methods.split(",")),
        settings=TrainingSettings(steps=options.steps, eval_examples=options.eval_examples),
        dtype_policy=options.policy,
    )
    store = RunStore((options.runs_dir or Path(tempfile.mkdtemp(prefix="ftlab-time-"))).resolve())
    there = [run.spec.variant for run in of_request(store, request)]
    left = [variant for variant in request.variants if variant not in there]
    if left:
        measure(ValidRequest(replace(request, variants=tuple(left[: options.at_once]))), store)
    if options.at_once and left[options.at_once :]:
        print(f"{len(left) - options.at_once} methods are left; run it again.")
        return 0
    asked = costing(request)
    with Predictor(limits_of=own) as predictor:
        found = dict(predictor.ask(asked.questions))
    runs = of_request(store, request)
    without, with_three = (hold(asked, found, runs, earlier) for earlier in (0, EARLIER))
    for method, (expected, measured) in with_three.runs.items():
        print(f"{method}: {expected:.1f} s predicted, {measured:.1f} s measured")
    print(without)
    print(with_three)
    if options.json:
        figures = {str(held.earlier): vars(held) for held in (without, with_three)}
        write_figures(options.json, figures, rate)
    met = without.off <= NEW and with_three.off <= KNOWN and with_three.order >= ORDER
    return 0 if met else 1


def of_request(store: RunStore, request: SweepRequest) -> list[Run]:
    """The folder's runs with the request's model, settings and policy, oldest first."""
    return [
        run
        for run in store.runs()
        if (run.spec.settings, run.spec.dtype_policy) == (request.settings, request.dtype_policy)
        if run.spec.model == parse_model(request.model).name
    ]


def measure(request: ValidRequest, store: RunStore) -> None:
    """Runs the sweep until its last run has ended."""
    specs = enqueue_sweep(request, store.folder)
    start_dispatcher(store.folder)
    watch(store, specs[0].sweep_id, Console(stderr=True))


def hold(asked: Costing, found: dict[int, Prediction], runs: Sequence[Run], earlier: int) -> Held:
    """Predicts each sweep of the runs with so many of their trained runs as earlier ones.

    The base runs of the sweeps before it are known as well: a later sweep does not measure them.
    """
    rates = rates_here(asked.device)
    trained = [run for run in runs if run.spec.variant is not None and run.status == "done"]
    known, bases = trained[:earlier], [run for run in runs if run.spec.is_base]
    expected = measured = 0.0
    for sweep_id in dict.fromkeys(run.spec.sweep_id for run in runs):
        members = [run for run in runs if run.spec.sweep_id == sweep_id]
        began = members[0].spec.created_at
        before = [run for run in bases if run.spec.created_at < began]
        variants = tuple(run.spec.variant for run in members if run.spec.variant is not None)
        request = replace(asked.request, variants=variants)
        places = [asked.variants.index(variant) for variant in variants]
        part = replace(
            asked, request=request, questions=tuple(asked.questions[place] for place in places)
        )
        past = past_runs([*known, *before], asked.device)
        # Between two of the runs there may have been a base run, which is no waiting.
        past = replace(past, between=past_runs([*known, *bases], asked.device).between)
        times = SweepTimes(part, past, rates)
        whole = times.sweep({new: found[old] for new, old in enumerate(places)})
        assert whole is not None, "nothing is known of a method's time"
        expected += whole.seconds
        measured += max(run.result.finished_at for run in members if run.result) - began
    times = SweepTimes(asked, past_runs([*known, *bases], asked.device), rates)
    each: dict[str, tuple[float, float]] = {}
    for run in trained:
        assert run.spec.variant is not None
        assert run.result is not None
        place = asked.variants.index(run.spec.variant)
        said, took = times.run(place, found[place]), run.result.measures.total_seconds
        if said is not None and took is not None:
            each[run.spec.method] = (said.seconds, took)
    return Held(len(known), expected, measured, each)


if __name__ == "__main__":
    sys.exit(main())
