"""The run store: reads a folder of run directories as objects, sweeps and a pandas table."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.files import OF_A_NEWER_VERSION
from ftlab.basics.people import asking
from ftlab.basics.recent import Recent
from ftlab.basics.words import shorten, some_names
from ftlab.methods.registry import get_method
from ftlab.records.comparability import Conditions, conditions_of
from ftlab.records.index import FEWEST_NEW, FEWEST_RUNS, IndexedRun, add_to_index, read_index
from ftlab.records.metrics import METRICS
from ftlab.records.opened import opened_directories
from ftlab.records.published import PublishedRun, read_published
from ftlab.records.result import MEMORY_PARTS, OF_SHARDS, OPEN, dump_result, load_result
from ftlab.records.resume import newest_checkpoint
from ftlab.records.run import (
    NO_FILE,
    Annotations,
    Changes,
    RunDirectory,
    StoredRun,
    check_writable,
    dump_annotations,
    find_run,
    load_annotations,
    read_annotations,
    run_directories,
    run_names,
)
from ftlab.records.spec import RunSpec, dump_spec, load_spec
from ftlab.records.table import ROW_KEYS, Origin, to_table

if TYPE_CHECKING:
    import pandas as pd


_TABLES = 8
"""So many people's tables are kept, where each has another."""

RECENT_SECONDS = 1.0
"""Maximum age of cached runs for pages that poll every few seconds."""


@dataclass(frozen=True)
class Run(StoredRun):
    """The current state of one run, with its origin and what users noted on it.

    `changes` is when its files were changed, as they were read.
    """

    origin: Origin = "measured"
    annotations: Annotations = field(default_factory=Annotations)
    changes: Changes = field(default=Changes(), compare=False)

    @cached_property
    def run_id(self) -> str:
        return self.spec.run_id

    @cached_property
    def queued_for(self) -> str:
        """As `RunDirectory.queued_for`, which does not change."""
        return self.directory.queued_for

    @property
    def is_open(self) -> bool:
        return self.status in OPEN

    @property
    def has_weights(self) -> bool:
        """Whether trained weights can exist: the run is done, or it ended during evaluation."""
        return self.status == "done" or (
            self.result is not None and self.directory.adapter.is_dir()
        )

    @property
    def reason(self) -> str:
        """Why the run is not done, and the step from which it can be resumed."""
        if self.result is not None:
            why = self.result.reason
        elif self.status == "interrupted":
            why = "The worker ended without a result; its log has the last lines."
        else:
            return ""
        step = self.resumes_from
        return why if step is None else f"{why} Resume goes on from step {step:,}."

    @cached_property
    def resumes_from(self) -> int | None:
        """The step from which the run can be resumed; `None` if it cannot or need not be."""
        if self.is_open or self.status == "done":
            return None
        checkpoint = newest_checkpoint(self.directory)
        return None if checkpoint is None else checkpoint.step

    @cached_property
    def conditions(self) -> Conditions:
        """What must be equal for the run to be compared; cached, because tables are built often."""
        return conditions_of(self)

    def row(self) -> dict[str, Any]:
        """The run as one flat row with the keys of `ROW_KEYS`."""
        result, spec = self.result, self.spec
        measures = vars(result.measures) if result else {}  # flat, so no deep copy is needed
        environment = result.environment if result else {}
        phases = result.phases if result else {}
        values = measures | {
            "run_id": spec.run_id,
            "sweep_id": spec.sweep_id,
            "origin": self.origin,
            "model": spec.model,
            "task": spec.task.label,
            "method": spec.method,
            "variant": spec.label,
            "hyperparameters": _named_values(spec),
            "seed": spec.seed,
            "status": self.status,
            "peak_memory_kind": result.memory_kind if result else "",
            "learning_rate": spec.learning_rate,
            "metric": environment.get("metric") or "",
            "dtype_policy": spec.dtype_policy,
            "base_precision": spec.base_precision or "",
            "device": spec.device,
            "machine": environment.get("device") or "",
            "steps": spec.settings.steps,
            "batch_size": spec.settings.batch_size,
            "archived": self.annotations.archived,
            "tags": ", ".join(self.annotations.tags),
            "note": self.annotations.note,
            "created_at": spec.created_at,
            "owner": spec.owner,
            "run_dir": str(self.directory.path),
            "reason": self.reason,
            "conditions": self.conditions,
        }
        for phase in ("load", "evaluate", "save"):
            values[f"{phase}_peak_bytes"] = phases[phase].peak_bytes if phase in phases else None
        if result is not None:
            values |= {key: metric.value(result) for key, metric in METRICS.items()}
            values |= _parts("anatomy", result.anatomy)
            values |= _parts("predicted", result.predicted_anatomy)
        return {key: values.get(key) for key in ROW_KEYS}


