"""Measures the README's table: four methods on SQL, three seeds, 100 test examples.

Run as: python -m tests.benchmarks.quality [--update-readme [FILE]] [--json FILE] [--runs-dir DIR]
        [--sweep ID] [--methods full,lora,...] [--seeds 0,1,2] [--steps N] [--eval-examples N]
        [--model FOLDER]

Exits with status 1 if LoRA's gain is not sure to be 0.20 or more.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ftlab.basics import units
from ftlab.basics.files import put_between
from ftlab.commands.watch import watch
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.launch import enqueue_sweep
from ftlab.methods.registry import CORE, get_method
from ftlab.methods.variant import Variant
from ftlab.models.reference import BUNDLED_ID
from ftlab.models.resolve import resolve_model
from ftlab.records.differences import paired_interval
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from tests.benchmarks.product_rate import ProductRate, product_rate, write_figures

README = Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- quality table: made by `make bench` -->", "<!-- end of quality table -->"
SURE_GAIN = 0.20


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--update-readme",
        type=Path,
        nargs="?",
        const=README,
        metavar="FILE",
        help="put the table into the README, or into that copy of it",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--runs-dir", type=Path)
    parser.add_argument("--sweep", help="take this finished sweep instead of running one")
    parser.add_argument("--methods", default=",".join(CORE))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=TrainingSettings().steps)
    parser.add_argument("--eval-examples", type=int, default=100)
    parser.add_argument("--model", default=BUNDLED_ID, help="a folder instead of the bundled model")
    options = parser.parse_args(arguments)
    methods = options.methods.split(",")
    if "lora" not in methods:
        parser.error("--methods must hold lora, whose gain is judged")
    folder = options.runs_dir or Path(tempfile.mkdtemp(prefix="ftlab-quality-"))
    store = RunStore(folder.resolve())
    rate = None
    if not options.sweep:  # which another machine may have run
        print(rate := product_rate(), flush=True)
    runs = store.sweep(options.sweep) if options.sweep else measure(store, methods, options)
    rows = [summary(method, runs) for method in methods]
    print(table := markdown(rows, runs, rate))
    if options.json:
        write_figures(options.json, rows, rate)
    if options.update_readme:
        put_between(BEGIN, END, table, options.update_readme)
    lora = next(row for row in rows if row["method"] == "lora")
    return 0 if lora["gain_low"] >= SURE_GAIN else 1


def measure(store: RunStore, methods: Sequence[str], options: argparse.Namespace) -> list[Run]:
    """Runs the sweep."""
    request = SweepRequest(
        model=resolve_model(options.model, print).reference.name,
        task=parse_task("sql"),
        variants=tuple(Variant(method) for method in methods),
        settings=TrainingSettings(steps=options.steps, eval_examples=options.eval_examples),
        seeds=tuple(map(int, options.seeds.split(","))),
    )
    specs = enqueue_sweep(request, store.folder)
    start_dispatcher(store.folder)
    watch(store, specs[0].sweep_id, Console(stderr=True))
    return store.sweep(specs[0].sweep_id)


def summary(method: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Means over the seeds, and the interval of the gain paired by example."""
    own = [run for run in runs if run.spec.method == method and run.status == "done"]
    measures = [run.result.measures for run in own if run.result]
    samples = [run.directory.samples() for run in own]
    before = [row["score_before"] for row in samples[0]]
    after = [statistics.mean(scores) for scores in zip(*map(_scores, samples), strict=True)]
    gain, low, high = paired_interval(before, after)

    def mean(name: str) -> float:
        return statistics.mean(getattr(m, name) for m in measures)

    return {
        "method": method,
        "seeds": len(own),
        "trainable_params": measures[0].trainable_params,
        "trainable_share": own[0].row()["trainable_share"],
        "peak_memory_bytes": mean("peak_memory_bytes"),
        "net_peak_memory_bytes": mean("net_peak_memory_bytes"),
        "train_seconds": mean("train_seconds"),
        "adapter_bytes": measures[0].adapter_bytes,
        "eval_loss_before": mean("eval_loss_before"),
        "eval_loss_after": mean("eval_loss_after"),
        "score_before": mean("score_before"),
        "score_after": mean("score_after"),
        "gain": gain,
        "gain_low": low,
        "gain_high": high,
        "disturbed": sum(bool(m.disturbed) for m in measures),
    }


def markdown(rows: Sequence[dict[str, Any]], runs: Sequence[Run], rate: ProductRate | None) -> str:
    """The table with what it was measured on below it; `rate` is left out where it is not known."""
    lines = [
        "| method | trainable | memory while training | whole process | training time | file | "
        "test loss | SQL score | gain (95 % interval) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {get_method(row['method']).label} "
            f"| {units.format_count(row['trainable_params'])} "
            f"({units.format_share(row['trainable_share'])}) "
            f"| {units.format_bytes(row['net_peak_memory_bytes'])} "
            f"| {units.format_bytes(row['peak_memory_bytes'])} "
            f"| {units.format_seconds(row['train_seconds'])} "
            f"| {units.format_bytes(row['adapter_bytes'])} "
            f"| {row['eval_loss_before']:.2f} → {row['eval_loss_after']:.2f} "
            f"| {row['score_before']:.2f} → {row['score_after']:.2f} "
            f"| {row['gain']:+.2f} ({row['gain_low']:+.2f} to {row['gain_high']:+.2f}) |"
        )
    first = next(run for run in runs if run.result and not run.spec.is_base)
    assert first.result is not None
    settings, environment = first.spec.settings, first.result.environment
    disturbed = sum(row["disturbed"] for row in rows)
    seeds = rows[0]["seeds"]
    at_rate = f", bf16 products at {rate.gflops:.0f} GFLOP/s" if rate else ""
    lines += [
        "",
        f"Means over {seeds} seed{'s' if seeds != 1 else ''}; {settings.steps} steps of batch "
        f"{settings.batch_size}, {settings.eval_examples} test examples on tables that "
        f"training never saw, dtype policy {first.spec.dtype_policy}; {environment['device']}, "
        f"{environment['cores']} cores{at_rate}, "
        f"{time.strftime('%d %B %Y', time.localtime(first.spec.created_at))}. "
        "Memory is the resident size of the training phase; net is above the process with no "
        f"model loaded. Runs during which the computer was busy: {disturbed} of "
        f"{sum(row['seeds'] for row in rows)}.",
    ]
    return "\n".join(lines)


def _scores(rows: Sequence[dict[str, Any]]) -> list[float]:
    return [row["score_after"] for row in rows]


if __name__ == "__main__":
    sys.exit(main())
