"""Opens a packed sweep from another machine, and removes it again.

The file is untrusted. Names, sizes, links and compression are checked before anything is read,
hashes before anything is parsed, and every value before anything is written. What is written are
the parsed records, never the bytes of the file. Adapters pass the check of an uploaded adapter and
are stored as one. A file with a single fault is refused whole.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ftlab.basics.errors import FieldError, FtlabError
from ftlab.basics.files import inner_values, is_deeper, json_values, parse_json
from ftlab.basics.log import note
from ftlab.basics.people import asking
from ftlab.basics.words import plural, shown_name
from ftlab.charts.facts import day
from ftlab.jobs.inputs import EVERYTHING, Access
from ftlab.methods.variant import validate_variant
from ftlab.playground.adapter_files import (
    MAX_BYTES as ADAPTER_BYTES,
)
from ftlab.playground.adapter_files import (
    MOST_TIMES,
    SMALL_BYTES,
    check_entry,
    damaged,
    open_zip,
)
from ftlab.playground.panes import (
    UPLOADED,
    read_record,
    uploaded_folder,
    uploaded_sources,
    write_record,
)
from ftlab.playground.uploaded import forget_adapter, upload_adapter
from ftlab.records.opened import (
    OpenedSweep,
    opened_folder,
    opened_sweeps,
    read_opened,
    write_opened,
)
from ftlab.records.result import RunResult, load_result
from ftlab.records.run import RUN_ID, UNFIT, RunDirectory, check_writable
from ftlab.records.spec import RunSpec, load_spec
from ftlab.records.store import Run
from ftlab.settings.schema import errors_in
from ftlab.share.bundle import check_room
from ftlab.share.pack import (
    ADAPTER,
    FORMAT,
    MANIFEST,
    MAX_BYTES,
    MAX_LINES,
    MAX_LINES_A_FILE,
    MAX_RECORDS_BYTES,
    MAX_RUNS,
    MAX_TEXT,
    METRICS,
    RESULT,
    SAMPLE,
    SAMPLES,
    SPEC,
    VERSION,
    Manifest,
    Part,
    is_event,
    public_result,
    public_spec,
)
from ftlab.tasks.registry import TASKS

_LINES = (METRICS, SAMPLES)
_RECORDS = (SPEC, RESULT, *_LINES)
_ADAPTER_FILES = {ADAPTER + name: most for name, most in ADAPTER_BYTES.items()}
_MOST_BYTES = {MANIFEST: 2**21, **MAX_BYTES, **_ADAPTER_FILES}
_FILES_A_RUN = len(MAX_BYTES) + len(_ADAPTER_FILES)
_SWEEP_ID = re.compile(r"[a-z0-9][a-z0-9_-]{3,40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST_VALUES, _MOST_LEVELS = 50_000, 8
_LEAST, _LARGEST, _LONGEST_NAME = 1e-60, 1e18, 300
_LATEST = 4e9  # seconds since the epoch: the year 2096
_DIGEST = 6
_CHUNK = 2**20

_Record = TypeVar("_Record")


class _Head(Part):
    """What manifests of all versions have."""

    format: str
    version: int
    ftlab_version: str = ""


_HEAD, _MANIFEST = TypeAdapter(_Head), TypeAdapter(Manifest)


@dataclass(frozen=True)
class Opened:
    """The sweep's id here, its trained runs, and whether it had been opened before."""

    sweep_id: str
    runs: int = 0
    adapters: int = 0
    already: bool = False

    @property
    def sentence(self) -> str:
        if self.already:
            return f"This sweep is open already, as {self.sweep_id}."
        adapters = f" and {plural(self.adapters, 'adapter')}" if self.adapters else ""
        return (
            f"{plural(self.runs, 'run')}{adapters} from another machine opened as {self.sweep_id}."
        )


@dataclass(frozen=True)
class _RunRecords:
    """The checked records of one run, as they are written; `spec` has the ids of this machine."""

    spec: RunSpec
    result: RunResult
    metrics: bytes
    samples: bytes


def open_packed(source: Path, runs_folder: Path, access: Access = EVERYTHING) -> Opened:
    """Opens a packed sweep in the runs folder; a second time it changes nothing.

    Raises `FtlabError` with the first fault if the file cannot be opened; nothing is written then.
    """
    check_writable(runs_folder)
    access.check_upload()
    name = shown_name(source.name)
    _check_plain(source, name)
    with open_zip(source, name) as archive:
        try:
            return _open(archive, name, runs_folder, access)
        except (
            zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError,
        ) as error:  # fmt: skip
            raise damaged(name, error) from None
        except OSError as error:
            raise FtlabError(
                f"'{name}' cannot be opened ({error.strerror}); free some space in the runs "
                "folder, make it writable, or name another with --runs-dir."
            ) from None


