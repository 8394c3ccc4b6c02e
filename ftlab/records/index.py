"""The index of a runs folder: the records of its ended runs in one file, so that many open fast.

.ftlab/index.sqlite    copies of spec.json, result.json and annotations.json of each ended run

It is never the truth. A row counts only while the run's folder has not changed since it was written
(its time of change is in the row), and without the file, or with a damaged one, everything is read
from the runs, and the file is written anew. Small folders have none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple, dataclass
from pathlib import Path

FEWEST_RUNS = 500
"""Fewer are read from their own files in a tenth of a second."""

_SECONDS_TO_WAIT = 1.0  # for another process that writes
_TABLE = (
    "CREATE TABLE IF NOT EXISTS runs (run_id TEXT PRIMARY KEY, folder_at INTEGER, "
    "annotated_at INTEGER, ended_at INTEGER, spec BLOB, result BLOB, annotations BLOB)"
)


@dataclass(frozen=True)
class IndexedRun:
    """A run's files as they were when its folder was last changed; times are in nanoseconds.

    `annotations` is empty if there are none.
    """

    run_id: str
    folder_at: int
    annotated_at: int
    ended_at: int
    spec: bytes
    result: bytes
    annotations: bytes = b""


def index_file(runs_folder: Path) -> Path:
    return runs_folder / ".ftlab" / "index.sqlite"


def read_index(runs_folder: Path) -> dict[str, IndexedRun]:
    """The rows by run id; none if there is no sound index."""
    file = index_file(runs_folder)
    if not file.is_file():
        return {}
    try:
        with _opened(file) as database:
            rows = database.execute("SELECT * FROM runs")
            return {row[0]: IndexedRun(*row) for row in rows}
    except (sqlite3.Error, TypeError):  # damaged, or of another version
        with suppress(OSError):
            file.unlink()
        return {}


def write_index(runs_folder: Path, runs: Iterable[IndexedRun], gone: Iterable[str] = ()) -> None:
    """Adds or replaces rows, and deletes those of the runs that are `gone`.

    Does nothing where the folder cannot be written, or another process writes.
    """
    file = index_file(runs_folder)
    with suppress(OSError, sqlite3.Error):
        file.parent.mkdir(parents=True, exist_ok=True)
        with _opened(file) as database, database:
            database.execute(_TABLE)
            places = ",".join("?" * 7)
            database.executemany(
                f"INSERT OR REPLACE INTO runs VALUES ({places})", map(astuple, runs)
            )
            database.executemany("DELETE FROM runs WHERE run_id = ?", ((one,) for one in gone))


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(file, timeout=_SECONDS_TO_WAIT)) as database:
        database.execute("PRAGMA trusted_schema = OFF")
        database.execute("PRAGMA synchronous = OFF")  # what a power failure damages is made anew
        yield database
