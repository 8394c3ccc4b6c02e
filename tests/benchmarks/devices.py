"""How much of their time do several like devices compute, from the first start to the last end?

The dispatcher works off a queue of runs with invented times, by a simulated clock. What is expected
of a run is up to a fifth more or less than it takes.

    python -m tests.benchmarks.devices --devices 8 --runs 40
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ftlab.basics.units import format_seconds
from ftlab.jobs.launch import plan_sweep
from ftlab.methods.variant import Variant
from ftlab.records.expected import Expected, write_expected
from ftlab.records.run import RunDirectory
from ftlab.records.spec import SweepRequest
from tests.simulated import Machine

_UNSURE = 0.2
_LOOK = 0.05
"""Seconds until the dispatcher notices that a worker has ended."""


def simulate(
    folder: Path, devices: int, runs: int, seconds: tuple[float, float], starting: float, seed: int
) -> Machine:
    """A machine with so many like devices after a sweep of so many runs, which take from and to so
    many seconds, and `starting` before they compute."""
    chance = random.Random(seed)
    ids = tuple(f"cuda:{number}" for number in range(devices))
    request = SweepRequest(device="cpu", variants=(Variant("lora"),), seeds=tuple(range(runs)))
    took = {}
    for spec in plan_sweep(request):
        if spec.is_base:
            continue
        spec = replace(spec, devices=ids, device=ids[0], base_run_id=None)
        directory = RunDirectory(folder / spec.run_id)
        directory.write_spec(spec)
        took[spec.run_id] = chance.uniform(*seconds)
        guess = took[spec.run_id] * chance.uniform(1 - _UNSURE, 1 + _UNSURE)
        write_expected(directory, Expected(train=guess))
    machine = Machine(took, ids, starting)
    machine.work(folder, look=_LOOK)
    return machine


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seconds", type=float, nargs=2, default=(20.0, 600.0))
    parser.add_argument("--starting", type=float, default=6.0, help="before a run computes")
    parser.add_argument("--repetitions", type=int, default=10)
    options = parser.parse_args(arguments)
    shares = []
    for seed in range(options.repetitions):
        with tempfile.TemporaryDirectory() as folder:
            machine = simulate(
                Path(folder), options.devices, options.runs, tuple(options.seconds),
                options.starting, seed,
            )  # fmt: skip
        shares.append(machine.busy_share())
        print(f"{options.runs} runs on {options.devices} devices in {format_seconds(machine.now)}: "
              f"they computed {shares[-1]:.1%} of their time")  # fmt: skip
    print(f"least: {min(shares):.1%}")
    return 0 if min(shares) >= 0.95 else 1


if __name__ == "__main__":
    sys.exit(main())
