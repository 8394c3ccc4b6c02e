"""A sweep as one file, to be opened in another ftlab: its format, and how it is written.

manifest.json                  format, versions, and size and SHA-256 of every other file
<run id>/spec.json             as in a runs folder
<run id>/result.json
<run id>/metrics.jsonl
<run id>/samples.jsonl
<run id>/adapter/              only if asked for: adapter_config.json, adapter_model.safetensors

Neither logs, tags and notes nor data files are packed, nor anything that names a folder, a user or
a process of this machine. A local model or file is named without its folder. The same sweep gives
the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from ftlab import __version__
from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.files import open_plain
from ftlab.basics.log import redact, secrets_of
from ftlab.basics.words import plural
from ftlab.methods.peft_rules import read_object
from ftlab.playground.adapter_files import MAX_BYTES as ADAPTER_BYTES
from ftlab.playground.adapter_files import check_config, unknown_key
from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE
from ftlab.records.recording import machine_path, public_events
from ftlab.records.result import OPEN, RunResult, dump_result, is_sound
from ftlab.records.run import UNFIT
from ftlab.records.spec import RunSpec, dump_spec
from ftlab.records.store import Run, SweepData
from ftlab.share.bundle import check_room, new_zip, without_paths
from ftlab.share.report import file_stem
from ftlab.share.weights import kind_of, public_model, why_no_weights

FORMAT, VERSION = "ftlab sweep", 1
MANIFEST = "manifest.json"
SPEC, RESULT, METRICS, SAMPLES = "spec.json", "result.json", "metrics.jsonl", "samples.jsonl"
ADAPTER = "adapter/"

MAX_BYTES = {SPEC: 2**20, RESULT: 2**20, METRICS: 2**25, SAMPLES: 2**25}
"""Of the files of one run. A curve of 100,000 steps has about 20 MB."""
MAX_RECORDS_BYTES = 2**27
"""Of all files but adapters."""
MAX_RUNS, MAX_LINES, MAX_LINES_A_FILE = 500, 1_000_000, 300_000
"""Lines of curves and answers: a million take some ten seconds to check."""
MAX_TEXT = 200_000
"""Characters of one text; the longest are PeftConfigs and answers."""

ELSEWHERE = "/elsewhere/"
"""Stands for the folder of a local model or file, which another machine does not have."""

_LOCAL_FACTS = ("platform", "settings", "gpu_settings", "uuid")
_PATH = re.compile(
    r"file://[^\s'\"]+|(?<![\w.:/~-])~?(?:/[\w.+~-]+)+/?|\b[A-Za-z]:[\\/][\w.+~\\/-]+"
    r"|(?<![\w\\])\\\\[\w.+~\\-]+"
)
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_CHUNK = 2**20


class Part(BaseModel):
    """A part of a packed file; unknown keys are ignored, so that a later ftlab may add some."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False, strict=True)


class PackedFile(Part):
    bytes: int
    sha256: str


