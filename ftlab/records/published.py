"""Imported third-party results: shown next to the user's own runs, but never compared with them.

The sources are result files of huggingface/peft, `method_comparison`, or rows of a CSV of them. The
meaning of the numbers follows that project's own scripts (`MetaMathQA/run.py` and `utils.py`;
Apache-2.0). Each result is stored as one file of that format in `published/` in the runs folder.
They form separate sweeps, with ids that ftlab's own sweeps cannot have.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from ftlab.basics import units
from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.files import UnsuitableFile, parse_json, read_plain
from ftlab.basics.people import asking
from ftlab.basics.words import plain_line, plural
from ftlab.methods.registry import BASE_METHOD, METHODS, named_by, on_base
from ftlab.methods.spec import BasePrecision
from ftlab.records.result import Status
from ftlab.records.run import check_writable, write_atomically
from ftlab.records.table import ROW_KEYS

MAX_BYTES = 5_000_000
"""Maximum file size; a result file has about 15 kB."""
_MAX_ROWS = 2000
_SUFFIXES = (".json", ".csv")
_PACKAGES = ("peft", "transformers", "torch")
MEMORY_KIND = "imported: CUDA reserved, train and evaluation"
_DUMMY_FILE_SIZE = 99_999_999
"""The value that their script writes if the adapter could not be saved."""


# ---------------------------------------------------------------- the format

Text = Annotated[str, Field(max_length=300)]
Name = Annotated[str, Field(min_length=1, max_length=300)]
Count = Annotated[int, Field(ge=0, lt=2**62)]
Real = Annotated[float, Field(allow_inf_nan=False, gt=-1e18, lt=1e18)]
Span = Annotated[float, Field(allow_inf_nan=False, ge=0, lt=1e18)]
Share = Annotated[float, Field(allow_inf_nan=False, ge=-1, le=1)]


class _Part(BaseModel):
    """Types are strict and unknown keys are ignored, because the file is untrusted."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, protected_namespaces=())


class _TrainConfig(_Part):
    model_id: Name
    dtype: Name
    batch_size: Count
    max_steps: Count
    optimizer_type: Text = "AdamW"
    optimizer_kwargs: dict[str, Any] = {}
    seed: Count | None = None
    max_seq_length: Count | None = None
    eval_steps: Count | None = None
    use_gc: bool | None = None
    autocast_adapter_dtype: bool | None = None


class _RunInfo(_Part):
    experiment_name: Name
    train_config: _TrainConfig
    peft_config: dict[str, Any] | None
    created_at: Text | None = None
    total_time: Span | None = None
    error_msg: str = ""


class _Point(_Part):
    """One row of their log, written every `eval_steps` steps and once after the test."""

    step: Count
    train_loss: Real | None = Field(None, alias="train loss")
    train_time: Span | None = Field(None, alias="train time")
    accuracy: Share | None = Field(None, alias="test accuracy")
    similarity: Share | None = Field(None, alias="test dino_similarity")
    forgetting: float | None = None  # NaN where it could not be measured
    drift: float | None = None


class _TrainInfo(_Part):
    status: Literal["success", "failed", "canceled"]
    train_time: Span | None = None
    accelerator_memory_max: Annotated[int, Field(gt=-(2**62), lt=2**62)] | None = None
    file_size: Count | None = None
    num_trainable_params: Count | None = None
    num_total_params: Count | None = None
    metrics: tuple[_Point, ...] = ()


class _SystemInfo(_Part):
    accelerator: Text | None = None


class _MetaInfo(_Part):
    system_info: _SystemInfo = _SystemInfo()
    package_info: dict[str, Any] = {}
    model_info: dict[str, Any] | None = None
    dataset_info: dict[str, Any] | None = None


class _Document(_Part):
    run_info: _RunInfo
    train_info: _TrainInfo
    meta_info: _MetaInfo


_DOCUMENT = TypeAdapter(_Document)
_STATUS: dict[str, Status] = {"success": "done", "failed": "failed", "canceled": "cancelled"}


