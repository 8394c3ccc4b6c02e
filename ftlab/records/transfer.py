"""The study of what a small run predicts: does it order the methods as published long runs do?

What is compared is fixed in `assets/studies/transfer.json`, which was committed before the runs.
`python -m ftlab.maintain transfer` makes them; what it measured ships beside the protocol. Learn
and docs/evidence.md show it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, ClassVar, Literal

from pydantic import Field, TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder, read_record, write_atomically
from ftlab.basics.words import join_names
from ftlab.methods.registry import label_of
from ftlab.methods.variant import Variant
from ftlab.models.reference import parse_model
from ftlab.records.metrics import METRICS
from ftlab.records.rank_agreement import RankAgreement, mean_ranks, rank_agreement
from ftlab.records.recommendation import MEASURES, Measure
from ftlab.records.result import measured_with
from ftlab.records.seed_variance import SeedsSeen
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run
from ftlab.settings.training import TrainingSettings
from ftlab.tasks.reference import parse_task

Which = Literal["default", "best"]
"""Which of a method's published rows it is compared with."""

WHICH: Mapping[Which, str] = {"default": "its default row", "best": "its best row"}
FAR = 5
"""Ranks that a method must lie apart in the two tables to be named."""


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
    columns: Annotated[tuple[StudiedColumn, ...], Field(min_length=1)]
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


Rows = Mapping[str, Mapping[str, tuple[float, ...]]]
"""By method and by key of a measure of ours, its value with each seed."""

Agreements = Mapping[str, Mapping[Which, RankAgreement]]
"""By the column's id, and by the published rows."""


@dataclass(frozen=True)
class TransferRecord:
    """What the runs of a protocol measured, and how far both tables agree.

    `rows` has the methods of which every seed is done. `seeds_seen` is how far seeds differ, by the
    key of a measure.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    protocol: Protocol
    rows: Rows
    agreements: Agreements
    machines: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    seeds_seen: Mapping[str, tuple[SeedsSeen, ...]] = field(default_factory=dict)
    commit: str | None = None

    @property
    def missing(self) -> list[str]:
        """The methods of which a seed is missing."""
        return [method.id for method in self.protocol.methods if method.id not in self.rows]

    def column(self, id: str) -> StudiedColumn:
        return next(column for column in self.protocol.columns if column.id == id)

    def placed(self, column: StudiedColumn, which: Which) -> list[Placed]:
        """Each method in both tables, the best of ours first."""
        methods = [method for method in self.protocol.methods if method.id in self.rows]
        ours = [self.rows[method.id][column.ours] for method in methods]
        theirs = [published_value(method, column, which) for method in methods]
        our_sign = -1 if METRICS[column.ours].better == "more" else 1
        their_sign = our_sign * column.sign
        our_ranks = mean_ranks([our_sign * fmean(values) for values in ours])
        their_ranks = mean_ranks([their_sign * value for value in theirs])
        by_seed = [
            mean_ranks([our_sign * value for value in one]) for one in zip(*ours, strict=True)
        ]
        placed = []
        for at, method in enumerate(methods):
            alone = [float(ranks[at]) for ranks in by_seed]
            placed.append(
                Placed(
                    method.id, ours[at], theirs[at], float(our_ranks[at]), float(their_ranks[at]),
                    (min(alone), max(alone)),
                )
            )  # fmt: skip
        return sorted(placed, key=lambda one: one.our_rank)


@dataclass(frozen=True)
class Placed:
    """A method in both tables: our value with each seed, the published one, and both ranks.

    Rank 1 is the best; equal values share their mean rank. `seed_places` are the first and the
    last rank that the method has if the table is made of one seed alone.
    """

    method: str
    ours: tuple[float, ...]
    theirs: float
    our_rank: float
    their_rank: float
    seed_places: tuple[float, float]

    @property
    def mean(self) -> float:
        return fmean(self.ours)


_PROTOCOL: TypeAdapter[Protocol] = TypeAdapter(Protocol)
_RECORD: TypeAdapter[TransferRecord] = TypeAdapter(TransferRecord)


def protocol_file() -> Path:
    return assets_folder() / "studies" / "transfer.json"


def record_file() -> Path:
    """What was measured, as it ships."""
    return assets_folder() / "studies" / "transfer-recorded.json"


def read_protocol(file: Path | None = None) -> Protocol:
    """Raises `FtlabError` if it is not there or cannot be read."""
    path = file or protocol_file()
    found = read_record(_PROTOCOL, path)
    if found is None:
        raise FtlabError(f"There is no protocol '{path}'.")
    return found


def read_transfer(file: Path | None = None) -> TransferRecord | None:
    """What was measured; `None` if there is no such file. Raises `FtlabError` for a damaged one."""
    return read_record(_RECORD, file or record_file())


def write_transfer(record: TransferRecord, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(file, _RECORD.dump_json(record, indent=1) + b"\n")


def published_value(method: StudiedMethod, column: StudiedColumn, which: Which) -> float:
    row = method.default if which == "default" else method.best
    return row.test_accuracy if column.published == "test_accuracy" else row.forgetting


def done_runs(protocol: Protocol, runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    """By method and seed, the done ones of the protocol's runs among `runs`: the first of each."""
    request = protocol.request
    found: dict[str, dict[int, Run]] = {method.id: {} for method in protocol.methods}
    for run in runs:
        spec = run.spec
        if run.status != "done" or run.result is None or spec.variant != Variant(spec.method):
            continue
        same = (spec.model, spec.task, spec.settings) == (
            request.model, request.task, request.settings,
        )  # fmt: skip
        if same and spec.method in found and spec.seed in protocol.seeds:
            found[spec.method].setdefault(spec.seed, run)
    return found


