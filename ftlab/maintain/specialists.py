"""`specialists`: train the adapters that ship with ftlab again."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import need_checkout
from ftlab.basics.locks import holding
from ftlab.commands.watch import watch_or_cancel
from ftlab.jobs.control import dispatcher_lock, start_dispatcher
from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.methods.variant import parse_variant
from ftlab.models.bundled import ensure_bundled
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.panes import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterRecord,
    shipped_folder,
    write_record,
)
from ftlab.records.result import STATUS_LABELS
from ftlab.records.run import write_atomically
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task
from ftlab.tasks.registry import TASKS

NAME = "specialists"
SUMMARY = "train anew the adapters that ship with ftlab"
DESCRIPTION = """Trains one small LoRA adapter a bundled task on the bundled model, as a sweep does,
and puts it with the record of its run where the playground finds it (about 3 minutes a task on two
cores).

  python -m ftlab.maintain specialists --only sql"""

VARIANT = "lora:r=1,alpha=2"
"""Rank 1 on every linear layer. After 120 steps it had a better score and loss on SQL and
Shakespeare than rank 8 on query and value, and its file is a third smaller."""

STEPS = 300
"""With batches of 8, this is one epoch of a task's 2,400 training examples."""

MAX_WEIGHTS_BYTES = 2_000_000
RUN_RECORD_FILE = "record.json"

# Leaves out keys that identify a run within its folder, or describe the machine, not the result.
_SPEC_KEYS = (
    "model", "task", "variant", "settings", "dtype_policy", "device", "seed", "base_precision",
)  # fmt: skip
_ENVIRONMENT_KEYS = (
    "device", "python", "packages", "cuda", "threads", "cores", "model_hash", "data_hash", "metric",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", action="append", choices=tuple(TASKS), metavar="TASK",
        help=f"only this task ({', '.join(TASKS)}); repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--steps", type=int, default=STEPS, metavar="N", help="optimizer steps (%(default)s)"
    )
    parser.add_argument(
        "--target", type=Path, metavar="FOLDER",
        help="where the adapters go (default: where ftlab ships them)",
    )  # fmt: skip
    parser.add_argument(
        "--runs-dir", type=Path, metavar="DIR",
        help="keep the runs in this folder (default: a temporary one)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> int:
    if options.target is None:
        need_checkout()
    target = (options.target or shipped_folder()).resolve()
    ensure_bundled(lambda line: print(line, file=sys.stderr))
    with _runs_folder(options.runs_dir) as folder:
        for task_id in dict.fromkeys(options.only or TASKS):
            trained = train(task_id, options.steps, folder, Console(stderr=True))
            print(_line(trained, publish(trained, target)))
    return 0


def train(task_id: str, steps: int, runs_folder: Path, console: Console) -> Run:
    """Trains one task's adapter; returns the run, or raises `FtlabError` if a run failed."""
    request = SweepRequest(
        model=BUNDLED_ID,
        task=parse_task(task_id),
        variants=(parse_variant(VARIANT),),
        settings=TrainingSettings(steps=steps, batch_size=8, eval_examples=200),
    )
    sweep_id = enqueue_sweep(checked(request), runs_folder)[0].sweep_id
    store = RunStore(runs_folder)
    start_dispatcher(runs_folder)
    console.print(f"{TASKS[task_id].label}, {steps} steps …", highlight=False)
    if not watch_or_cancel(store, sweep_id, console):
        raise KeyboardInterrupt
    runs = store.sweep(sweep_id)
    for run in runs:
        if run.status != "done":
            raise FtlabError(
                f"{TASKS[task_id].label}: {run.spec.label} is {STATUS_LABELS[run.status]}: "
                f"{run.reason}"
            )
    return runs[-1]


def publish(run: Run, target: Path) -> Path:
    """Writes a run's adapter and its two records to the folder `target`/<task>; returns the folder.

    Raises `FtlabError` for an adapter that must not ship: too large, no better than the base, or
    with a path as its base's name. The old adapter is then kept.
    """
    _check(run)
    task = run.spec.task
    folder, work = target / task.id, target / f".{task.id}.new"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copyfile(run.directory.adapter / name, work / name)
        values = run.spec.variant.values() if run.spec.variant else {}
        record = AdapterRecord(
            label=f"{task.label} specialist",
            method=run.spec.method,
            model=run.spec.model,
            sha256=hashlib.sha256((work / WEIGHTS_FILE).read_bytes()).hexdigest(),
            detail=f"LoRA r={values.get('r')}, {run.spec.settings.steps} steps, ships with ftlab",
            task=task,
        )
        write_record(work, record)
        text = json.dumps(run_record(run), indent=2, ensure_ascii=False)
        write_atomically(work / RUN_RECORD_FILE, text.encode() + b"\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(work, folder)
    except OSError as error:
        raise FtlabError(
            f"The folder '{target}' cannot be written ({error.strerror}); "
            "make it writable or name another with --target."
        ) from None
    return folder


def run_record(run: Run) -> dict[str, Any]:
    """Returns the data needed to judge and repeat the run, without local paths."""
    assert run.result is not None
    spec, environment = asdict(run.spec), run.result.environment
    return {
        "spec": {key: spec[key] for key in _SPEC_KEYS} | {"learning_rate": run.spec.learning_rate},
        "measures": asdict(run.result.measures),
        "memory_kind": run.result.memory_kind,
        "environment": {key: environment[key] for key in _ENVIRONMENT_KEYS if key in environment},
        "notes": list(run.result.notes),
    }


def _check(run: Run) -> None:
    assert run.result is not None
    label, measures = run.spec.task.label, run.result.measures
    size = (run.directory.adapter / WEIGHTS_FILE).stat().st_size
    if size >= MAX_WEIGHTS_BYTES:
        raise FtlabError(
            f"{label}: the adapter has {size:,} bytes; below {MAX_WEIGHTS_BYTES:,} it may ship, "
            "so lower its rank."
        )
    before, after = measures.score_before, measures.score_after
    if before is None or after is None or after <= before:
        raise FtlabError(
            f"{label}: the score went from {units.format_number(before)} to "
            f"{units.format_number(after)}; only a better adapter ships, so train more steps."
        )
    config = json.loads((run.directory.adapter / CONFIG_FILE).read_bytes())
    named = config.get("base_model_name_or_path")
    if named != BUNDLED_ID:
        raise FtlabError(f"{label}: the adapter names its base '{named}', not {BUNDLED_ID}.")


@contextmanager
def _runs_folder(named: Path | None) -> Iterator[Path]:
    if named is not None:
        yield named.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="ftlab-specialists-") as temporary:
        folder = Path(temporary)
        try:
            yield folder
        finally:
            with holding(dispatcher_lock(folder)):
                pass  # wait until the dispatcher, which writes here, has exited


def _line(run: Run, folder: Path) -> str:
    row = run.row()
    change = ", ".join(
        f"{name} {units.format_number(row[f'{key}_before'])} → "
        f"{units.format_number(row[f'{key}_after'])}"
        for name, key in (("loss", "eval_loss"), ("score", "score"))
    )
    return (
        f"{run.spec.task.label}: {change}, {units.format_bytes(row['adapter_bytes'])}, "
        f"{units.format_seconds(row['train_seconds'])}, in {folder}"
    )