def remove_opened(runs_folder: Path, sweep_id: str) -> None:
    """Removes an opened sweep and the adapters that came with it.

    Raises `FtlabError` if there is no such sweep, it is somebody else's or it cannot be removed.
    """
    check_writable(runs_folder)
    folder = next((one for one in opened_sweeps(runs_folder) if one.name == sweep_id), None)
    if folder is None:
        raise FtlabError(f"There is no opened sweep '{shown_name(sweep_id)}'; Results lists them.")
    brought: Collection[str] = ()
    others: set[str] = set()
    owner = ""
    with suppress(FtlabError):  # a damaged record does not keep the sweep from being removed
        record = read_opened(folder)
        brought, owner = record.brought, record.owner
    if not asking().sees(owner):
        raise FtlabError(f"There is no opened sweep '{shown_name(sweep_id)}'; Results lists them.")
    asking().check_change(owner, f"The opened sweep {sweep_id}")
    for other in opened_sweeps(runs_folder):
        with suppress(FtlabError):
            others |= set() if other == folder else {*read_opened(other).adapters.values()}
    gone = folder.parent / f".gone-{secrets.token_hex(8)}"
    try:
        os.rename(folder, gone)  # hidden first, so that nobody finds a half-removed sweep
        shutil.rmtree(gone)
    except OSError as error:
        raise FtlabError(
            f"'{sweep_id}' cannot be removed ({error.strerror}); make the runs folder writable."
        ) from None
    for adapter in brought:
        if adapter not in others:
            with suppress(FtlabError):  # it was removed in the playground
                forget_adapter(runs_folder, adapter)
    note("opened sweep removed", sweep=sweep_id)


def adapter_of(run: Run) -> str:
    """The name in the playground of an opened run's adapter; "" if it has none there."""
    if run.origin != "opened":
        return ""
    folder = run.directory.path.parent
    try:
        name = read_opened(folder).adapters.get(run.run_id, "")
    except FtlabError:
        return ""
    runs_folder = folder.parents[2]
    there = uploaded_folder(runs_folder) / name.removeprefix(UPLOADED)
    return name if name and there.is_dir() else ""


def where_from(run: Run) -> str:
    """The machine, device and date of a run, as in "AMD EPYC, cpu, 25 Nov 2026"."""
    machine = str(run.result.environment.get("device") or "") if run.result else ""
    return ", ".join(filter(None, [machine, run.spec.device, day(run.spec.created_at)]))


# ---------------------------------------------------------------- the archive


def _check_plain(source: Path, name: str) -> None:
    try:
        mode = source.stat().st_mode
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "invalid name"
        raise FtlabError(f"There is no file '{name}' ({why}); check the path.") from None
    if not stat.S_ISREG(mode):
        raise FtlabError(f"'{name}' is no file; name what `python -m ftlab pack` wrote.")


def _open(archive: zipfile.ZipFile, name: str, runs_folder: Path, access: Access) -> Opened:
    entries = _checked_entries(archive, name)
    manifest = _read_manifest(archive, entries, name)
    sweep_id = f"{manifest.sweep_id}x{_mark(manifest.sha256)}"
    files = _by_run(manifest, entries, name)
    adapters = [run_id for run_id, of_run in files.items() if len(of_run) == _FILES_A_RUN]
    target = opened_folder(runs_folder) / sweep_id
    if target.exists():
        if read_opened(target).sha256 != manifest.sha256:
            raise FtlabError(
                f"Another sweep is open as '{sweep_id}'; remove it in Results, then open '{name}'."
            )
        return Opened(sweep_id, already=True)
    runs = _read_runs(archive, manifest, files, sweep_id, name)
    check_room(sum(file.bytes for file in manifest.files.values()), _nearest(runs_folder))
    with _work_folder(target.parent) as work:
        for run in runs.values():
            _write_run(work / run.spec.run_id, run)
        given = {
            run_id: _unpack_adapter(archive, manifest, run_id, work / f".adapter-{place}", name)
            for place, run_id in enumerate(adapters)
        }
        uploads = _Uploads(runs_folder)
        try:
            names = {
                runs[run_id].spec.run_id: uploads.add(folder, runs[run_id], access)
                for run_id, folder in given.items()
            }
            for folder in given.values():
                shutil.rmtree(folder)
            record = OpenedSweep(
                sha256=manifest.sha256,
                packed_id=manifest.sweep_id,
                ftlab_version=manifest.ftlab_version,
                opened_at=time.time(),
                adapters=names,
                brought=uploads.brought,
                owner=asking().name,
            )
            write_opened(work, record)
            os.rename(work, target)
        except BaseException:
            uploads.undo()
            raise
    note("packed sweep opened", sweep=sweep_id, runs=len(runs), adapters=len(adapters))
    trained = sum(not run.spec.is_base for run in runs.values())
    return Opened(sweep_id, trained, len(adapters))