_MANY_OBJECTS = 100_000


@contextmanager
def _uncollected() -> Iterator[None]:
    """Has Python's garbage collector rest: it would look through all objects of the process for
    each few thousand that are made: a quarter of the time in which 10,000 runs are read. Nor does
    it look through them afterwards, which takes 0.3 s in the middle of an answer: they stay."""
    was_on = gc.isenabled()
    gc.disable()
    before = gc.get_count()[0]
    try:
        yield
    finally:
        if gc.get_count()[0] - before > _MANY_OBJECTS:
            gc.freeze()
        if was_on:
            gc.enable()


@dataclass(frozen=True)
class UnreadableRun:
    """A folder that looks like a run but cannot be read, and why."""

    run_id: str
    reason: str


class RunStore:
    """All runs of a folder, and the read-only ones: opened, recorded and imported.

    Runs that have ended or wait are cached until a file of theirs changes; the others are read
    again on each call. `recorded` is a folder of run directories that ship with ftlab, with one
    folder per sweep. Whatever is asked for has only the runs that the person who asks sees
    (`ftlab.basics.people`), but for `runs_of_all`.
    """

    def __init__(self, folder: Path, recorded: Path | None = None) -> None:
        self.folder = folder
        self.recorded = recorded
        self._unreadable: tuple[UnreadableRun, ...] = ()
        self._known: dict[str, Run] = {}
        self._indexed: set[str] | None = None  # what the index has; it is read once
        self._shipped: list[Run] | None = None
        self._opened: list[Run] = []
        self._published: list[PublishedRun] = []
        self._turn = threading.Lock()
        self._looked: tuple[float, list[Run]] | None = None
        self._tables: Recent[str, tuple[list[Run | PublishedRun], pd.DataFrame]] = Recent(_TABLES)
        self.changes = 0
        """How many reads found a state different from the previous one."""

    def runs(self) -> list[Run]:
        """Every readable run of the folder, oldest first; the others are then `unreadable`."""
        return seen_runs(self.runs_of_all())

    def recent_runs(self) -> list[Run]:
        """As `runs`, cached for `RECENT_SECONDS`, so many polling pages cause only one read."""
        return seen_runs(self.runs_of_all(recent=True))

    def runs_of_all(self, recent: bool = False) -> list[Run]:
        """As `runs` or `recent_runs`, with those of others that the person who asks does not see:
        for what concerns all, such as times and the queue."""
        with self._turn:  # all tabs of a loading page call this at once; read the files once
            last = self._looked
            if recent and last is not None and time.monotonic() - last[0] <= RECENT_SECONDS:
                return list(last[1])
            return self._runs()

    @property
    def unreadable(self) -> tuple[UnreadableRun, ...]:
        """What looked like runs at the last read and cannot be read; whose they are is unknown."""
        return self._unreadable if asking().sees_all else ()

    def _runs(self) -> list[Run]:
        unreadable: list[UnreadableRun] = []
        names = run_names(self.folder)
        with _uncollected():
            now = dict[str, Run]()
            if self._indexed is None and len(names) >= FEWEST_RUNS:
                now = self._read_index(set(names))
            found = [(self.folder, name) for name in names]
            runs = self._read_all(found, "measured", self._known, unreadable, now)
        self._known = {run.run_id: run for run in runs}
        if self._indexed is not None:
            self._add_to_index(runs, self._indexed)
        before = (
            self._looked[1] if self._looked else None, self._opened, self._published,
            self._unreadable,
        )  # fmt: skip
        earlier = {run.run_id: run for run in self._opened}
        opened = [(one.path.parent, one.run_id) for one in opened_directories(self.folder)]
        self._opened = self._read_all(opened, "opened", earlier, unreadable)
        self._published, broken = read_published(self.folder)
        unreadable += [UnreadableRun(name, why) for name, why in broken]
        state = (runs, self._opened, self._published, tuple(unreadable))
        self.changes += state != before
        self._looked = time.monotonic(), runs
        self._unreadable = tuple(unreadable)
        return list(runs)

    def _read_index(self, names: set[str]) -> dict[str, Run]:
        """The runs of these names in the index whose files are as they were."""
        found = dict[str, Run]()
        for row in read_index(self.folder).values():
            directory = RunDirectory(self.folder / row.run_id) if row.run_id in names else None
            if directory is not None:
                changes = Changes.of(directory, has_ended=True)
                if changes.records == row.changed and changes.ended != NO_FILE:
                    with suppress(FtlabError):  # read from its own files, and said if it is damaged
                        found[row.run_id] = _run_of(row, directory, changes)
        self._indexed = set(found)
        return found

    def _add_to_index(self, runs: Sequence[Run], indexed: set[str]) -> None:
        """Adds what has ended since, once it is much."""
        new = [
            run
            for run in runs
            if run.run_id not in indexed and run.result is not None
            if run.changes.ended != NO_FILE  # else it ended while it was read
        ]
        if len(new) >= FEWEST_NEW:
            indexed.update(run.run_id for run in new)
            with suppress(FtlabError):  # a demo's folder stays as it is
                check_writable(self.folder)
                add_to_index(self.folder, map(_row_of, new))

    def opened(self) -> list[Run]:
        """The runs from other machines that were opened from packed sweeps."""
        self.runs()
        return seen_runs(self._opened)

    def shipped(self) -> list[Run]:
        """The recorded runs that ship with ftlab; they never change, so they are cached."""
        if self._shipped is None:
            folders = self.recorded.glob("*/") if self.recorded else ()
            self._shipped = [
                read_run(directory, "recorded")
                for folder in sorted(folders)
                for directory in run_directories(folder)
            ]
        return self._shipped

    def published(self) -> list[PublishedRun]:
        """Third-party results that were imported into the folder."""
        self.runs()
        return self._published

    def sweep(self, sweep_id: str, recent: bool = False) -> list[Run]:
        """The runs of a sweep, own, opened or recorded; an empty list for an imported sweep.

        With `recent`, the runs are those of `recent_runs`.
        """
        return [run for run in self._all(recent) if run.spec.sweep_id == sweep_id]

    def find(self, run_id: str) -> Run:
        """The run with that id, own, opened or recorded; raises `FtlabError` if there is none."""
        try:
            return read_run(find_run(self.folder, run_id))
        except FtlabError:
            for run in (*self.opened(), *self.shipped()):
                if run.run_id == run_id:
                    return run
            raise

    def table(self, with_base: bool = False, recent: bool = False) -> pd.DataFrame:
        """One row per run, with the columns of `ROW_KEYS`: own runs first, newest sweep first.

        With `recent`, the runs are those of `recent_runs`.
        """
        runs = self._all(recent)
        rows: list[Run | PublishedRun] = [run for run in runs if with_base or not run.spec.is_base]
        rows += self._published
        last = self._tables.get(asking().view)
        if last is None or last[0] != rows:  # unchanged runs are the same objects: fast to compare
            with _uncollected():
                last = self._tables[asking().view] = (rows, to_table(rows))
        return last[1].copy(deep=False)

    def _all(self, recent: bool = False) -> list[Run]:
        """Own runs, then opened and recorded ones; own runs win if a sweep exists as both."""
        own = self.recent_runs() if recent else self.runs()
        sweeps = {run.spec.sweep_id for run in own}
        others = (*seen_runs(self._opened), *self.shipped())
        return own + [run for run in others if run.spec.sweep_id not in sweeps]

    @staticmethod
    def _read_all(
        found: Iterable[tuple[Path, str]],
        origin: Origin,
        earlier: Mapping[str, Run],
        unreadable: list[UnreadableRun],
        now: Mapping[str, Run] | None = None,
    ) -> list[Run]:
        """Reads the runs that changed since `earlier`; appends to `unreadable` what it cannot.

        `found` are folders, each with the name of a run in it; `now` are runs that are known to be
        as their files are.
        """
        runs = []
        for folder, name in found:
            if now and name in now:
                runs.append(now[name])
                continue
            run = earlier.get(name)
            if run is not None and _is_unchanged(run):
                runs.append(run)
                continue
            directory = RunDirectory(folder / name)
            if not directory.spec_file.exists():
                continue
            try:
                run = read_run(directory, origin)
                if run.result is None and origin == "opened":
                    raise FtlabError("It has no result; remove its sweep and open the file again.")
            except (FtlabError, OSError) as error:
                unreadable.append(UnreadableRun(directory.run_id, one_line(error)))
                continue
            runs.append(run)
        return runs


