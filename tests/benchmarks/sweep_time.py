"""Holds the predicted time of a sweep, and of each method, against what it takes on this machine.

Run as: python -m tests.benchmarks.sweep_time [--methods lora,ia3] [--steps N] [--eval-examples N]
        [--model FOLDER] [--policy fp32] [--runs-dir DIR] [--json FILE]

Predicts a sweep without any earlier run, runs it, and predicts it again with the first three of its
runs as earlier ones. Run it on an idle machine; all 29 methods take an hour or more. Ends with
status 1 if a bar is missed: within 1.5 times without earlier runs, within 25 % with three, and the
methods in the right order (Spearman 0.9).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ftlab.commands.watch import watch
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.launch import enqueue_sweep
from ftlab.methods.capabilities import why_not_offered
from ftlab.methods.registry import METHODS
from ftlab.methods.variant import Variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.models.resolve import resolve_model
from ftlab.prediction.client import Predictor
from ftlab.prediction.machine_rates import rates_here
from ftlab.prediction.question import Prediction, own
from ftlab.prediction.run_time import past_runs
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tabs.experiment.costs import Costing, SweepTimes, costing
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
    asked = costing(request)
    with Predictor(limits_of=own) as predictor:
        found = dict(predictor.ask(asked.questions))
    runs, seconds = measure(request, store)
    done = [run for run in runs if run.spec.variant is not None and run.status == "done"]
    bases = [run for run in runs if run.spec.is_base]
    without = hold(asked, found, [], done, seconds)
    with_three = hold(asked, found, [*bases, *done[:EARLIER]], done, seconds)
    for method, (expected, measured) in with_three.runs.items():
        print(f"{method}: {expected:.1f} s predicted, {measured:.1f} s measured")
    print(without)
    print(with_three)
    if options.json:
        figures = {str(held.earlier): vars(held) for held in (without, with_three)}
        write_figures(options.json, figures, rate)
    met = without.off <= NEW and with_three.off <= KNOWN and with_three.order >= ORDER
    return 0 if met else 1


def measure(request: SweepRequest, store: RunStore) -> tuple[list[Run], float]:
    """Runs the sweep; returns its runs and the seconds from its launch to its end."""
    began = time.time()
    specs = enqueue_sweep(request, store.folder)
    start_dispatcher(store.folder)
    watch(store, specs[0].sweep_id, Console(stderr=True))
    return store.sweep(specs[0].sweep_id), time.time() - began


def hold(
    asked: Costing,
    found: dict[int, Prediction],
    earlier: Iterable[Run],
    done: Sequence[Run],
    seconds: float,
) -> Held:
    """Predicts the sweep with those earlier runs."""
    known = list(earlier)
    times = SweepTimes(asked, past_runs(known, asked.device), rates_here(asked.device))
    whole = times.sweep(found)
    assert whole is not None, "nothing is known of a method's time"
    took = {run.spec.method: run.result.measures.total_seconds for run in done if run.result}
    runs: dict[str, tuple[float, float]] = {}
    for place, answer in found.items():
        expected, method = times.run(place, answer), asked.variants[place].method
        measured = took.get(method)
        if expected is not None and measured is not None:
            runs[method] = (expected.seconds, measured)
    count = sum(run.spec.variant is not None for run in known)
    return Held(count, whole.seconds, seconds, runs)


if __name__ == "__main__":
    sys.exit(main())
