"""How long the scoring of a run takes against another checkout, and whether it finds the same.

Run as: python -m tests.benchmarks.scoring --against FOLDER [--tasks sql] [--models base adapter]
        [--policies bf16] [--packed] [--examples 64] [--repeats 3] [--threads 2] [--model FOLDER]
        [--json FILE]

FOLDER is a checkout of another commit, as `git worktree add FOLDER 5a5ce30` makes one. Both sides
score the base model or the adapter that ships for the task, in fresh processes that alternate;
medians. With `--packed` the base is held in 4 bits. "answers" is what answers take beyond losses.
`processor` seconds are those of all threads: on a busy machine they say more than `wall` seconds,
with one thread most of all. Ends with status 1 if a loss or, in fp32, a text differs, or the net
peak of scoring is higher by more than the keys and values of the answers and unpacked weights may
take.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftlab.basics.files import assets_folder
from ftlab.basics.processes import worker_environment
from ftlab.models.libraries import CPU_SETTINGS
from ftlab.models.loading import load_tokenizer
from ftlab.models.resolve import resolve_model
from ftlab.settings.training import CACHE_BYTES
from ftlab.tasks.formatting import PromptFormatter, TransformersTokenizer, encode
from ftlab.tasks.registry import TASKS, bundled_data, general_passages
from ftlab.training.evaluate import as_passages
from tests.benchmarks.product_rate import product_rate, write_figures

OURS = Path(__file__).parents[2]
PARTS = ("loss", "passages", "answers", "all")
SAME_LOSS = {"fp32": 1e-6, "bf16": 0.05, "mixed": 0.05}
"""Most that the loss of one example may differ, in nats."""
MORE_MEMORY = 1.02
"""Beside the keys and values that may wait for each other, and weights that stay unpacked."""


def side(checkout: Path, job: dict[str, Any]) -> dict[str, Any]:
    """What `scoring_side` prints with the ftlab of the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(OURS / "tests/benchmarks/scoring_side.py"), str(file)],
            env=worker_environment(needs_hub=False)
            | {name: CPU_SETTINGS[name] for name in ("LRU_CACHE_CAPACITY",)}
            | {"PYTHONPATH": str(checkout)},
            cwd=checkout,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def job_of(task: str, model: str, policy: str, options: argparse.Namespace) -> dict[str, Any]:
    """One task, as token ids."""
    tokenizer = load_tokenizer(resolve_model(options.model))
    formatter = PromptFormatter(TransformersTokenizer(tokenizer))
    examples = bundled_data(TASKS[task]).held_out[: options.examples]
    held_out = encode(formatter, examples, 10_000, "test").formatted
    passages = as_passages(formatter, general_passages())
    return {
        "task": task,
        "policy": policy,
        "precision": "nf4" if options.packed else None,
        "model": options.model,
        "adapter": str(assets_folder() / "adapters" / task) if model == "adapter" else "",
        "examples": [(one.prompt_ids, one.completion_ids) for one in held_out],
        "passages": [(one.prompt_ids, one.completion_ids) for one in passages],
        "max_new_tokens": TASKS[task].max_new_tokens,
        "stop_ids": list(formatter.stop_ids()),
        "threads": options.threads,
    }


def compare(job: dict[str, Any], against: Path, repeats: int) -> tuple[dict[str, Any], bool]:
    """Measures both sides and prints the figures; returns them, and whether all are as they may."""
    sides: dict[str, list[dict[str, Any]]] = {"ours": [], "other": []}
    checkouts = {"ours": OURS, "other": against.resolve()}
    for number in range(repeats):
        for name in list(checkouts)[:: -1 if number % 2 else 1]:
            sides[name].append(side(checkouts[name], job))
    what = f"{job['task']} {'adapter' if job['adapter'] else 'base'} {job['policy']}"
    what += f" {job['precision']}" if job["precision"] else ""
    row: dict[str, Any] = {"what": what}
    for clock in ("wall", "processor"):
        took = {
            name: {
                part: statistics.median(one["seconds"][clock][part] for one in runs)
                for part in PARTS
            }
            for name, runs in sides.items()
        }
        row[clock] = took
        ratios = {part: took["ours"][part] / took["other"][part] for part in PARTS}
        words = (
            f"{part} {took['ours'][part]:.2f} of {took['other'][part]:.2f} s ({ratios[part]:.2f}x)"
            for part in PARTS
        )
        print(f"{what}  {clock}: {', '.join(words)}", flush=True)
    ours, other = sides["ours"][0], sides["other"][0]
    peaks = {
        name: statistics.median(one["net_peak_bytes"] or 0 for one in runs)
        for name, runs in sides.items()
    }
    apart = max(abs(a - b) for a, b in zip(ours["losses"], other["losses"], strict=True))
    same = sum(a == b for a, b in zip(ours["answers"], other["answers"], strict=True))
    task = TASKS[job["task"]]
    scored = bundled_data(task).held_out[: len(ours["answers"])]
    means = {
        name: statistics.fmean(task.metric.score_each(scored, runs[0]["answers"]))
        for name, runs in sides.items()
    }
    print(
        f"{what}  net peak {peaks['ours'] / 1e6:.0f} of {peaks['other'] / 1e6:.0f} MB; losses off "
        f"by {apart:.1e} at most; {same} of {len(ours['answers'])} texts equal; "
        f"mean score {means['ours']:.4f} and {means['other']:.4f}",
        flush=True,
    )
    row |= {"peaks": peaks, "apart": apart, "same": same, "scores": means}
    most = MORE_MEMORY * peaks["other"] + CACHE_BYTES * (1.5 if job["precision"] else 1)
    good = apart <= SAME_LOSS[job["policy"]] and peaks["ours"] <= most
    return row, good and (job["policy"] != "fp32" or same == len(ours["answers"]))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--against", type=Path, metavar="FOLDER", required=True)
    parser.add_argument("--tasks", nargs="*", default=["sql"])
    parser.add_argument("--models", nargs="*", choices=("base", "adapter"), default=["base"])
    parser.add_argument("--policies", nargs="*", choices=sorted(SAME_LOSS), default=["bf16"])
    parser.add_argument("--packed", action="store_true", help="hold the base in 4 bits")
    parser.add_argument("--examples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", default="bundled", help="a folder instead of the bundled model")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    print(rate := product_rate(), flush=True)
    rows, all_good = [], True
    for task in options.tasks:
        for model in options.models:
            for policy in options.policies:
                job = job_of(task, model, policy, options)
                row, good = compare(job, options.against, options.repeats)
                rows.append(row)
                all_good = all_good and good
    if options.json:
        write_figures(options.json, rows, rate)
    return 0 if all_good else 1


if __name__ == "__main__":
    sys.exit(main())