def _mark(sha256: str) -> str:
    """What tells this sweep from others of its id. Who sees only what is one's own opens a copy of
    one's own, so that nothing is said of what others opened."""
    view = asking().view
    return (hashlib.sha256(f"{sha256} {view}".encode()).hexdigest() if view else sha256)[:_DIGEST]


def _checked_entries(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """The entries by name, checked by the zip's central directory only."""
    entries: dict[str, zipfile.ZipInfo] = {}
    records = 0
    if len(archive.infolist()) > 1 + MAX_RUNS * _FILES_A_RUN:
        raise FtlabError(
            f"'{name}' has {len(archive.infolist()):,} entries; a packed sweep has at most "
            f"{MAX_RUNS} runs. {_AGAIN}"
        )
    for info in archive.infolist():
        inner = info.filename
        kind = inner if inner == MANIFEST else inner.partition("/")[2]
        is_run = RUN_ID.fullmatch(inner.partition("/")[0])
        if info.orig_filename != inner or kind not in _MOST_BYTES or (
            kind == MANIFEST
        ) != (inner == MANIFEST) or not (inner == MANIFEST or is_run):  # fmt: skip
            shown = shown_name(info.orig_filename)
            raise FtlabError(f"'{name}' holds '{shown}', which no packed sweep has. {_AGAIN}")
        if inner in entries:
            raise FtlabError(f"'{name}' holds {shown_name(inner)} twice. {_AGAIN}")
        check_entry(info, shown_name(inner), name)
        if info.file_size > _MOST_BYTES[kind]:
            raise FtlabError(
                f"{shown_name(inner)} in '{name}' has {info.file_size:,} bytes; at most "
                f"{_MOST_BYTES[kind]:,} are read."
            )
        if info.file_size > max(SMALL_BYTES, MOST_TIMES * info.compress_size):
            raise FtlabError(
                f"{shown_name(inner)} in '{name}' unpacks to {info.file_size:,} bytes out of "
                f"{info.compress_size:,}, as no packed sweep does. {_AGAIN}"
            )
        records += 0 if kind in _ADAPTER_FILES else info.file_size
        entries[inner] = info
    if records > MAX_RECORDS_BYTES + _MOST_BYTES[MANIFEST]:
        raise FtlabError(
            f"The records in '{name}' have {records:,} bytes; at most {MAX_RECORDS_BYTES:,} are "
            "read."
        )
    if MANIFEST not in entries:
        raise FtlabError(
            f"'{name}' has no {MANIFEST}, so it is no packed sweep; name what "
            "`python -m ftlab pack` wrote."
        )
    return entries


_AGAIN = "Pack the sweep again."


def _read_manifest(
    archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], name: str
) -> Manifest:
    data = _read(archive, entries[MANIFEST], name)
    _check_text(data, MANIFEST, 8 * MAX_RUNS * _FILES_A_RUN)
    head = parse_json(_HEAD, data, MANIFEST)
    if head.format != FORMAT:
        raise FtlabError(f"'{name}' is no packed sweep: its {MANIFEST} is of another format.")
    if head.version > VERSION:
        by = shown_name(head.ftlab_version) or "a later ftlab"
        raise FtlabError(
            f"'{name}' has the format {head.version} of ftlab {by}, and this ftlab reads formats "
            f"up to {VERSION}; update ftlab and open it then."
        )
    manifest = parse_json(_MANIFEST, data, MANIFEST)
    if manifest.version < 1 or not _SWEEP_ID.fullmatch(manifest.sweep_id):
        raise FtlabError(f"The {MANIFEST} of '{name}' names no sweep. {_AGAIN}")
    if not manifest.ftlab_version.isprintable() or len(manifest.ftlab_version) > 40:
        raise FtlabError(f"The {MANIFEST} of '{name}' names no version of ftlab. {_AGAIN}")
    if manifest.files.keys() != entries.keys() - {MANIFEST}:
        odd = sorted(manifest.files.keys() ^ (entries.keys() - {MANIFEST}))[0]
        raise FtlabError(
            f"'{name}' is incomplete: {shown_name(odd)} is not both in it and in its {MANIFEST}. "
            f"{_AGAIN}"
        )
    for inner, file in manifest.files.items():
        if file.bytes != entries[inner].file_size or not _SHA256.fullmatch(file.sha256):
            raise FtlabError(
                f"{inner} in '{name}' has not the size or hash of its {MANIFEST}. {_AGAIN}"
            )
    return manifest


