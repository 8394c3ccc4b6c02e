"""`transfer`: whether a short run of a small model orders the methods as long runs of a large one.

What is compared is fixed in `assets/studies/transfer.json`, which was committed before the runs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, TypeAdapter
from rich.console import Console

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder, read_record
from ftlab.commands.options import add_runs_folder
from ftlab.commands.sweep_time import predicted_meanwhile
from ftlab.commands.waiting import say
from ftlab.commands.watch import watch_or_cancel
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.inputs import check_inputs
from ftlab.jobs.launch import checked, enqueue_sweep
from ftlab.maintain.record import code_commit
from ftlab.methods.variant import Variant
from ftlab.models.bundled import ensure_bundled
from ftlab.models.reference import is_bundled, parse_model
from ftlab.models.resolve import ModelReach
from ftlab.records.rank_agreement import RankAgreement, rank_agreement
from ftlab.records.result import RunResult
from ftlab.records.run import write_atomically
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, RunStore
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task

NAME = "transfer"
SUMMARY = "compare the order of the methods here with that of PEFT's published runs"
DESCRIPTION = """Trains every method that PEFT's table of Llama-3.2-3B and ftlab share, over several
seeds, and says how far both order the methods alike: Spearman's correlation with its bootstrap
interval, for score, loss and forgetting. Methods and columns are fixed in
assets/studies/transfer.json. What is done in the runs folder is not done again.

  python -m ftlab.maintain transfer --runs-dir build/transfer
  python -m ftlab.maintain transfer --runs-dir build/transfer --show"""


@dataclass(frozen=True)
class PublishedRow:
    """One row of PEFT's table."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str
    test_accuracy: float
    forgetting: float


@dataclass(frozen=True)
class StudiedMethod:
    """A method of the registry, and PEFT's default and best rows of it."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    id: str
    default: PublishedRow
    best: PublishedRow


@dataclass(frozen=True)
class StudiedColumn:
    """A measure of ours and a published one; with `sign` -1, less of ours is as more of theirs."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    id: str
    ours: str
    published: Literal["test_accuracy", "forgetting"]
    sign: Literal[1, -1]


@dataclass(frozen=True)
class Protocol:
    """What is run and compared, as it was fixed before the runs."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    question: str
    published: str
    notes: tuple[str, ...]
    task: str
    steps: int
    eval_examples: int
    seeds: tuple[int, ...]
    columns: tuple[StudiedColumn, ...]
    draws: int
    methods: Annotated[tuple[StudiedMethod, ...], Field(min_length=1)]
    model: str = "bundled"

    @property
    def request(self) -> SweepRequest:
        """The sweep, without variants."""
        return SweepRequest(
            model=parse_model(self.model).name,
            task=parse_task(self.task),
            settings=TrainingSettings(steps=self.steps, eval_examples=self.eval_examples),
            seeds=self.seeds,
        )


_PROTOCOL: TypeAdapter[Protocol] = TypeAdapter(Protocol)


def protocol_file() -> Path:
    return assets_folder() / "studies" / "transfer.json"


def read_protocol(file: Path | None = None) -> Protocol:
    """Raises `FtlabError` if it is not there or cannot be read."""
    path = file or protocol_file()
    found = read_record(_PROTOCOL, path)
    if found is None:
        raise FtlabError(f"There is no protocol '{path}'.")
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--protocol", type=Path, metavar="FILE", help="another protocol (default: the shipped one)"
    )
    parser.add_argument("--show", action="store_true", help="run nothing: compare what is there")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the result as JSON")
    add_runs_folder(parser)


def run(options: argparse.Namespace) -> int:
    protocol, store = read_protocol(options.protocol), RunStore(options.runs_dir.resolve())
    if not options.show:
        if is_bundled(protocol.request.model):
            ensure_bundled(say)
        console = Console(stderr=True)
        _train(protocol, store, console)
    rows = measured_rows(protocol, store.runs())
    found = agreements(protocol, rows)
    for line in lines(protocol, rows, found):
        print(line)
    if options.write is not None:
        result = as_record(protocol, rows, found, store.runs())
        write_atomically(options.write, (json.dumps(result, indent=2) + "\n").encode())
    return 0 if len(rows) == len(protocol.methods) else 1


def _train(protocol: Protocol, store: RunStore, console: Console) -> None:
    """Runs the variants of which a seed is missing."""
    done = measured_rows(protocol, store.runs())
    missing = [Variant(method.id) for method in protocol.methods if method.id not in done]
    if missing:
        valid = checked(replace(protocol.request, variants=tuple(missing)))
        check_inputs(valid, ModelReach())
        specs = enqueue_sweep(valid, store.folder)
        with predicted_meanwhile(valid, specs, store, console):
            start_dispatcher(store.folder)
            if not watch_or_cancel(store, specs[0].sweep_id, console):
                raise KeyboardInterrupt


def measured_rows(
    protocol: Protocol, runs: Sequence[Run]
) -> dict[str, dict[str, tuple[float, ...]]]:
    """Each column's values by seed, by method, for methods of which every seed is done."""
    request, keys = protocol.request, [column.ours for column in protocol.columns]
    by_method: dict[str, dict[int, RunResult]] = {}
    for run in runs:
        spec = run.spec
        if run.status != "done" or run.result is None or spec.variant is None:
            continue
        same = (spec.model, spec.task, spec.settings) == (
            request.model, request.task, request.settings,
        )  # fmt: skip
        if same and spec.variant == Variant(spec.method):
            by_method.setdefault(spec.method, {})[spec.seed] = run.result
    rows = {}
    for method in protocol.methods:
        found = by_method.get(method.id, {})
        if all(seed in found for seed in protocol.seeds):
            measures = [vars(found[seed].measures) for seed in protocol.seeds]
            rows[method.id] = {key: tuple(one[key] for one in measures) for key in keys}
    return rows


