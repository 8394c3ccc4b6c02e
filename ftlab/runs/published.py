"""Results that others published, imported to be looked at beside one's own; never compared with.

Read from the result files of huggingface/peft, `method_comparison` (`run_info`, `train_info`,
`meta_info`), or from a CSV of them. Each result lies as one file of that format in `published/` in
the runs folder. They are sweeps of their own, with ids that no sweep of ours can have.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ftlab.errors import FtlabError, one_line
from ftlab.reading import read_plain
from ftlab.runs.closed import check_open
from ftlab.runs.directory import write_atomically
from ftlab.runs.published_csv import documents_of
from ftlab.runs.published_format import PublishedRun, parse_result

__all__ = [
    "ImportReport", "PublishedRun", "import_files", "published_folder", "read_published",
    "remove_published",
]  # fmt: skip

MAX_BYTES = 5_000_000
"""The largest file that is read; a result file has about 15 kB."""

SUFFIXES = (".json", ".csv")


@dataclass(frozen=True)
class ImportReport:
    """What came of an import: run ids that are new, those that were there, and files refused.

    `refused` are pairs of file name and sentence.
    """

    imported: tuple[str, ...] = ()
    already: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def sentence(self) -> str:
        """As in "3 results imported, 1 was there already, 2 files refused." """
        parts = [f"{len(self.imported)} result{'' if len(self.imported) == 1 else 's'} imported"]
        if self.already:
            parts.append(f"{len(self.already)} there already")
        if self.refused:
            parts.append(f"{len(self.refused)} refused")
        return ", ".join(parts) + "."


def published_folder(runs_folder: Path) -> Path:
    """Where the imported results of a runs folder lie; it may not exist yet."""
    return runs_folder / "published"


def import_files(paths: Iterable[Path | str], runs_folder: Path) -> ImportReport:
    """Imports result files, CSV files of them, and folders of both.

    A file that is none, or has a wrong value, is refused in a sentence and nothing of it is kept.
    Raises `FtlabError` only where the runs folder cannot be written.
    """
    check_open(runs_folder)
    imported: list[str] = []
    already: list[str] = []
    refused: list[tuple[str, str]] = []
    target = published_folder(runs_folder)
    known = {run.run_id for _, run in _stored(target) if isinstance(run, PublishedRun)}
    for path in map(Path, paths):
        for name, data in _documents(path, refused):
            try:
                run = parse_result(data, name)
            except FtlabError as error:
                refused.append((name, str(error)))
                continue
            if run.run_id in known:
                already.append(run.run_id)
                continue
            _keep(target / f"{run.run_id}.json", data)
            known.add(run.run_id)
            imported.append(run.run_id)
    return ImportReport(tuple(imported), tuple(already), tuple(refused))


def remove_published(runs_folder: Path, run_ids: Iterable[str]) -> int:
    """Takes imported results away again and says how many there were.

    Raises `FtlabError` if one cannot be removed. Ids of anything else are passed over.
    """
    check_open(runs_folder)
    wanted, removed = set(run_ids), 0
    for path, run in _stored(published_folder(runs_folder)):
        if isinstance(run, PublishedRun) and run.run_id in wanted:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise FtlabError(f"'{path}' cannot be removed ({error.strerror}).") from None
            removed += 1
    return removed


def read_published(runs_folder: Path) -> tuple[list[PublishedRun], list[tuple[str, str]]]:
    """The imported results of a runs folder, and (name, reason) of each file that is not one.

    A file that has not changed costs a look at its date.
    """
    runs: dict[str, PublishedRun] = {}
    broken = []
    for path, run in _stored(published_folder(runs_folder)):
        if isinstance(run, PublishedRun):
            runs.setdefault(run.run_id, run)
        else:
            broken.append((path.name, run))
    return _told_apart(list(runs.values())), broken


def _stored(folder: Path) -> Iterator[tuple[Path, PublishedRun | str]]:
    """Each file of the folder with its result, or the sentence that says why it has none."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if not entry.name.endswith(".json") or entry.name.startswith("."):
            continue
        try:
            stat = entry.stat()
        except OSError:
            continue  # it has just gone
        yield Path(entry.path), _read(entry.path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _read(path: str, changed_at: int, size: int) -> PublishedRun | str:
    """`changed_at` and `size` tell one content of a path from the next."""
    name = Path(path).name
    try:
        return parse_result(_bytes_of(Path(path)), name)
    except FtlabError as error:
        return str(error)
    except OSError as error:
        return one_line(error)


def _documents(path: Path, refused: list[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each result in a file or folder."""
    for file in _files(path, refused):
        try:
            data = _bytes_of(file)
            found = documents_of(data, file.name) if is_csv(file) else [(file.name, data)]
        except FtlabError as error:
            refused.append((file.name, str(error)))
        except OSError as error:
            refused.append((file.name, f"{file.name} cannot be read ({error.strerror})."))
        else:
            yield from found


def is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _files(path: Path, refused: list[tuple[str, str]]) -> Sequence[Path]:
    """The file itself, or the result files in a folder: in it, else in its `results` folders."""
    if not path.is_dir():
        if path.suffix.lower() in SUFFIXES:
            return [path]
        refused.append((path.name, f"{path.name} is neither {' nor '.join(SUFFIXES)}."))
        return []
    for pattern in ("*", "results/*", "*/results/*"):
        found = sorted(p for p in path.glob(pattern) if p.suffix.lower() in SUFFIXES)
        if found:
            return found
    refused.append(
        (path.name, f"The folder {path.name} holds no {' and no '.join(SUFFIXES)} file.")
    )
    return []


def _bytes_of(path: Path) -> bytes:
    if not path.exists():
        raise FtlabError(f"There is no file '{path}'.")
    return read_plain(path, MAX_BYTES, follow_link=True)


def _keep(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise FtlabError(
            f"The folder '{path.parent}' cannot be written ({error.strerror}); "
            "free some space or make it writable."
        ) from None


def _told_apart(runs: list[PublishedRun]) -> list[PublishedRun]:
    """Results of one sweep that would be named alike get the end of their id behind the name."""
    named = Counter((run.sweep_id, run.values["variant"]) for run in runs)
    return [
        run
        if named[run.sweep_id, run.values["variant"]] == 1
        else dataclasses.replace(
            run, values=run.values | {"variant": f"{run.values['variant']} ({run.run_id[-8:]})"}
        )
        for run in runs
    ]
