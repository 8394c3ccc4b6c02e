"""From the command to the results: how long a sweep takes, what of it is not training, and when the
first loss is there, against another checkout.

Run as: python -m tests.benchmarks.whole_sweep --against FOLDER [--methods full,lora,qlora,…]
        [--steps 10] [--eval-examples 64] [--policy bf16] [--repeats 1] [--model FOLDER]
        [--when new again] [--json FILE]

FOLDER is a checkout of another commit, as `git worktree add FOLDER 5a5ce30` makes one. Both sides
run the command `sweep` twice, turn about: "new" where the machine never saw the model (nothing is
kept of base runs, and no process waits), then "again". "training" is the sum of the timed steps of
all runs. Medians. Compare policies with care: the other checkout may multiply bf16 by other means.
Ends with status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ftlab.basics.processes import python_environment
from ftlab.records.run import RunDirectory, run_directories
from ftlab.settings.training import DTYPE_POLICIES
from tests.benchmarks.product_rate import product_rate, write_figures

OURS = Path(__file__).parents[2]
MOST = {"new": 0.6, "again": 0.45}
"""The wall time of a sweep against that of the other checkout."""

MOST_WAITING = 0.35
"""What is not training, against the same of the other checkout, the second time."""


@dataclass(frozen=True)
class Took:
    """Seconds of one sweep."""

    wall: float
    training: float
    first_loss: float

    @property
    def waiting(self) -> float:
        return self.wall - self.training


def sweep(checkout: Path, folder: Path, name: str, options: argparse.Namespace) -> Took:
    """Runs the command in the checkout. `folder` has what it keeps from one sweep to the next."""
    runs = folder / name
    own = {"FTLAB_LOCKS": str(folder / "locks"), "FTLAB_KEPT": str(folder / "kept")}
    command = [sys.executable, "-m", "ftlab", "sweep", "--task", "sql", "--device", "cpu"]
    for option in ("model", "methods", "steps", "eval_examples"):
        command += ["--" + option.replace("_", "-"), str(getattr(options, option))]
    command += ["--dtype-policy", options.policy, "--runs-dir", str(runs)]
    began = time.time()
    subprocess.run(
        command,
        env=python_environment() | own | {"PYTHONPATH": str(checkout)},
        cwd=checkout,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    wall = time.time() - began
    found = [*run_directories(runs)]
    return Took(
        wall,
        sum(map(training_seconds, found)),
        min(filter(None, map(first_loss, found))) - began,
    )


def training_seconds(run: RunDirectory) -> float:
    result = run.result()
    assert result is not None, f"{run.path} has no result"
    assert result.status == "done", result.reason
    return result.measures.train_seconds or 0.0


def first_loss(run: RunDirectory) -> float | None:
    """When the first step ended, as seconds since the epoch; `None` for a base run."""
    steps = [event["at"] for event in run.metrics() if event.get("event") == "step"]
    return float(steps[0]) if steps else None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="How long a sweep takes, against a checkout.")
    parser.add_argument("--against", type=Path, metavar="FOLDER", required=True)
    parser.add_argument("--methods", default="full,lora,qlora,prompt_tuning")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--eval-examples", type=int, default=64)
    parser.add_argument("--policy", choices=sorted(DTYPE_POLICIES), default="bf16")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--model", default="bundled", help="a folder instead of the bundled model")
    parser.add_argument("--when", nargs="+", choices=MOST, default=list(MOST))
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    print(rate := product_rate(), flush=True)
    took: dict[str, dict[str, list[Took]]] = {}
    for number in range(options.repeats):
        sides = {"ours": OURS, "other": options.against.resolve()}
        for name in list(sides)[:: -1 if number % 2 else 1]:
            with tempfile.TemporaryDirectory() as folder:
                for when in options.when:
                    found = sweep(sides[name], Path(folder), when, options)
                    took.setdefault(when, {}).setdefault(name, []).append(found)
                    print(
                        f"{when} {name}: {found.wall:.1f} s, of which {found.training:.1f} s are "
                        f"training; first loss after {found.first_loss:.1f} s",
                        flush=True,
                    )
    good = judge(took)
    if options.json:
        figures = {
            when: {name: [asdict(one) for one in each] for name, each in sides.items()}
            for when, sides in took.items()
        }
        write_figures(options.json, figures, rate)
    return 0 if good else 1


def judge(took: dict[str, dict[str, list[Took]]]) -> bool:
    """Prints the ratios; returns whether all bars are met."""
    good = True
    for when, sides in took.items():
        ratios = {
            part: statistics.median(getattr(one, part) for one in sides["ours"])
            / statistics.median(getattr(one, part) for one in sides["other"])
            for part in ("wall", "waiting", "first_loss")
        }
        print(
            f"{when}: {ratios['wall']:.2f}x (at most {MOST[when]}x); without training "
            f"{ratios['waiting']:.2f}x; first loss {ratios['first_loss']:.2f}x"
        )
        good = good and ratios["wall"] <= MOST[when]
        good = good and (when != "again" or ratios["waiting"] <= MOST_WAITING)
    return good


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    sys.exit(main())