def measured(protocol: Protocol, runs: Sequence[Run]) -> TransferRecord:
    """What the runs of that protocol among `runs` measured."""
    whole = {
        method: [found[seed] for seed in protocol.seeds]
        for method, found in done_runs(protocol, runs).items()
        if len(found) == len(protocol.seeds)
    }
    results = {
        method: [run.result for run in found if run.result] for method, found in whole.items()
    }
    rows = {
        method: {
            column.ours: tuple(vars(one.measures)[column.ours] for one in found)
            for column in protocol.columns
        }
        for method, found in results.items()
    }
    return TransferRecord(
        protocol,
        rows,
        agreements(protocol, rows),
        *measured_with([one for found in results.values() for one in found]),
        seeds_seen={measure.key: _seeds_seen(protocol, whole, measure) for measure in MEASURES},
    )


def _seeds_seen(
    protocol: Protocol, whole: Mapping[str, Sequence[Run]], measure: Measure
) -> tuple[SeedsSeen, ...]:
    folders = [[str(run.directory.path) for run in runs] for runs in whole.values()]
    read = [measure.of_runs(one) for one in folders]
    scores = [one for one in read if one is not None]
    seen = measure.seeds_seen(scores, [protocol.seeds] * len(scores))
    return () if seen is None else (seen,)


def agreements(protocol: Protocol, rows: Rows) -> dict[str, dict[Which, RankAgreement]]:
    """How far both tables order the methods alike, in each column; nothing with too few methods."""
    methods = [method for method in protocol.methods if method.id in rows]
    found: dict[str, dict[Which, RankAgreement]] = {}
    for column in protocol.columns:
        ours = [column.sign * fmean(rows[method.id][column.ours]) for method in methods]
        for which in WHICH:
            theirs = [published_value(method, column, which) for method in methods]
            try:
                agreed = rank_agreement(ours, theirs, protocol.draws)
            except ValueError:
                continue
            found.setdefault(column.id, {})[which] = agreed
    return found


def far_apart(placed: Sequence[Placed]) -> str:
    """One sentence for each direction, of methods that lie `FAR` ranks or more apart."""
    higher = [one for one in placed if one.their_rank - one.our_rank >= FAR]
    lower = [one for one in placed if one.our_rank - one.their_rank >= FAR]
    return " ".join(
        f"{join_names([label_of(one.method) for one in found])} {verb} {FAR} places or more "
        f"{where} here than in the published table."
        for found, where in ((higher, "higher"), (lower, "lower"))
        for verb in ("stands" if len(found) == 1 else "stand",)
        if found
    )
