"""Exports a finished sweep as a recording that ships with ftlab: its records and provenance.

<folder>/<sweep id>/provenance.json   the command, versions, machine, and a SHA-256 of each file
<folder>/<sweep id>/<run id>/         spec.json, result.json, metrics.jsonl, samples.jsonl

Numbers, losses and answers are unchanged. Weights, logs and machine-internal details are left out.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from ftlab import __version__
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import parse_json, read_plain
from ftlab.records.result import STATUS_LABELS, dump_result
from ftlab.records.run import MAX_RECORD_BYTES, RunDirectory, run_directories
from ftlab.records.spec import RunSpec, dump_spec
from ftlab.records.store import Run, RunStore
from ftlab.tasks.reference import TaskReference

PROVENANCE_FILE = "provenance.json"
MAX_BYTES = 3_000_000
"""Maximum size of one recording, because everyone who clones ftlab gets it. Twelve methods with
three seeds each and 64 answers per run are 2 MB; git stores them in a fraction of that."""

LEFT_OUT = (
    "The trained weights and the logs.",
    "Process ids, and the name of the machine's kernel.",
)

_Subject = tuple[frozenset[str], frozenset[TaskReference], frozenset[str]]

_LOCAL_FACTS = ("platform",)
_LOCAL_KEYS = ("pid", "process_started", "boot", "node")
# `/a/b` and `C:\a`, but not the middle of a URL or of a fraction.
_MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/[\w.+~-]+/[\w.+~/-]+|\b[A-Za-z]:\\\\?[\w.+-]+")


@dataclass(frozen=True)
class Provenance:
    """Where a recording comes from.

    `command` reproduces the measurement. `commit` is the code's commit, if known. Times are UTC,
    ISO 8601. `disturbed` lists the runs during which other processes used part of the cores.
    `left_out` lists in sentences what was not kept; `files` maps each path below the recording's
    folder to its SHA-256.
    """

    __pydantic_config__ = ConfigDict(extra="ignore")

    sweep_id: str
    command: str
    ftlab_version: str
    measured_at: str
    recorded_at: str
    machine: str
    commit: str | None = None
    cores: int | None = None
    memory_bytes: int | None = None
    python: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    disturbed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)


_PROVENANCE = TypeAdapter(Provenance)


def read_provenance(folder: Path) -> Provenance:
    """The provenance of the recording in that folder, which is named after its sweep.

    Raises `FtlabError` if it is missing or cannot be read.
    """
    path = folder / PROVENANCE_FILE
    try:
        return parse_json(_PROVENANCE, read_plain(path, MAX_RECORD_BYTES), PROVENANCE_FILE)
    except OSError as error:
        raise FtlabError(
            f"'{folder}' is no recording: its {PROVENANCE_FILE} cannot be read ({error.strerror})."
        ) from None


def newest_sweep(runs_folder: Path) -> str:
    """The id of the most recently queued sweep; raises `FtlabError` if there is none."""
    runs = RunStore(runs_folder).runs()
    if not runs:
        raise FtlabError(f"There is no sweep in {runs_folder}; name its folder with --runs-dir.")
    return max(runs, key=lambda run: run.spec.created_at).spec.sweep_id


def record_sweep(
    runs_folder: Path,
    sweep_id: str,
    target: Path,
    command: str,
    commit: str | None = None,
    replace: bool = False,
) -> Path:
    """Copies the records of a finished sweep to `target`/<sweep id>, and returns that folder.

    `replace` deletes recordings in `target` of the same model, task and methods. Raises
    `FtlabError` for a sweep that is unknown, already recorded or not completely done, for records
    that contain local paths, and for more than `MAX_BYTES`; nothing is changed then.
    """
    runs = _finished(RunStore(runs_folder), sweep_id)
    folder = target / sweep_id
    if folder.exists() and not replace:
        raise FtlabError(f"'{folder}' is there already; take it away, or record with --replace.")
    old = _recordings_of(target, _subject([run.spec for run in runs])) if replace else []
    files = {
        f"{run.run_id}/{name}": data for run in runs for name, data in _shipped_files(run).items()
    }
    _check(files)
    provenance = _provenance(runs, command, commit, files)
    files[PROVENANCE_FILE] = _PROVENANCE.dump_json(provenance, indent=2) + b"\n"
    try:
        _write(files, folder, old)
    except OSError as error:
        raise FtlabError(
            f"The folder '{target}' cannot be written ({error.strerror}); "
            "make it writable or name another with -o."
        ) from None
    return folder


def _finished(store: RunStore, sweep_id: str) -> list[Run]:
    runs = store.sweep(sweep_id)
    if not runs:
        raise FtlabError(
            f"There is no sweep '{sweep_id}' in {store.folder}; "
            "`python -m ftlab runs` lists the runs there are."
        )
    for run in runs:
        if run.status != "done":
            raise FtlabError(
                f"{run.run_id} is {STATUS_LABELS[run.status]}; "
                "only a sweep of which every run is done can be recorded."
            )
    return runs


def _shipped_files(run: Run) -> dict[str, bytes]:
    """The exported files of a run: file name -> content."""
    assert run.result is not None
    environment = {
        name: value for name, value in run.result.environment.items() if name not in _LOCAL_FACTS
    }
    result = dataclasses.replace(run.result, environment=environment)
    return {
        run.directory.spec_file.name: dump_spec(dataclasses.replace(run.spec, owner="")) + b"\n",
        run.directory.result_file.name: dump_result(result) + b"\n",
        run.directory.metrics_file.name: _metrics(run.directory),
        run.directory.samples_file.name: run.directory.samples_file.read_bytes(),
    }


def public_events(directory: RunDirectory) -> Iterator[dict[str, Any]]:
    """The events of a run without the process that wrote them."""
    for event in directory.metrics():
        yield {name: value for name, value in event.items() if name not in _LOCAL_KEYS}


def _metrics(directory: RunDirectory) -> bytes:
    return "".join(json.dumps(event) + "\n" for event in public_events(directory)).encode()


def machine_path(text: str) -> str | None:
    """The first local absolute path in the text, or `None`."""
    found = _MACHINE_PATH.search(text)
    return found.group() if found else None


def _check(files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = machine_path(data.decode("utf-8", errors="replace"))
        if path is not None:
            raise FtlabError(
                f"{name} names '{path[:80]}', which only this machine has; "
                "record a sweep with a bundled or Hub model and task."
            )
    size = sum(map(len, files.values()))
    if size > MAX_BYTES:
        raise FtlabError(
            f"The recording has {size:,} bytes; at most {MAX_BYTES:,} may ship, so measure with "
            "fewer test examples, seeds or steps."
        )


def _provenance(
    runs: Sequence[Run], command: str, commit: str | None, files: dict[str, bytes]
) -> Provenance:
    results = [run.result for run in runs if run.result is not None]
    environment = results[0].environment
    return Provenance(
        sweep_id=runs[0].spec.sweep_id,
        command=command,
        ftlab_version=__version__,
        commit=commit,
        measured_at=_date(min(run.spec.created_at for run in runs)),
        recorded_at=_date(time.time()),
        machine=str(environment.get("device") or ""),
        cores=environment.get("cores"),
        memory_bytes=environment.get("memory_bytes"),
        python=str(environment.get("python") or ""),
        packages=dict(environment.get("packages") or {}),
        disturbed=tuple(
            run.run_id for run in runs if run.result is not None and run.result.measures.disturbed
        ),
        left_out=LEFT_OUT,
        files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    )


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _recordings_of(target: Path, subject: _Subject) -> list[Path]:
    """The recordings in `target` with that subject."""
    folders = [path.parent for path in target.glob(f"*/{PROVENANCE_FILE}")]
    return [
        folder
        for folder in folders
        if _subject([directory.spec() for directory in run_directories(folder)]) == subject
    ]


def _subject(specs: Sequence[RunSpec]) -> _Subject:
    """What a sweep measures, regardless of settings: models, tasks and methods."""
    return (
        frozenset(spec.model for spec in specs),
        frozenset(spec.task for spec in specs),
        frozenset(spec.method for spec in specs),
    )


def _write(files: dict[str, bytes], folder: Path, old: Sequence[Path]) -> None:
    """Creates the folder atomically, after deleting the `old` ones."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent.parent, prefix=".recording-") as work:
        made = Path(work) / folder.name
        for name, data in files.items():
            path = made / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for earlier in old:
            shutil.rmtree(earlier)
        made.rename(folder)
