"""Sweeps from another machine, opened from a packed file: read-only, apart from the own runs.

.ftlab/opened/<sweep id>/opened.json   where the sweep comes from
.ftlab/opened/<sweep id>/<run id>/     spec.json, result.json, metrics.jsonl, samples.jsonl

Their ids end with a part of the hash of what was packed, so none is the id of an own run.
`ftlab.share.unpack` checks a file and writes these folders; this module reads them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import read_record, write_atomically
from ftlab.records.run import RunDirectory, run_directories

_RECORD_FILE = "opened.json"


@dataclass(frozen=True)
class OpenedSweep:
    """Where an opened sweep comes from; `opened_at` is in seconds since the epoch.

    `sha256` is of all packed files, `packed_id` the sweep's id where it was measured. `adapters`
    has the name in the playground of each run's adapter, `brought` those that were new here.
    `owner` is the login of the person who opened it, "" for the operator.
    """

    __pydantic_config__ = ConfigDict(extra="ignore")

    sha256: str
    packed_id: str
    ftlab_version: str
    opened_at: float
    adapters: Mapping[str, str] = field(default_factory=dict)
    brought: tuple[str, ...] = ()
    owner: str = ""


_RECORD = TypeAdapter(OpenedSweep)


def opened_folder(runs_folder: Path) -> Path:
    return runs_folder / ".ftlab" / "opened"


def opened_sweeps(runs_folder: Path) -> list[Path]:
    """The folder of each opened sweep; links are left out."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(
            Path(entry.path)
            for entry in os.scandir(opened_folder(runs_folder))
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
        )
    return []


def opened_directories(runs_folder: Path) -> list[RunDirectory]:
    """Every run of the opened sweeps."""
    return [run for folder in opened_sweeps(runs_folder) for run in run_directories(folder)]


def read_opened(folder: Path) -> OpenedSweep:
    """The record of an opened sweep; raises `FtlabError` if it is missing or cannot be read."""
    try:
        record = read_record(_RECORD, folder / _RECORD_FILE)
    except OSError as error:
        raise FtlabError(f"{_RECORD_FILE} of '{folder.name}' cannot be read ({error}).") from None
    if record is None:
        raise FtlabError(f"'{folder.name}' has no {_RECORD_FILE}; open its file again.")
    return record


def write_opened(folder: Path, record: OpenedSweep) -> None:
    write_atomically(folder / _RECORD_FILE, _RECORD.dump_json(record, indent=2) + b"\n")