def _by_run(
    manifest: Manifest, entries: Mapping[str, zipfile.ZipInfo], name: str
) -> dict[str, dict[str, zipfile.ZipInfo]]:
    """The entries of each run by kind: its records, and both files of its adapter or none."""
    files: dict[str, dict[str, zipfile.ZipInfo]] = {}
    for inner in manifest.files:
        run_id, _, kind = inner.partition("/")
        files.setdefault(run_id, {})[kind] = entries[inner]
    for run_id, of_run in files.items():
        missing = [kind for kind in _RECORDS if kind not in of_run]
        if len(of_run) not in (len(_RECORDS), _FILES_A_RUN):
            missing += [kind for kind in _ADAPTER_FILES if kind not in of_run]
        if missing:
            raise FtlabError(f"'{name}' has no {missing[0]} of the run {run_id}. {_AGAIN}")
        if not run_id.startswith(f"{manifest.sweep_id}-"):
            raise FtlabError(
                f"The run {run_id} in '{name}' is not one of the sweep {manifest.sweep_id}. "
                f"{_AGAIN}"
            )
    if not files:
        raise FtlabError(f"'{name}' holds no run. {_AGAIN}")
    if len(files) > MAX_RUNS:
        raise FtlabError(f"'{name}' holds {len(files):,} runs; at most {MAX_RUNS} are opened.")
    return files


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> bytes:
    with archive.open(info) as stream:
        data = stream.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise FtlabError(f"{info.filename} in '{name}' is cut short; copy or download it again.")
    return data


def _read_hashed(
    archive: zipfile.ZipFile, manifest: Manifest, info: zipfile.ZipInfo, name: str
) -> bytes:
    data = _read(archive, info, name)
    if hashlib.sha256(data).hexdigest() != manifest.files[info.filename].sha256:
        raise _changed(info.filename, name)
    return data


def _changed(inner: str, name: str) -> FtlabError:
    return FtlabError(
        f"{inner} in '{name}' is not what was packed (its SHA-256 differs); copy or download it "
        "again."
    )


# ---------------------------------------------------------------- the records of a run


def _read_runs(
    archive: zipfile.ZipFile,
    manifest: Manifest,
    files: Mapping[str, Mapping[str, zipfile.ZipInfo]],
    sweep_id: str,
    name: str,
) -> dict[str, _RunRecords]:
    """The checked runs by their packed id; all are read before anything is written."""
    ids = {run_id: sweep_id + run_id.removeprefix(manifest.sweep_id) for run_id in files}
    packed = {
        run_id: {kind: _read_hashed(archive, manifest, of_run[kind], name) for kind in _RECORDS}
        for run_id, of_run in files.items()
    }
    if sum(data[kind].count(b"\n") for data in packed.values() for kind in _LINES) > MAX_LINES:
        raise FtlabError(f"'{name}' has more than {MAX_LINES:,} lines of curves and answers.")
    runs = {}
    for run_id, data in packed.items():
        if not RUN_ID.fullmatch(ids[run_id]):
            raise FtlabError(f"The id {run_id} in '{name}' is too long. {_AGAIN}")
        shown = {kind: f"{run_id}/{kind}" for kind in _RECORDS}
        spec = _spec(data[SPEC], shown[SPEC])
        if spec.run_id != run_id or spec.sweep_id != manifest.sweep_id:
            raise FtlabError(f"{shown[SPEC]} is that of another run. {_AGAIN}")
        if spec.base_run_id is not None and spec.base_run_id not in files:
            raise FtlabError(f"{shown[SPEC]} names a base run that is not in '{name}'. {_AGAIN}")
        base = None if spec.base_run_id is None else ids[spec.base_run_id]
        runs[run_id] = _RunRecords(
            replace(
                spec, run_id=ids[run_id], sweep_id=sweep_id, base_run_id=base, owner=asking().name
            ),
            _result(data[RESULT], shown[RESULT]),
            _events(data[METRICS], shown[METRICS]),
            _samples(data[SAMPLES], shown[SAMPLES]),
        )
    if all(run.spec.is_base for run in runs.values()):
        raise FtlabError(f"'{name}' holds no trained run. {_AGAIN}")
    return runs


