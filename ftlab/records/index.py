"""The index of a runs folder: the records of its ended runs in one file, so that many open fast.

.ftlab/index.tsv    a line for each: id, times of change, spec, annotations and result as JSON

It is never the truth. A line counts only while the run's own files have the times of change that
are in it; without the file, or with a damaged one, the runs are read from their own files. Later
lines of a run replace earlier ones. Small folders have no index.

It is a plain file that is only appended to or replaced whole, not a database: a database's journal
and links would be followed out of the folder, and locks fail on many shared disks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ftlab.basics.files import UnsuitableFile, open_plain, read_plain, write_atomically
from ftlab.records.result import LineWriter
from ftlab.records.run import run_names

FEWEST_RUNS = 500
"""Fewer are read from their own files in a tenth of a second."""

FEWEST_NEW = 50
"""So many are added at once: each app and command that finds them missing would else add them."""

MOST_BYTES = 256 * 2**20
"""Enough for 60,000 runs; a larger file is neither read nor extended."""


@dataclass(frozen=True)
class IndexedRun:
    """A run's spec, annotations and result, and when these files were `changed` (`Changes`).

    They are JSON without line breaks; `annotations` is empty if there are none.
    """

    run_id: str
    changed: tuple[int, ...]
    spec: bytes
    annotations: bytes
    result: bytes


def index_file(runs_folder: Path) -> Path:
    return runs_folder / ".ftlab" / "index.tsv"


def read_index(runs_folder: Path) -> dict[str, IndexedRun]:
    """The lines that can be read, by run id; none without a file."""
    found = {}
    for line in _lines(runs_folder):
        with suppress(ValueError):  # torn, or of another version
            run_id, spec_at, annotated_at, ended_at, spec, annotations, result = line.split(b"\t")
            changed = int(spec_at), int(annotated_at), int(ended_at)
            name = run_id.decode("ascii")
            found[name] = IndexedRun(name, changed, spec, annotations, result)
    return found


def add_to_index(runs_folder: Path, runs: Iterable[IndexedRun]) -> None:
    """Appends lines; does nothing where that is not possible."""
    file, lines = index_file(runs_folder), b"".join(map(_line, runs))
    if file.parent.is_symlink():
        return
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        before = 0
        with suppress(FileNotFoundError), open_plain(file) as there:
            before = os.fstat(there.fileno()).st_size
        if before + len(lines) <= MOST_BYTES:
            with LineWriter(file) as writer:
                writer.write(lines)


def clear_index(runs_folder: Path) -> None:
    """Deletes the lines of runs that are gone; does nothing without an index.

    What another process adds at the same moment may be lost: those runs are then read from their
    own files, and added again.
    """
    lines, there = _lines(runs_folder), {name.encode() for name in run_names(runs_folder)}
    kept = [line for line in lines if line.partition(b"\t")[0] in there]
    if len(kept) < len(lines):
        with suppress(OSError):
            write_atomically(index_file(runs_folder), b"".join(line + b"\n" for line in kept))


def _lines(runs_folder: Path) -> list[bytes]:
    """None of a file that is not the index's (a link, a pipe) or too large: it is taken away."""
    file = index_file(runs_folder)
    try:
        return [line for line in read_plain(file, MOST_BYTES).split(b"\n") if line]
    except UnsuitableFile:
        with suppress(OSError):
            file.unlink()
    except OSError:
        pass
    return []


def _line(run: IndexedRun) -> bytes:
    times = "\t".join(map(str, (run.run_id, *run.changed))).encode()
    return b"\t".join([times, run.spec, run.annotations, run.result]) + b"\n"