def seen_runs(runs: list[Run]) -> list[Run]:
    """Those that the person who asks sees."""
    person = asking()
    return runs if person.sees_all else [run for run in runs if person.sees(run.spec.owner)]


def read_run(directory: RunDirectory, origin: Origin = "measured") -> Run:
    """One run from its folder; raises `FtlabError` if a file of it cannot be read."""
    changes = Changes.of(directory)
    spec = directory.spec()
    if spec.variant is not None:
        try:
            get_method(spec.variant.method)
        except FtlabError:
            words = f"spec.json has the method '{spec.method[:80]}', {OF_A_NEWER_VERSION}"
            raise FtlabError(words) from None
    result = directory.result()
    status = result.status if result is not None else directory.status()
    if result is None and status not in OPEN:
        result = directory.result()  # it ended between the two reads
    if status != "queued":
        changes = replace(changes, waiting=())  # it no longer waits
    annotations = Annotations() if changes.annotated == NO_FILE else read_annotations(directory)
    return Run(directory, spec, status, result, origin, annotations, changes)


def _is_unchanged(run: Run) -> bool:
    """Whether the run is still as it was read."""
    is_running = run.status == "running"
    is_known = run.result is not None or is_running or run.status == "queued"
    if not (is_known and run.changes.still_hold(run.directory)):
        return False
    return run.directory.is_at_work if is_running else True


