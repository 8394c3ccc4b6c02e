"""How much slower a LoRA run is while another process keeps one core busy.

Run as: python -m tests.benchmarks.contention [--repeats N] [--steps N] [--spin COUNT] [--pinned]
        [--model FOLDER] [--json FILE]

Runs the worker alone and beside an endless loop, turn about, and exits with status 1 if it takes
more than 2.5 times as long. `--spin` tries another GOMP_SPINCOUNT than the worker's own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ftlab.models.reference import BUNDLED_ID
from ftlab.models.resolve import resolve_model
from ftlab.runs.spec import TrainingSettings
from tests.benchmarks.product_rate import product_rate, write_figures
from tests.benchmarks.worker import run_worker

LIMIT = 2.5


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
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
    alone: list[float] = []
    beside: list[float] = []
    for _ in range(options.repeats):
        alone.append(train_seconds(settings, model))
        with busy_core(options.pinned):
            beside.append(train_seconds(settings, model))
        print(f"alone {alone[-1]:6.2f} s   beside a busy core {beside[-1]:6.2f} s", flush=True)
    slower = statistics.median(beside) / statistics.median(alone)
    if options.json:
        write_figures(
            options.json, {"alone_seconds": alone, "beside_busy_core_seconds": beside}, rate
        )
    print(f"{slower:.2f}x as long beside a busy core; at most {LIMIT}x is allowed")
    return 0 if slower <= LIMIT else 1


def train_seconds(settings: TrainingSettings, model: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        result = run_worker("lora", settings, Path(folder), model=model)
    assert result.measures.train_seconds is not None
    return result.measures.train_seconds


@contextmanager
def busy_core(pinned: bool) -> Iterator[None]:
    process = multiprocessing.get_context("spawn").Process(
        target=turn_endlessly, args=(pinned,), daemon=True
    )
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def turn_endlessly(pinned: bool) -> None:
    if pinned:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    while True:
        pass


if __name__ == "__main__":
    sys.exit(main())