def _spec(data: bytes, name: str) -> RunSpec:
    _check_text(data, name, strict=True)
    spec = public_spec(_named(load_spec, data, name))
    errors: list[FieldError] = errors_in(spec.settings)
    if spec.variant is not None:
        errors += validate_variant(spec.variant)
    if errors:
        raise FtlabError(f"{name} cannot be read: {errors[0].message}")
    task = spec.task
    columns = [] if task.mapping is None else vars(task.mapping).values()
    own = [spec.model, *spec.may_use, spec.device]
    texts = [*own, task.id, task.metric, task.config, task.split, *columns]
    if any(len(text) > _LONGEST_NAME for text in texts if isinstance(text, str)):
        raise FtlabError(f"{name} has a name of more than {_LONGEST_NAME} characters.")
    if not 0 < spec.created_at < _LATEST or not 0 <= spec.seed < 2**32:
        raise FtlabError(f"{name} has no date or seed that can be.")
    return spec


def _result(data: bytes, name: str) -> RunResult:
    _check_text(data, name, strict=True)
    result = public_result(_named(load_result, data, name))
    if not 0 <= result.finished_at < _LATEST:
        raise FtlabError(f"{name} has no date that can be.")
    for key, value in result.environment.items():
        inner = value.values() if isinstance(value, dict) else [value]
        if any(isinstance(one, dict | list) for one in inner):
            raise FtlabError(f"{name} has more than texts and numbers in environment.{key[:80]}.")
    for field in fields(result.measures):
        number = getattr(result.measures, field.name)
        signed = "change" in field.name or "gain" in field.name or "net_" in field.name
        if isinstance(number, int | float) and number < 0 and not signed:
            raise FtlabError(f"{name} has a {field.name} below 0.")
    return result


def _events(data: bytes, name: str) -> bytes:
    lines = []
    for line in _lines(data, name):
        event = _json(line, name)
        numbers = event.values() if isinstance(event, dict) else ()
        if (
            not isinstance(event, dict)
            or not is_event(event)
            or not all(
                _is_measure(number)
                for number in numbers
                if isinstance(number, int | float) and math.isfinite(number)
            )
        ):
            raise FtlabError(f"{name} has a line that is no event of a run: {_shown(line)}")
        lines.append(json.dumps(event))
    return _joined(lines)


def _samples(data: bytes, name: str) -> bytes:
    lines = []
    for line in _lines(data, name):
        if json_values(line.decode("utf-8", errors="replace"), 2000) > 2000:
            raise FtlabError(f"{name} has a line with more than 2,000 values.")
        try:
            sample = SAMPLE.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = shown_name(".".join(map(str, first["loc"]))) or "a line"
            raise FtlabError(f"{name} cannot be read: {where}: {first['msg']}.") from None
        lines.append(json.dumps(sample.model_dump(exclude_none=True)))
    return _joined(lines)


def _lines(data: bytes, name: str) -> Iterator[bytes]:
    lines = data.split(b"\n")
    if lines.pop() or len(lines) > MAX_LINES_A_FILE:
        raise FtlabError(f"{name} is cut short or has more than {MAX_LINES_A_FILE:,} lines.")
    for line in lines:
        if len(line) > 2**20:
            raise FtlabError(f"{name} has a line of {len(line):,} bytes; at most 1 MB is read.")
        yield line