Agreements = Mapping[str, Mapping[str, RankAgreement]]
"""By the column's id, and by "default" or "best", the published rows."""


def agreements(
    protocol: Protocol, rows: Mapping[str, Mapping[str, Sequence[float]]]
) -> dict[str, dict[str, RankAgreement]]:
    """How far both tables order the methods alike, in each column; nothing with too few methods."""
    methods = [method for method in protocol.methods if method.id in rows]
    found: dict[str, dict[str, RankAgreement]] = {}
    for column in protocol.columns:
        ours = [column.sign * fmean(rows[method.id][column.ours]) for method in methods]
        for which in ("default", "best"):
            theirs = [getattr(getattr(method, which), column.published) for method in methods]
            try:
                agreed = rank_agreement(ours, theirs, protocol.draws)
            except ValueError:
                continue
            found.setdefault(column.id, {})[which] = agreed
    return found


def lines(
    protocol: Protocol, rows: Mapping[str, Mapping[str, Sequence[float]]], found: Agreements
) -> list[str]:
    """The answer in sentences, and what is missing for it."""
    said = [f"{len(rows)} of {len(protocol.methods)} methods are measured."]
    missing = [method.id for method in protocol.methods if method.id not in rows]
    if missing:
        said.append(f"Missing: {', '.join(missing)}.")
    for column in protocol.columns:
        for which, agreed in found.get(column.id, {}).items():
            said.append(
                f"{column.id} against the published {which} rows' {column.published}: "
                f"Spearman {agreed.sentence}"
            )
    return said


def as_record(
    protocol: Protocol,
    rows: Mapping[str, Mapping[str, Sequence[float]]],
    found: Agreements,
    runs: Sequence[Run],
) -> dict[str, Any]:
    """The result as JSON: the protocol, the values by seed, the correlations, and the machine."""
    machines = {str(run.result.environment.get("device")) for run in runs if run.result}
    return {
        "protocol": asdict(protocol),
        "rows": rows,
        "agreements": {
            column: {which: asdict(agreed) for which, agreed in by.items()}
            for column, by in found.items()
        },
        "machines": sorted(machines),
        "commit": code_commit(),
    }
