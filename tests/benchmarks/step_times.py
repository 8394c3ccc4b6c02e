"""Holds predicted step times against those published for 34 methods, on one L40S.

Run as: python -m tests.benchmarks.step_times [--only WORD ...] [--write FOLDER]

Simulates a step of each method and counts its work, fits the three rates of the card (products,
memory, a call of torch), and prints what is off by how much. Takes some minutes of one core.
`--write` keeps the counts for the tests. Ends with status 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ftlab.prediction.client import Predictor
from ftlab.prediction.duration import Rates, Work
from ftlab.prediction.question import own
from tests.prediction.published import DATA, MEAN_LENGTH, peft_rows

COUNTS = "peft_step_work.csv"
CLOSE, SHARE, SPEARMAN = 0.25, 0.8, 0.9
WIDE = 362 / 91.6
"""An L40S multiplies 32-bit numbers this many times more slowly, by its data sheet."""

_FIELDS = ("name", "seconds", "narrow", "wide", "bytes", "calls")


@dataclass(frozen=True)
class Timed:
    """The counted work of a step, and the published seconds."""

    name: str
    seconds: float
    work: Work


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", default=("",), help="rows with one of these words")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help=f"keep the counts: {COUNTS}")
    options = parser.parse_args(arguments)
    steps = counted(options.only)
    if options.write:
        write_counts(options.write / COUNTS, steps)
    rates = fit(steps)
    print(
        f"fitted: {rates.narrow / 1e12:.0f} TFLOP/s, {rates.bytes / 1e12:.2f} TB/s, "
        f"{rates.call_seconds * 1e6:.1f} µs a call"
    )
    for step in sorted(steps, key=lambda step: rates.seconds(step.work) / step.seconds):
        found = rates.seconds(step.work)
        off = 100 * found / step.seconds - 100
        print(f"{step.name}: {step.seconds:.3f} s, predicted {found:.3f} s, {off:+.0f} %")
    print(summary(steps, rates))
    return 0 if close_share(steps, rates) >= SHARE and rank_order(steps, rates) >= SPEARMAN else 1


def counted(only: Sequence[str]) -> list[Timed]:
    """Simulates the rows whose step time was published."""
    rows = [
        row
        for row in peft_rows(MEAN_LENGTH)
        if row.step_seconds and any(word in row.name for word in only)
    ]
    found: list[Timed] = []
    with Predictor(limits_of=own) as predictor:
        for place, answer in predictor.ask([row.question for row in rows]):
            seconds, work = rows[place].step_seconds, answer.work
            assert seconds is not None
            assert work is not None, answer.reason
            found.append(Timed(rows[place].name, seconds, work.batch + work.update))
            print(f"{rows[place].name}: counted in {answer.seconds:.0f} s", flush=True)
    return found


def write_counts(file: Path, steps: Sequence[Timed]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_FIELDS)
        for step in sorted(steps, key=lambda step: step.name):
            work = step.work
            numbers = (work.narrow, work.wide, work.bytes, work.calls)
            writer.writerow([step.name, step.seconds, *map(round, numbers)])


def read_counts(file: Path = DATA / COUNTS) -> list[Timed]:
    with file.open(encoding="utf-8", newline="") as stream:
        return [
            Timed(row["name"], float(row["seconds"]), Work(*(float(row[n]) for n in _FIELDS[2:])))
            for row in csv.DictReader(stream)
        ]


def fit(steps: Sequence[Timed]) -> Rates:
    """The three rates with the least mean |log(predicted / published)|, by pattern search."""

    def rates(point: Sequence[float]) -> Rates:
        narrow, memory, call = (float(value) for value in np.exp(point))
        return Rates(narrow, narrow / WIDE, memory, call, overlaps=True)

    def loss(point: Sequence[float]) -> float:
        at = rates(point)
        return float(np.mean([abs(np.log(at.seconds(s.work) / s.seconds)) for s in steps]))

    best = list(np.log([150e12, 1e12, 1e-5]))
    least, apart = loss(best), 0.7
    while apart > 0.003:
        tried = [
            [value + sign * apart * (place == axis) for place, value in enumerate(best)]
            for axis in range(3)
            for sign in (-1, 1)
        ]
        nearest = min(tried, key=loss)
        if loss(nearest) < least:
            best, least = nearest, loss(nearest)
        else:
            apart /= 2
    return rates(best)


def close_share(steps: Sequence[Timed], rates: Rates) -> float:
    """The share of rows within `CLOSE` of what was published."""
    return sum(abs(rates.seconds(s.work) / s.seconds - 1) <= CLOSE for s in steps) / len(steps)


def rank_order(steps: Sequence[Timed], rates: Rates) -> float:
    """Spearman's rank correlation; 1 for a single row."""
    return spearman([rates.seconds(s.work) for s in steps], [s.seconds for s in steps])


def spearman(found: Sequence[float], measured: Sequence[float]) -> float:
    """The correlation of ranks; equal values share the mean of their ranks."""
    if len(found) < 2:
        return 1.0
    ranks = [
        [sum(other < value for other in values) + 0.5 * sum(other == value for other in values)
         for value in values]
        for values in (found, measured)
    ]  # fmt: skip
    return float(np.corrcoef(ranks)[0, 1])


WHY = {
    "frod/": "it keeps weights on the host that a step copies to the card, and the time of such "
    "copies is not counted.",
    "osf/": "it was run with PEFT 0.19, which put every weight together again in each step; the "
    "installed one computes less.",
}
"""Why rows are off by more than a quarter, by a part of their names."""


def section(steps: Sequence[Timed]) -> str:
    """The published step times and their predictions as a part of docs/prediction.md."""
    rates = fit(steps)
    rows, misses = [], []
    for step in sorted(steps, key=lambda step: step.seconds):
        found = rates.seconds(step.work)
        off = found / step.seconds - 1
        rows.append(
            f"| {step.name} | {1000 * step.seconds:.0f} ms | {1000 * found:.0f} ms | "
            f"{100 * off:+.0f} % |"
        )
        if abs(off) > CLOSE:
            why = next((text for part, text in WHY.items() if part in step.name), "no reason known")
            misses.append(f"- {step.name}, {100 * off:+.0f} %: {why}")
    return "\n\n".join([
        "## Step times by method, an L40S",
        "`python -m tests.benchmarks.step_times` counts the work of a simulated step: operations\n"
        "of matrix products, bytes that operations read and write, and calls of torch. The time\n"
        "is the root of the sum of squares of the device's time (operations and bytes) and the\n"
        "host's (calls). Three constants are fitted to the published means of 5,000 steps of 4\n"
        f"rows of {MEAN_LENGTH} tokens: {rates.narrow / 1e12:.0f} TFLOP/s in 16 bits, "
        f"{rates.bytes / 1e12:.2f} TB/s, and {rates.call_seconds * 1e6:.1f} µs a call.\n"
        f"Products of 32 bits are {WIDE:.2f} times slower, by the card's data sheet. For other\n"
        "cards the data sheet's rates are multiplied by the same shares; no measurement of\n"
        "another card was held against them.",
        summary(steps, rates) + ".",
        "| run | measured | predicted | off by |\n| --- | ---: | ---: | ---: |\n"
        + "\n".join(rows),
        "\n".join(misses),
    ])  # fmt: skip


def summary(steps: Sequence[Timed], rates: Rates) -> str:
    within = round(close_share(steps, rates) * len(steps))
    return (
        f"{within} of {len(steps)} rows within {CLOSE:.0%}, Spearman {rank_order(steps, rates):.2f}"
    )


if __name__ == "__main__":
    sys.exit(main())