def _joined(lines: Sequence[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def _check_text(
    data: bytes, name: str, most_values: int = _MOST_VALUES, strict: bool = False
) -> None:
    """Refuses what is no JSON of a bounded size; with `strict` checks every value too."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise FtlabError(f"{name} is no UTF-8 text.") from None
    if json_values(text, most_values) > most_values:
        raise FtlabError(f"{name} has more than {most_values:,} values.")
    value = _json(data, name, finite=True)
    if is_deeper(value, _MOST_LEVELS):
        raise FtlabError(f"{name} is nested more than {_MOST_LEVELS} levels deep.")
    if strict:
        _check_values(value, name)


def _check_values(value: Any, name: str) -> None:
    """Refuses texts that are too long or control a display, and numbers beyond any measure."""
    texts = [*value, value] if isinstance(value, dict) else [value]
    for text in texts:
        if isinstance(text, str) and (len(text) > MAX_TEXT or UNFIT.search(text)):
            raise FtlabError(f"{name} has a text that is too long or has control characters.")
    if isinstance(value, int | float) and not _is_measure(value):
        raise FtlabError(f"{name} has the number {str(value)[:40]}, which no measure can be.")
    for inner in inner_values(value):
        _check_values(inner, name)


def _is_measure(number: float) -> bool:
    return number == 0 or _LEAST < abs(number) < _LARGEST


def _json(data: bytes, name: str, finite: bool = False) -> Any:
    def refuse(constant: str) -> Any:
        raise FtlabError(f"{name} has {constant} where a number must be.")

    try:
        return json.loads(data, parse_constant=refuse if finite else None)
    except (ValueError, RecursionError):
        raise FtlabError(f"{name} is no JSON: {_shown(data)}") from None


def _shown(data: bytes) -> str:
    return shown_name(data[:60].decode("utf-8", errors="replace")) + "."


def _named(load: Callable[[bytes], _Record], data: bytes, name: str) -> _Record:
    """Loads a record; an error names the run too."""
    try:
        return load(data)
    except FtlabError as error:
        raise FtlabError(f"{name.partition('/')[0]}: {shown_name(str(error), 300)}") from None


# ---------------------------------------------------------------- what is written


def _nearest(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.is_dir())


@contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """A folder to fill; its name begins with a dot, so that nobody lists it."""
    work = parent / f".opening-{secrets.token_hex(8)}"
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_run(folder: Path, run: _RunRecords) -> None:
    directory = RunDirectory(folder)
    directory.write_spec(run.spec, run.result)
    directory.metrics_file.write_bytes(run.metrics)
    directory.samples_file.write_bytes(run.samples)


def _unpack_adapter(
    archive: zipfile.ZipFile, manifest: Manifest, run_id: str, folder: Path, name: str
) -> Path:
    folder.mkdir()
    for inner in _ADAPTER_FILES:
        info = archive.getinfo(f"{run_id}/{inner}")
        digest, size = hashlib.sha256(), 0
        with archive.open(info) as stream, (folder / Path(inner).name).open("xb") as file:
            while size <= info.file_size and (chunk := stream.read(_CHUNK)):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
        if size != info.file_size or digest.hexdigest() != manifest.files[info.filename].sha256:
            raise _changed(info.filename, name)
    return folder


class _Uploads:
    """The adapters that one opening uploads, so that an error takes back these and no others."""

    def __init__(self, runs_folder: Path) -> None:
        self._runs_folder = runs_folder
        self._before = {
            source.name: read_record(_place(runs_folder, source.name))
            for source in uploaded_sources(runs_folder)
        }
        self._made: list[str] = []

    def add(self, folder: Path, run: _RunRecords, access: Access) -> str:
        """Uploads the adapter of a run and returns its name; one that was there stays as it was."""
        name = _upload(folder, run, self._runs_folder, access)
        before = self._before.get(name)
        if before is None:
            self._made.append(name)
        elif read_record(_place(self._runs_folder, name)) != before:
            write_record(_place(self._runs_folder, name), before)
        return name

    @property
    def brought(self) -> tuple[str, ...]:
        """Those that are new here."""
        return tuple(dict.fromkeys(self._made))

    def undo(self) -> None:
        for name in self.brought:
            with suppress(FtlabError):  # it was removed in the playground meanwhile
                forget_adapter(self._runs_folder, name)


def _place(runs_folder: Path, name: str) -> Path:
    return uploaded_folder(runs_folder) / name.removeprefix(UPLOADED)


def _upload(folder: Path, run: _RunRecords, runs_folder: Path, access: Access) -> str:
    """Uploads the adapter of a run, by the checks of every uploaded adapter; returns its name."""
    spec = run.spec
    label = f"{spec.label}, seed {spec.seed}"
    try:
        source = upload_adapter(folder, runs_folder, label=label, access=access)
    except FtlabError as error:
        raise FtlabError(f"The adapter of {spec.run_id} is refused: {error}") from None
    place = uploaded_folder(runs_folder) / source.name.removeprefix(UPLOADED)
    task = spec.task if spec.task.kind == "bundled" and spec.task.id in TASKS else None
    record = replace(
        read_record(place),
        detail=f"{spec.task.label[:60]}, from another machine, {spec.sweep_id}",
        base_precision=spec.base_precision,
        task=task,
    )
    write_record(place, record)
    return source.name