def _run_of(row: IndexedRun, directory: RunDirectory, changes: Changes) -> Run:
    """Raises `FtlabError` if the row is damaged."""
    spec, result = load_spec(row.spec), load_result(row.result)
    if spec.run_id != directory.run_id:
        raise FtlabError(f"The row of {directory.run_id} is that of another run.")
    if spec.variant is not None:
        get_method(spec.variant.method)
    annotations = load_annotations(row.annotations) if row.annotations else Annotations()
    return Run(directory, spec, result.status, result, "measured", annotations, changes)


def _row_of(run: Run) -> IndexedRun:
    assert run.result is not None
    has_annotations = run.changes.annotated != NO_FILE
    return IndexedRun(
        run.run_id,
        run.changes.records,
        dump_spec(run.spec, None),
        dump_annotations(run.annotations, None) if has_annotations else b"",
        dump_result(run.result, None),
    )


def _named_values(spec: RunSpec) -> str:
    """As in "r 16, alpha 32"; empty for a base run and a method without hyperparameters."""
    values = spec.variant.values() if spec.variant else {}
    return shorten(", ".join(f"{name} {value}" for name, value in values.items()), 200)


def _parts(name: str, parts: Mapping[str, int]) -> dict[str, int | None]:
    """Columns of a memory breakdown, None each if it has no bytes at all.

    A run on one GPU does not name the parts that only a divided run has: they are 0.
    """
    known = dict.fromkeys(OF_SHARDS, 0) | dict(parts)
    some = any(known.get(part) for part in MEMORY_PARTS)
    return {f"{name}_{part}_bytes": known.get(part) if some else None for part in MEMORY_PARTS}


@dataclass(frozen=True)
class SweepData:
    """One sweep; `table` has one row per run with the columns of `ROW_KEYS`, without base runs.

    `runs` includes the base runs; an imported sweep has `published` instead.
    """

    sweep_id: str
    origin: Origin
    table: pd.DataFrame
    runs: tuple[Run, ...] = ()
    published: tuple[PublishedRun, ...] = ()

    @property
    def own_runs(self) -> list[Run]:
        """The runs without the base runs."""
        return [run for run in self.runs if not run.spec.is_base]

    @property
    def base_runs(self) -> list[Run]:
        return [run for run in self.runs if run.spec.is_base]


def sweep_data(store: RunStore, sweep_id: str, recent: bool = False) -> SweepData:
    """The sweep with that id, as `RunStore.sweep`; raises `FtlabError` if there is none."""
    runs = store.sweep(sweep_id, recent)
    if runs:
        trained = to_table(run for run in runs if not run.spec.is_base)
        return SweepData(sweep_id, runs[0].origin, trained, runs=tuple(runs))
    published = [run for run in store.published() if run.sweep_id == sweep_id]
    if not published:
        raise FtlabError(
            f"There is no sweep '{sweep_id}' in this runs folder; Results and "
            "`python -m ftlab runs` list the runs there are."
        )
    return SweepData(sweep_id, "imported", to_table(published), published=tuple(published))


def notes_of_runs(runs: Sequence[Run]) -> list[str]:
    """The distinct notes in order, prefixed with their variants if not all trained runs share them.

    As in "QLoRA: Only the linear layers ..."; with the seed if only some seeds have the note.
    """
    said: dict[str, list[Run]] = {}
    for run in runs:
        for note in dict.fromkeys(run.result.notes if run.result else ()):
            said.setdefault(note, []).append(run)
    trained = [run for run in runs if run.result is not None and not run.spec.is_base]
    sentences = []
    for note, by in said.items():
        own = [run for run in by if not run.spec.is_base]
        common = not own or len(own) == len(trained)
        sentences.append(note if common else f"{_names(own, trained)}: {note}")
    return sentences


def _names(runs: Sequence[Run], all_runs: Sequence[Run]) -> str:
    """The variants of the runs, with the seed if only some seeds of a variant are included."""
    there = Counter(run.spec.label for run in all_runs)
    here = Counter(run.spec.label for run in runs)
    names = [
        label if here[label] == there[label] else f"{label} seed {run.spec.seed}"
        for run in runs
        for label in (run.spec.label,)
    ]
    return some_names(list(dict.fromkeys(names)))