class Manifest(Part):
    """`files` are all other files by their name in the archive."""

    format: str
    version: int
    ftlab_version: str
    sweep_id: str
    files: dict[str, PackedFile]

    @property
    def sha256(self) -> str:
        """Of all that is packed: the same for two files with the same content."""
        lines = (f"{name} {file.sha256}\n" for name, file in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


class Message(Part):
    role: str
    content: str


class Sample(Part):
    """A test prompt with its answers before and after training."""

    index: int
    prompt: tuple[Message, ...] = ()
    reference: str = ""
    tokens: int | None = None
    answer_before: str | None = None
    answer_after: str | None = None
    score_before: float | None = None
    score_after: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    verdict_before: str | None = None
    verdict_after: str | None = None


SAMPLE = TypeAdapter(Sample)


@dataclass(frozen=True)
class Packed:
    """The written file, its size, the number of its trained runs and adapters, and what was left
    out."""

    path: Path
    bytes: int
    runs: int
    adapters: int
    left_out: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        adapters = f" and {plural(self.adapters, 'adapter')}" if self.adapters else ""
        return f"{plural(self.runs, 'run')}{adapters} packed ({units.format_bytes(self.bytes)})."


def file_name(sweep_id: str) -> str:
    return f"{file_stem('sweep', sweep_id)}.zip"


def why_not_packable(data: SweepData) -> str:
    """The reason why the sweep cannot be packed; "" if it can."""
    if not data.runs:
        return (
            f"'{data.sweep_id}' was imported; pass on the files that it was imported from instead."
        )
    unfinished = [run for run in data.runs if run.status in OPEN]
    if unfinished:
        return (
            f"'{data.sweep_id}' still has {plural(len(unfinished), 'open run')}; wait, or cancel, "
            "and pack it then."
        )
    if all(run.result is None for run in data.own_runs):
        return f"No run of '{data.sweep_id}' has a result, so there is nothing to pack."
    return ""


def adapters_of(data: SweepData) -> tuple[dict[str, Path], list[str]]:
    """The folders of the adapters that can be packed, by run id, and why others cannot be.

    An adapter that the playground of another machine would refuse is not packed.
    """
    found, left_out = {}, []
    for run in data.own_runs:
        if run.status != "done":
            continue
        why = why_no_weights(run) or _why_no_adapter(run)
        if why:
            left_out.append(why)
        else:
            found[run.run_id] = run.directory.adapter
    return found, left_out


def _why_no_adapter(run: Run) -> str:
    folder = run.directory.adapter
    if kind_of(folder) != "adapter":
        return f"{run.run_id} ({run.spec.label}) has weights of the model itself, not an adapter."
    if (folder / WEIGHTS_FILE).stat().st_size > ADAPTER_BYTES[WEIGHTS_FILE]:
        return f"The adapter of {run.run_id} is larger than what another ftlab reads."
    try:
        config = without_paths(folder / CONFIG_FILE, public_model(run.spec.model)).encode()
        check_config(config)
        unknown = unknown_key(read_object(config))
        if machine_path(config.decode()):
            return f"{CONFIG_FILE} of {run.run_id} names a folder of this machine."
        return f"{run.run_id}: {CONFIG_FILE} {unknown}" if unknown else ""
    except FtlabError as error:
        return f"The adapter of {run.run_id} answers only here: {error}"


def pack_sweep(data: SweepData, target: Path, adapters: bool = False) -> Packed:
    """Writes the sweep to `target`, with its adapters if asked.

    Raises `FtlabError` if it cannot be packed or the file cannot be written.
    """
    why = why_not_packable(data)
    if why:
        raise FtlabError(why)
    runs = [run for run in data.runs if run.result is not None]
    left_out = [
        f"{run.run_id} is interrupted and has no result." for run in data.runs if run not in runs
    ]
    weights: dict[str, Path] = {}
    if adapters:
        weights, without = adapters_of(data)
        left_out += without
    records = _records(runs)
    size = sum(map(len, records.values()))
    lines = sum(data.count(b"\n") for data in records.values())
    if size > MAX_RECORDS_BYTES or len(runs) > MAX_RUNS or lines > MAX_LINES:
        raise FtlabError(
            f"The sweep has {plural(len(runs), 'run')} with {units.format_bytes(size)} of records "
            f"in {lines:,} lines; a file holds at most {MAX_RUNS} runs, "
            f"{units.format_bytes(MAX_RECORDS_BYTES)} and {MAX_LINES:,} lines."
        )
    tensors = {run_id: folder / WEIGHTS_FILE for run_id, folder in weights.items()}
    check_room(size + sum(path.stat().st_size for path in tensors.values()), target.parent)
    for run_id, folder in weights.items():
        spec = next(run.spec for run in runs if run.run_id == run_id)
        config = without_paths(folder / CONFIG_FILE, public_model(spec.model))
        records[f"{run_id}/{ADAPTER}{CONFIG_FILE}"] = config.encode()
    files: dict[str, PackedFile] = {}
    with new_zip(target) as archive:
        for name, data_of_file in sorted(records.items()):
            files[name] = _add(archive, name, [data_of_file])
        for run_id, path in sorted(tensors.items()):
            name = f"{run_id}/{ADAPTER}{WEIGHTS_FILE}"
            files[name] = _add(archive, name, _chunks(path), zipfile.ZIP_STORED)
        manifest = Manifest(
            format=FORMAT,
            version=VERSION,
            ftlab_version=__version__,
            sweep_id=data.sweep_id,
            files=files,
        )
        _add(archive, MANIFEST, [manifest.model_dump_json(indent=1).encode()])
    trained = sum(not run.spec.is_base for run in runs)
    return Packed(target, target.stat().st_size, trained, len(weights), tuple(left_out))


def _records(runs: Sequence[Run]) -> dict[str, bytes]:
    names = {run.run_id for run in runs}
    hide = Hide(secrets_of(), str(Path.home()))
    files = {}
    for run in runs:
        assert run.result is not None
        spec = public_spec(run.spec)
        base = spec.base_run_id if spec.base_run_id in names else None
        for name, data in (
            (SPEC, dump_spec(replace(spec, base_run_id=base))),
            (RESULT, dump_result(public_result(run.result, hide))),
            (METRICS, _lines(event for event in public_events(run.directory) if is_event(event))),
            (SAMPLES, _lines(_samples(run))),
        ):
            lines = data.count(b"\n")
            if len(data) > MAX_BYTES[name] or lines > MAX_LINES_A_FILE:
                raise FtlabError(
                    f"{name} of {run.run_id} has {units.format_bytes(len(data))} in {lines:,} "
                    f"lines; at most {units.format_bytes(MAX_BYTES[name])} and "
                    f"{MAX_LINES_A_FILE:,} lines are packed."
                )
            files[f"{run.run_id}/{name}"] = data
    return files


def public_spec(spec: RunSpec) -> RunSpec:
    """The spec without its owner, folders of the machine and what it logs to."""
    task = spec.task
    if task.kind == "file":
        task = replace(task, id=ELSEWHERE + _last_part(task.id))
    model = ELSEWHERE + _last_part(spec.model) if spec.model.startswith("/") else spec.model
    settings = replace(spec.settings, report_to=())
    return replace(spec, model=model, task=task, settings=settings, memory_limit=None, owner="")


@dataclass(frozen=True)
class Hide:
    """Replaces folders in texts by their last part, and the secrets and the home of a machine.

    The defaults are for texts from elsewhere: whoever wrote them must not learn of this machine
    what is replaced in them.
    """

    secrets: tuple[str, ...] = ()
    home: str = ""

    def text(self, text: str) -> str:
        text = redact(text, self.secrets)
        if len(self.home) > 1:
            text = text.replace(self.home, "~")
        text = _PATH.sub(lambda path: _last_part(path.group()), text)
        return UNFIT.sub("", text)[:MAX_TEXT]

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {str(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value


def public_result(result: RunResult, hide: Hide = Hide()) -> RunResult:
    """The result without what only concerns its machine, and with its texts made public."""
    environment = {
        name: value for name, value in result.environment.items() if name not in _LOCAL_FACTS
    }
    return replace(
        result,
        reason=hide.text(result.reason),
        notes=tuple(map(hide.text, result.notes)),
        environment=hide.value(environment),
    )


def _last_part(path: str) -> str:
    parts = [part for part in re.split(r"[/\\]", path) if part.strip(" .~")]
    return UNFIT.sub("", parts[-1])[:200] if parts else "…"


_EVENT_TEXT = 300


def is_event(event: Mapping[str, Any]) -> bool:
    """Whether the event is one that may be packed: short texts and numbers under few names."""
    return (
        len(event) <= 40
        and is_sound(event)
        and all(
            len(name) <= _EVENT_TEXT
            and (
                value is None
                or isinstance(value, int | float)
                or (isinstance(value, str) and len(value) <= _EVENT_TEXT)
            )
            for name, value in event.items()
        )
    )


def _samples(run: Run) -> Iterator[dict[str, Any]]:
    for row in run.directory.samples():
        numbers = {
            name: None if isinstance(value, float) and value != value else value
            for name, value in row.items()
        }
        try:
            # By way of JSON, in which a list is a tuple too.
            sample = SAMPLE.validate_json(json.dumps(numbers).encode())
        except (ValidationError, ValueError, RecursionError):
            raise FtlabError(
                f"{SAMPLES} of {run.run_id} has a row that is no answered prompt; run it again."
            ) from None
        yield sample.model_dump(exclude_none=True)


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _chunks(path: Path) -> Iterator[bytes]:
    with open_plain(path) as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _add(
    archive: zipfile.ZipFile,
    name: str,
    chunks: Iterable[bytes],
    how: int = zipfile.ZIP_DEFLATED,
) -> PackedFile:
    """Adds a file; with a fixed date, so that the same content gives the same bytes."""
    info = zipfile.ZipInfo(name, _ZIP_DATE)
    info.compress_type = how
    info.external_attr = 0o644 << 16
    info.create_system = 3  # Unix, on every system
    digest, size = hashlib.sha256(), 0
    with archive.open(info, "w", force_zip64=how == zipfile.ZIP_STORED) as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return PackedFile(bytes=size, sha256=digest.hexdigest())