@dataclass(frozen=True)
class _Benchmark:
    """`score` and `side` are the `_Point` fields of the benchmark's score and side effect."""

    task: str
    metric: str
    score: str
    side: str
    score_means: str
    side_means: str


_METAMATH = _Benchmark(
    "MetaMathQA", "test accuracy", "accuracy", "forgetting",
    "share of right answers on the test set", "rise of the loss on Wikipedia text, in nats a token",
)  # fmt: skip
_IMAGE = _Benchmark(
    "image-gen", "DINO similarity", "similarity", "drift",
    "likeness of generated test images to the real ones, by DINOv2",
    "change of images for unrelated prompts, 0 to 1",
)  # fmt: skip


# ---------------------------------------------------------------- one result


@dataclass(frozen=True)
class PublishedRun:
    """One imported result. Results of one benchmark, model and device share a `sweep_id`.

    `values` has the keys of `ROW_KEYS`, `None` if a value was not published. `losses` are pairs of
    step and mean loss; `facts` are pairs of name and text to show.
    """

    run_id: str
    sweep_id: str
    values: dict[str, Any]
    losses: tuple[tuple[int, float], ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    def row(self) -> dict[str, Any]:
        return self.values


def parse_result(data: bytes, name: str) -> PublishedRun:
    """Parses one result file; raises `FtlabError` with the file name and the first wrong field."""
    document = parse_json(_DOCUMENT, data, name)
    run, train = document.run_info, document.train_info
    settings, points = run.train_config, train.metrics
    benchmark = _benchmark(document)
    scores = _numbers(points, benchmark.score)
    machine = plain_line(document.meta_info.system_info.accelerator or "", 200)
    model = settings.model_id.rpartition("/")[2]
    parts = ("imported", _slug(benchmark.task, 16), _slug(model, 24), _slug(machine, 20))
    method = method_of(run.peft_config, settings.dtype, settings.optimizer_type)
    trainable, total = train.num_trainable_params, train.num_total_params
    saved = run.peft_config is not None and train.file_size not in (0, _DUMMY_FILE_SIZE)
    values: dict[str, Any] = {
        "run_id": f"imported-{_slug(run.experiment_name, 50)}-{_fingerprint(document, scores)}",
        "sweep_id": "-".join(filter(None, parts)),
        "origin": "imported",
        "model": plain_line(settings.model_id, 200),
        "task": benchmark.task,
        "method": method,
        "variant": _label(run.experiment_name, model, method),
        "hyperparameters": _hyperparameters(run.peft_config or {}),
        "seed": settings.seed or 0,
        "status": _STATUS[train.status],
        "trainable_params": trainable,
        "total_params": total,
        "trainable_share": trainable / total if trainable is not None and total else None,
        "net_peak_memory_bytes": train.accelerator_memory_max,
        "peak_memory_kind": MEMORY_KIND,
        "train_seconds": train.train_time,
        "total_seconds": run.total_time,
        "adapter_bytes": train.file_size if saved else None,
        "score_after": scores[-1] if scores else None,
        "metric": benchmark.metric,
        "learning_rate": _number(settings.optimizer_kwargs.get("lr")),
        "dtype_policy": plain_line(settings.dtype, 200),
        "machine": machine,
        "steps": settings.max_steps,
        "batch_size": settings.batch_size,
        "archived": False,
        **dict.fromkeys(("base_precision", "device", "tags", "note", "run_dir"), ""),
        "created_at": _seconds(run.created_at),
        "reason": "" if train.status == "success" else plain_line(run.error_msg, 300),
    }
    losses = {point.step: point.train_loss for point in points if point.train_loss is not None}
    return PublishedRun(
        values["run_id"],
        values["sweep_id"],
        {key: values.get(key) for key in ROW_KEYS},
        tuple(sorted(losses.items())),
        tuple(_facts(document, benchmark)),
    )


def _benchmark(document: _Document) -> _Benchmark:
    """Which benchmark it is: results of MetaMathQA name two data sets, those of `prove` one."""
    if any(point.similarity is not None for point in document.train_info.metrics):
        return _IMAGE
    data = document.meta_info.dataset_info or {}
    if len(data) != 1 or not isinstance(next(iter(data.values())), dict):
        return _METAMATH
    return dataclasses.replace(
        _METAMATH, task=plain_line(next(iter(data)), 100), metric="score",
        score_means="the task's own score, 0 to 1",
        side_means="rise of the loss on unrelated text, in nats a token",
    )  # fmt: skip


def _fingerprint(document: _Document, scores: Sequence[float]) -> str:
    """A hash that is the same for the same measurement, whether from JSON or CSV."""
    run, train = document.run_info, document.train_info
    measured = [
        run.experiment_name, run.train_config.model_id, document.meta_info.system_info.accelerator,
        train.status, train.num_trainable_params, train.accelerator_memory_max, train.train_time,
        scores[-1] if scores else None,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(measured).encode()).hexdigest()[:8]


def _facts(document: _Document, benchmark: _Benchmark) -> Iterator[tuple[str, str]]:
    """Facts that explain the numbers; unpublished ones are left out."""
    run, train, meta = document.run_info, document.train_info, document.meta_info
    settings = run.train_config
    side, steps = _numbers(train.metrics, benchmark.side), _numbers(train.metrics, "train_time")
    time = "as published: training with its test at the end; validation in between left out"
    if steps:
        time += f"; the steps alone {units.format_seconds(sum(steps))}"
    file = "the adapter as peft saves it"
    if run.peft_config is None:
        file = f"none was saved; {units.format_bytes(train.file_size)} is the publisher's estimate"
    elif train.file_size == _DUMMY_FILE_SIZE:
        file = "could not be saved by the publisher"
    numbers = {name: _number(value) for name, value in settings.optimizer_kwargs.items()}
    optimizer = [f"{name.replace('_', ' ')} {n:g}" for name, n in numbers.items() if n is not None]
    versions = {name: meta.package_info.get(f"{name}-version") for name in _PACKAGES}
    data = meta.dataset_info or {}
    sources = {"": data} if isinstance(data.get("sha"), str) else data
    revisions = {name: sha for name, info in sources.items() if (sha := _sha(info))}
    has_curve = any(point.train_loss is not None for point in train.metrics)
    facts = {
        "Source": f"huggingface/peft, method_comparison, {benchmark.task} (Apache-2.0)"
        if benchmark in (_METAMATH, _IMAGE)
        else "a file in the form of huggingface/peft's method_comparison",
        "Experiment": run.experiment_name,
        "Measured": (run.created_at or "")[:10],
        "Versions": ", ".join(f"{n} {v}" for n, v in versions.items() if isinstance(v, str)),
        "Memory needed": "what CUDA reserved at most in training and evaluation together, "
        "less what it held at the start",
        "Training time": time,
        "Score": f"{benchmark.metric}: {benchmark.score_means}",
        benchmark.side.capitalize(): f"{side[-1]:.3f}: {benchmark.side_means}" if side else "",
        "File": file,
        "Loss curve": f"mean over the {settings.eval_steps} steps before each point"
        if settings.eval_steps and has_curve
        else "",
        "Optimizer": ", ".join([settings.optimizer_type, *optimizer]),
        "Seed": "" if settings.seed is not None else "not published; taken as 0",
        "Longest text": f"{settings.max_seq_length} tokens" if settings.max_seq_length else "",
        "Adapter weights": "fp32" if settings.autocast_adapter_dtype and run.peft_config else "",
        "Gradient checkpointing": "on" if settings.use_gc else "",
        "Model revision": _sha(meta.model_info),
        "Data revision": ", ".join(f"{n} {sha}".strip() for n, sha in revisions.items()),
    }
    for name, text in facts.items():
        if text:
            yield name, plain_line(text, 300)


def _sha(info: Any) -> str:
    sha = info.get("sha") if isinstance(info, dict) else None
    return sha[:12] if isinstance(sha, str) else ""


def _numbers(points: Sequence[_Point], name: str) -> list[float]:
    values = [_number(getattr(point, name)) for point in points]
    return [value for value in values if value is not None]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < 1e18 else None  # also false for NaN


def _seconds(created_at: str | None) -> float | None:
    """Converts an ISO 8601 date to seconds since the epoch."""
    try:
        return datetime.fromisoformat(created_at or "").timestamp()
    except (ValueError, OverflowError, OSError):
        return None


# ---------------------------------------------------------------- mapping to ftlab's methods

# Settings that keep a LoRA plain LoRA: target layers, rank and scaling.
_PLAIN_LORA = frozenset({
    "task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "r", "target_modules", "exclude_modules", "lora_alpha", "lora_dropout",
    "fan_in_fan_out", "modules_to_save", "init_lora_weights", "layers_to_transform",
    "layers_pattern", "rank_pattern", "alpha_pattern", "megatron_config", "megatron_core",
    "qalora_group_size", "target_parameters", "ensure_weight_tying", "runtime_config",
})  # fmt: skip
_LORA_NAMES = {"corda_config": "corda", "lora_ga_config": "lora-ga", "eva_config": "eva"}
_SIZES = {"r": "r", "lora_alpha": "alpha", "num_virtual_tokens": "tokens", "adapter_len": "len"}
_BITS: dict[str, BasePrecision] = {"int4": "nf4", "int8": "int8"}


def method_of(config: Mapping[str, Any] | None, dtype: str, optimizer: str) -> str:
    """ftlab's method id if the method is identical, else a separate lower-case id.

    LoRA with an extra feature (DoRA, rsLoRA, special initialisation or optimizer) is not LoRA here.
    """
    if config is None:
        return "full"
    given = config.get("peft_type")
    kind = given if isinstance(given, str) else ""
    name = _lora_kind(config, optimizer) if kind == "LORA" else named_by(kind) or _other(kind)
    if dtype not in _BITS:
        return name
    return on_base(name, _BITS[dtype]) or f"{name}-{dtype}"


def _lora_kind(config: Mapping[str, Any], optimizer: str) -> str:
    start = config.get("init_lora_weights", True)
    features = [
        name
        for name in sorted(config)
        if name not in _PLAIN_LORA and config[name] not in (None, False, "none", {}, [], 0)
    ]
    if isinstance(start, str) and start not in ("", "gaussian"):
        return (not features and named_by("LORA", start=start)) or _other(start)
    if features:
        short = features[0].removeprefix("use_").removesuffix("_config")
        ours = named_by("LORA", feature=features[0]) if len(features) == 1 else ""
        return ours or _other(_LORA_NAMES.get(features[0], short))
    if optimizer.lower().startswith("adam"):
        return named_by("LORA")
    name = _slug(optimizer, 30)
    return (name and named_by("LORA", optimizer=name)) or _other(optimizer)


def _other(name: str) -> str:
    """An id for a method that ftlab does not have; never equal to an ftlab method id."""
    made = _slug(name, 30) or "adapter"
    return f"{made}-variant" if made in (BASE_METHOD, *METHODS) else made


def _label(experiment: str, model: str, method: str) -> str:
    """ "lora/llama-3.2-3B-rank32" of Llama-3.2-3B -> "LoRA rank32"."""
    folder, _, rest = plain_line(experiment, 100).rpartition("/")
    prefix = f"{model.lower()}-"
    if model and rest.lower().startswith(prefix):
        rest = rest[len(prefix) :]
    kind = METHODS[method].label if method in METHODS else folder or method
    return f"{kind} {rest}".strip()


def _hyperparameters(config: Mapping[str, Any]) -> str:
    """The settings that determine the adapter's size, as in "r 32, alpha 64"."""
    sizes = {label: config.get(name) for name, label in _SIZES.items()}
    parts = [
        f"{label} {value}"
        for label, value in sizes.items()
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**9
    ]
    targets = config.get("target_modules")
    if isinstance(targets, list) and all(isinstance(target, str) for target in targets):
        parts.append("layers " + " ".join(sorted(targets)))
    elif isinstance(targets, str):
        parts.append(f"layers {targets}")
    return plain_line(", ".join(parts), 160)


def _slug(text: str, most: int) -> str:
    """The text reduced to lower-case letters, digits, - and _; may be empty."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower())[:most].strip("-_")


# ---------------------------------------------------------------- rows of a CSV

_COLUMNS = (
    "name", "peft_type", "model_id", "dtype", "batch_size", "max_steps", "optimizer_kwargs",
    "num_trainable_params", "num_total_params", "file_size", "accelerator_memory_max",
    "train_time", "test_accuracy", "accelerator", "peft_config",
)  # fmt: skip
"""Required CSV columns, as in `peft_metamathqa.csv`: one row per result file."""
_TEXTS = ("name", "peft_type", "model_id", "dtype", "optimizer_type")


def documents_of(data: bytes, name: str) -> list[tuple[str, bytes]]:
    """(name of the row, its document as JSON) for each row of a CSV.

    Raises `FtlabError` for missing columns or invalid CSV. A cell that is not a number stays text,
    so that parsing the document reports the wrong field.
    """
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise FtlabError(
                f"{name} has no column '{missing[0]}'; it needs: {', '.join(_COLUMNS)}."
            )
        documents = []
        for number, row in enumerate(reader, start=2):
            if number > _MAX_ROWS + 1:
                raise FtlabError(f"{name} has more than {_MAX_ROWS:,} rows; split it.")
            documents.append((f"{name}, row {number}", json.dumps(_document(row)).encode()))
        return documents
    except UnicodeDecodeError:
        raise FtlabError(f"{name} is not UTF-8 text; save it as UTF-8.") from None
    except csv.Error as error:
        raise FtlabError(f"{name} cannot be read as CSV: {error}.") from None


def _document(row: Mapping[str, str | None]) -> dict[str, Any]:
    """Columns have the names of the fields, in whichever part of the document these are."""
    cells = {
        column: text if column in _TEXTS else _value(text)
        for column, text in row.items()
        if isinstance(text, str) and text.strip()  # cells beyond the last column are a list
    }
    config = cells.pop("peft_config", None) or {"peft_type": row["peft_type"]}
    point = {"test accuracy": cells.get("test_accuracy"), "forgetting": cells.get("forgetting")}
    return {
        "run_info": cells
        | {
            "experiment_name": row["name"],
            "peft_config": None if row["peft_type"] == "full-finetuning" else config,
            "train_config": cells,
        },
        "train_info": cells
        | {"status": "success", "metrics": [point | {"step": cells.get("max_steps")}]},
        "meta_info": {
            "system_info": {"accelerator": row["accelerator"]},
            "package_info": {f"{name}-version": row.get(f"{name}_version") for name in _PACKAGES},
        },
    }


def _value(text: str) -> Any:
    """A number, truth value or JSON object; else the text itself."""
    try:
        return json.loads({"True": "true", "False": "false"}.get(text, text))
    except (ValueError, RecursionError):
        return text


# ---------------------------------------------------------------- imports in a runs folder


@dataclass(frozen=True)
class ImportReport:
    """The outcome of an import: new run ids, run ids that existed already, and rejected files.

    `refused` are pairs of file name and error message.
    """

    imported: tuple[str, ...] = ()
    already: tuple[str, ...] = ()
    refused: tuple[tuple[str, str], ...] = ()

    @property
    def sentence(self) -> str:
        """As in "3 results imported, 1 there already, 2 refused." """
        parts = [f"{plural(len(self.imported), 'result')} imported"]
        if self.already:
            parts.append(f"{len(self.already)} there already")
        if self.refused:
            parts.append(f"{len(self.refused)} refused")
        return ", ".join(parts) + "."


def published_folder(runs_folder: Path) -> Path:
    """The folder of imported results in a runs folder; it may not exist yet."""
    return runs_folder / "published"


def import_files(paths: Iterable[Path | str], runs_folder: Path) -> ImportReport:
    """Imports result files, CSV files of them, and folders of both.

    An invalid file is rejected with an error message, and nothing of it is kept. Raises
    `FtlabError` only if the runs folder cannot be written, or if the person who asks does not see
    what others made: imported results are seen by all.
    """
    check_writable(runs_folder)
    if not asking().sees_all:
        raise FtlabError(
            "Imported results are seen by everybody, so an admin imports them here; ask one."
        )
    imported: list[str] = []
    already: list[str] = []
    refused: list[tuple[str, str]] = []
    target = published_folder(runs_folder)
    known = {run.run_id for _, run in _stored(target) if isinstance(run, PublishedRun)}
    for file in (file for path in paths for file in _files(Path(path))):
        try:
            documents = _documents(file)
        except FtlabError as error:
            refused.append((file.name, str(error)))
            continue
        for name, data in documents:
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
    """Deletes imported results and returns how many were deleted.

    Raises `FtlabError` if one cannot be deleted, and for whoever may not remove what others made.
    Other ids are ignored.
    """
    check_writable(runs_folder)
    asking().check_change("", "An imported result")
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
    """The imported results of a runs folder, and (name, reason) of each invalid file.

    Results are cached by modification time and size.
    """
    runs: dict[str, PublishedRun] = {}
    broken = []
    for path, run in _stored(published_folder(runs_folder)):
        if isinstance(run, PublishedRun):
            runs.setdefault(run.run_id, run)
        else:
            broken.append((path.name, run))
    return _told_apart(list(runs.values())), broken


def _told_apart(runs: list[PublishedRun]) -> list[PublishedRun]:
    """Appends the end of the run id to variant names that are not unique within a sweep."""
    named = Counter((run.sweep_id, run.values["variant"]) for run in runs)
    return [
        run
        if named[run.sweep_id, run.values["variant"]] == 1
        else dataclasses.replace(
            run, values=run.values | {"variant": f"{run.values['variant']} ({run.run_id[-8:]})"}
        )
        for run in runs
    ]


def _stored(folder: Path) -> Iterator[tuple[Path, PublishedRun | str]]:
    """Each file of the folder with its result, or with the error message."""
    for path in sorted(folder.glob("[!.]*.json")):
        with suppress(OSError):  # it was just deleted
            stat = path.stat()
            yield path, _read(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4096)
def _read(path: Path, changed_at: int, size: int) -> PublishedRun | str:
    """`changed_at` and `size` are part of the cache key, so that a changed file is read again."""
    try:
        return parse_result(read_plain(path, MAX_BYTES, follow_link=True), path.name)
    except (FtlabError, OSError) as error:
        return one_line(error)


def _documents(file: Path) -> list[tuple[str, bytes]]:
    """(name, content) of each result in a file; raises `FtlabError` if it cannot be read."""
    suffix = file.suffix.lower()
    if file.is_dir():
        raise FtlabError(f"The folder {file.name} has no {' and no '.join(_SUFFIXES)} file.")
    if suffix not in _SUFFIXES:
        raise FtlabError(f"{file.name} is neither {' nor '.join(_SUFFIXES)}.")
    if not file.exists():
        raise FtlabError(f"There is no file '{file}'.")
    try:
        data = read_plain(file, MAX_BYTES, follow_link=True)
    except UnsuitableFile:
        raise
    except OSError as error:
        raise FtlabError(f"{file.name} cannot be read ({error.strerror}).") from None
    return documents_of(data, file.name) if suffix == ".csv" else [(file.name, data)]


def _files(path: Path) -> list[Path]:
    """The result files in a folder, else in its `results` folders; else the path itself."""
    for pattern in ("*", "results/*", "*/results/*"):
        found = sorted(file for file in path.glob(pattern) if file.suffix.lower() in _SUFFIXES)
        if found:
            return found
    return [path]


def _keep(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    except OSError as error:
        raise FtlabError(
            f"The folder '{path.parent}' cannot be written ({error.strerror}); "
            "free some space or make it writable."
        ) from None
