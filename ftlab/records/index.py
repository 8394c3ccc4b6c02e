"""The index of a runs folder: the records of its ended runs in one file, so that many open fast.

.ftlab/index.tsv    a line for each: id, times of change, annotations, spec and result as JSON

It is never the truth. A line counts only while the run's own files have the times of change that
are in it; without the file, or with a damaged one, the runs are read from their own files. Later
lines of a run replace earlier ones. Small folders have no index.

It is a plain file that is only appended to or replaced whole, not a database: a database's journal
and links would be followed out of the folder, and locks fail on many shared disks.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftlab.basics.files import open_plain, read_plain, write_atomically
from ftlab.records.result import LineWriter

FEWEST_RUNS = 500
"""Fewer are read from their own files in a tenth of a second."""

FEWEST_NEW = 50
"""So many are added at once: each app and command that finds them missing would else add them."""

MOST_BYTES = 256 * 2**20
"""Enough for 60,000 runs; a larger file is neither read nor extended."""


@dataclass(frozen=True)
class IndexedRun:
    """A run's records, and when its annotations and its result were changed, in nanoseconds.

    The records are JSON without line breaks; `annotations` is empty if there are none.
    """

    run_id: str
    annotated_at: int
    ended_at: int
    annotations: bytes
    spec: bytes
    result: bytes


def index_file(runs_folder: Path) -> Path:
    return runs_folder / ".ftlab" / "index.tsv"


def read_index(runs_folder: Path) -> dict[str, IndexedRun]:
    """The lines that can be read, by run id; none without a file."""
    found = {}
    for line in _lines(runs_folder):
        with suppress(ValueError, TypeError):  # torn, or of another version
            run_id, annotated_at, ended_at, *records = line.split(b"\t")
            name = run_id.decode("ascii")
            found[name] = IndexedRun(name, int(annotated_at), int(ended_at), *records)
    return found


def add_to_index(runs_folder: Path, runs: Iterable[IndexedRun]) -> None:
    """Appends lines; does nothing where that is not possible."""
    file, lines = index_file(runs_folder), b"".join(map(_line, runs))
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        before = 0
        with suppress(FileNotFoundError), open_plain(file) as there:  # no link, and no pipe
            before = os.fstat(there.fileno()).st_size
        if before + len(lines) <= MOST_BYTES:
            with LineWriter(file) as writer:
                writer.write(lines)


def take_from_index(runs_folder: Path, run_ids: Collection[str]) -> None:
    """Deletes the lines of these runs; does nothing without an index.

    What another process adds at the same moment may be lost: those runs are then read from their
    own files, and added again.
    """
    lines = _lines(runs_folder)
    names = {run_id.encode() for run_id in run_ids}
    kept = [line for line in lines if line.partition(b"\t")[0] not in names]
    if len(kept) < len(lines):
        with suppress(OSError):
            write_atomically(index_file(runs_folder), b"".join(line + b"\n" for line in kept))


def _lines(runs_folder: Path) -> list[bytes]:
    try:
        data = read_plain(index_file(runs_folder), MOST_BYTES)
    except OSError:
        return []
    return [line for line in data.split(b"\n") if line]


def _line(run: IndexedRun) -> bytes:
    times = f"{run.run_id}\t{run.annotated_at}\t{run.ended_at}".encode()
    return b"\t".join([times, run.annotations, run.spec, run.result]) + b"\n"
