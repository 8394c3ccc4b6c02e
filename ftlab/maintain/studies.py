"""What the studies share: their options, and how what is missing is trained."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from ftlab.commands.options import add_runs_folder
from ftlab.commands.sweep_time import predicted_meanwhile
from ftlab.commands.watch import watch_or_cancel
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.inputs import check_inputs
from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.methods.variant import Variant
from ftlab.models.resolve import ModelReach
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, RunStore


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every study."""
    parser.add_argument(
        "--protocol", type=Path, metavar="FILE", help="another protocol (default: the shipped one)"
    )
    parser.add_argument("--show", action="store_true", help="run nothing: judge what is there")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the result as JSON")
    parser.add_argument(
        "--document", type=Path, metavar="FILE", help="write its tables into this Markdown file"
    )
    parser.add_argument(
        "--commit", metavar="HASH", help="commit of the code that measured (default: this one's)"
    )
    add_runs_folder(parser)


def study_runs(store: RunStore) -> list[Run]:
    """The runs of the folder, and those opened from packed sweeps: what another machine has done
    of a study is not done again."""
    return [*store.runs(), *store.opened()]


def train_missing(
    request: SweepRequest,
    missing: Mapping[tuple[int, ...], Sequence[Variant]],
    store: RunStore,
    console: Console,
) -> None:
    """Trains variants of the request, by the seeds that each of them lacks.

    Raises as `checked` and `enqueue_sweep` do, and `KeyboardInterrupt` after Ctrl-C.
    """
    for seeds, variants in missing.items():
        valid = checked(replace(request, seeds=seeds, variants=tuple(variants)))
        check_inputs(valid, ModelReach())
        specs = enqueue_sweep(valid, store.folder)
        with predicted_meanwhile(valid, specs, store, console):
            start_dispatcher(store.folder)
            if not watch_or_cancel(store, specs[0].sweep_id, console):
                raise KeyboardInterrupt
