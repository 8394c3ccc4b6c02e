"""How much slower a LoRA run is while another process works on one core, and whether it says so.

Run as: python -m tests.benchmarks.contention [--loads 0,25,50,100] [--repeats N] [--steps N]
        [--spin COUNT] [--pinned] [--model FOLDER] [--json FILE]

Runs the worker beside a process that is busy for so many percent of the time, each load in its
turn. Exits with status 1 if a run beside a busy core takes more than 2.5 times as long as alone, or
if a run that took 10 % longer is not called disturbed. `--spin` tries another GOMP_SPINCOUNT than
the worker's own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ftlab.models.reference import BUNDLED_ID
from ftlab.models.resolve import resolve_model
from ftlab.settings.training import TrainingSettings
from ftlab.training.machine import SLOWER
from tests.benchmarks.product_rate import product_rate, write_figures
from tests.benchmarks.worker import run_worker

LIMIT = 2.5
PERIOD = 0.02  # seconds: about what a page that polls, or an editor, makes of its share


@dataclass(frozen=True)
class Beside:
    """A run beside a load, percent of one core; `slowdown` is what its record says it cost."""

    load: int
    seconds: float
    slowdown: float | None
    disturbed: bool
    note: str

    def line(self, alone: float) -> str:
        said = "nothing" if self.slowdown is None else f"{self.slowdown:.2f}x"
        mark = "disturbed" if self.disturbed else "undisturbed"
        return (
            f"{self.load:3} % of a core: {self.seconds:6.2f} s, {self.seconds / alone:.2f}x as "
            f"long as alone; recorded {said}, {mark}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--loads", type=percents, default=(0, 25, 50, 100), metavar="0,25,50,100")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--spin", help="GOMP_SPINCOUNT of the worker")
    parser.add_argument("--pinned", action="store_true", help="the other process keeps to one core")
    parser.add_argument("--model", default=BUNDLED_ID, help="a folder instead of the bundled model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    model = resolve_model(options.model, print).reference.name
    print(rate := product_rate(), flush=True)
    settings = TrainingSettings(steps=options.steps, eval_examples=1)
    if options.spin:
        os.environ["GOMP_SPINCOUNT"] = options.spin
    runs: list[Beside] = []
    for _ in range(options.repeats):
        for load in options.loads:
            with busy_core(load / 100, options.pinned):
                runs.append(run_beside(load, settings, model))
            print(runs[-1].line(median_seconds(runs, 0)), flush=True)
    if options.json:
        write_figures(options.json, [asdict(run) for run in runs], rate)
    return 0 if verdict(runs) else 1


def percents(text: str) -> tuple[int, ...]:
    """Reads loads for argparse; 0 is always the first of them."""
    return (0, *sorted({int(part) for part in text.split(",")} - {0}))


def verdict(runs: Sequence[Beside]) -> bool:
    """Prints the median of each load; whether the limit holds and every cost was recorded."""
    alone, good = median_seconds(runs, 0), True
    for load in sorted({run.load for run in runs}):
        slower = median_seconds(runs, load) / alone
        marked = [run.disturbed for run in runs if run.load == load]
        print(f"median {slower:.2f}x at {load} %: {sum(marked)} of {len(marked)} called disturbed")
        good = good and slower <= LIMIT and (slower < SLOWER or all(marked))
    return good


def median_seconds(runs: Sequence[Beside], load: int) -> float:
    return statistics.median(run.seconds for run in runs if run.load == load)


def run_beside(load: int, settings: TrainingSettings, model: str) -> Beside:
    with tempfile.TemporaryDirectory() as folder:
        result = run_worker("lora", settings, Path(folder), model=model)
    measures = result.measures
    assert measures.train_seconds is not None
    note = next((note for note in result.notes if note.startswith("Disturbed")), "")
    return Beside(load, measures.train_seconds, measures.slowdown, bool(measures.disturbed), note)


@contextmanager
def busy_core(share: float, pinned: bool = False) -> Iterator[None]:
    """A process beside the block that computes for that share of the time."""
    if not share:
        yield
        return
    process = multiprocessing.get_context("spawn").Process(
        target=turn, args=(share, pinned), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def turn(share: float, pinned: bool) -> None:
    if pinned:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    while True:
        ends = time.perf_counter() + share * PERIOD
        while time.perf_counter() < ends:
            pass
        if share < 1:
            time.sleep((1 - share) * PERIOD)


if __name__ == "__main__":
    sys.exit(main())
