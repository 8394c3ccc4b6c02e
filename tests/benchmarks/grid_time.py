"""Holds the predicted time of prompt grids against what they take on this machine.

Run as: python -m tests.benchmarks.grid_time [--panes 2,6,64] [--prompts 10] [--new-tokens 64]
        [--precision bf16] [--model FOLDER] [--json FILE]

For each number of panes a runs folder of its own gets LoRA adapters, which answer test prompts of
SQL beside the base: on the bundled model copies of the adapter that ships for SQL, on another one
random adapters. Each grid is asked twice, first without any earlier grid, then with that one. About
6 minutes on two cores. Ends with status 1 if a prediction is more than 25 % off.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ftlab.basics.devices import Device, resolve_device
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.grid import GridRequest, list_grids, start_grid
from ftlab.playground.grid_time import expected_seconds
from ftlab.playground.held_out import HeldOut
from ftlab.playground.panes import BASE, shipped_sources
from ftlab.playground.requests import GenerateRequest
from ftlab.prediction.duration import Rates
from ftlab.prediction.machine_rates import rates_here
from ftlab.records.result import OPEN
from ftlab.tasks.reference import parse_task
from tests.benchmarks.product_rate import product_rate, write_figures
from tests.benchmarks.side_by_side import Bench
from tests.fakes import make_run

MOST_OFF = 0.25


@dataclass(frozen=True)
class Held:
    """A grid's predicted and measured seconds, with so many grids before it."""

    panes: int
    answers: int
    earlier: int
    predicted: float
    measured: float

    @property
    def off(self) -> float:
        """By which share of the measured time the prediction is too long."""
        return self.predicted / self.measured - 1

    def __str__(self) -> str:
        return (
            f"{self.answers} answers in {self.panes} panes, {self.earlier} earlier: "
            f"{self.predicted:.1f} s predicted, {self.measured:.1f} s measured, {self.off:+.0%}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--panes", default="2,6,64", metavar="N,N", help="with the base")
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, default=64, help="of an answer at most")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32", "nf4"))
    parser.add_argument("--model", default=BUNDLED_ID, help="a folder instead of the bundled model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    print(rate := product_rate(), flush=True)
    device, task = resolve_device("auto"), parse_task("sql")
    rates = rates_here(device)
    found: list[Held] = []
    for panes in map(int, options.panes.split(",")):
        with tempfile.TemporaryDirectory(prefix="ftlab-grid-time-") as folder:
            runs = Path(folder)
            settings = GenerateRequest(
                panes=(BASE, *make_adapters(runs, panes - 1, options.model)),
                prompt="",
                model=options.model,
                precision=options.precision,
                max_new_tokens=options.new_tokens,
            )
            request = GridRequest(settings, tuple(HeldOut().prompts(task, options.prompts)), task)
            for earlier in (0, 1):
                found.append(measure(request, runs, device, rates, earlier))
                print(found[-1], flush=True)
    if options.json:
        write_figures(options.json, [asdict(held) | {"off": held.off} for held in found], rate)
    worst = max(abs(held.off) for held in found)
    print(f"at most {worst:.0%} off (at most {MOST_OFF:.0%})")
    return int(worst > MOST_OFF)


def make_adapters(runs: Path, count: int, model: str) -> list[str]:
    """Runs of LoRA on the model; returns their ids."""
    shipped = next(source for source in shipped_sources() if source.task == parse_task("sql"))
    assert shipped.folder is not None
    bench = Bench(runs, [], model)
    names = []
    for seed in range(count):
        directory = make_run(runs, "lora", seed=seed, model=model)
        if model == BUNDLED_ID:
            shutil.copytree(shipped.folder, directory.adapter, dirs_exist_ok=True)
        else:
            bench.make("lora", seed, directory.adapter)
        names.append(directory.run_id)
    return names


def measure(
    request: GridRequest, runs: Path, device: Device, rates: Rates | None, earlier: int
) -> Held:
    """Predicts the grid, and asks it in a process of its own, as the page and the command do."""
    predicted = expected_seconds(request, runs, device, rates, HeldOut())
    assert predicted is not None, "the request is not valid, or the machine's rates are not known"
    assert len(list_grids(runs)) == earlier
    grid = start_grid(replace(request, expected_seconds=predicted), runs)
    while grid.status() in OPEN:
        time.sleep(0.2)
    result = grid.result()
    assert result is not None
    assert result.status == "done", grid.log_file.read_text("utf-8")
    seconds = result.seconds - result.waited_seconds
    return Held(len(request.panes), request.cells, earlier, predicted, seconds)


if __name__ == "__main__":
    sys.exit(main())
