"""The sources that can answer in a pane (base, runs, adapters), found by name without torch.

A name is "base", a run id, "shipped:<task>" for an adapter of ftlab, or "adapter:<id>" if uploaded.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder, parse_json, read_plain
from ftlab.basics.people import asking
from ftlab.jobs.control import control_folder
from ftlab.methods.registry import BASE_METHOD, label_of
from ftlab.methods.spec import BasePrecision
from ftlab.models.reference import BUNDLED_ID, parse_model
from ftlab.playground.fitting import base_name, count_tensors, fitting_words, why_not_on
from ftlab.records.result import STATUS_LABELS
from ftlab.records.run import MAX_RECORD_BYTES, find_run, write_atomically
from ftlab.records.store import Run, read_run
from ftlab.settings.training import DtypePolicy
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.registry import TASKS

BASE = "base"
"""The pane of the unchanged base model."""

SHIPPED = "shipped:"
UPLOADED = "adapter:"

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
RECORD_FILE = "pane.json"

_FOLDER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,80}")
_RUN_NUMBER = re.compile(r"\d{8}-\d{6}-(\w+-\d+)-\w+")


@dataclass(frozen=True)
class PaneSource:
    """The model or adapter that answers in a pane.

    `folder` holds the weights (`None`: the base's own). With `is_adapter` they are an adapter that
    is applied to the base; with `is_part` they replace some of the model's weights; otherwise they
    are a whole model. `label` is short ("LoRA r=4"); `detail` distinguishes equal labels.
    `sweep_id` is "" if no sweep made it. The last three fields are from an upload's record.
    """

    name: str
    label: str
    method: str = BASE_METHOD
    model: str = ""
    folder: Path | None = None
    is_adapter: bool = False
    is_part: bool = False
    base_precision: BasePrecision | None = None
    dtype_policy: DtypePolicy = "bf16"
    task: TaskReference | None = None
    sweep_id: str = ""
    detail: str = ""
    named_by_folder: bool = False
    same_weights: bool = False
    vouched: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Label and detail, as in "LoRA r=4 · SQL · 25 Nov 14:02 · ab12-03"."""
        return " · ".join(filter(None, [self.label, self.detail]))

    @property
    def files(self) -> tuple[Path, Path]:
        """An adapter's configuration and weights."""
        assert self.folder is not None
        return self.folder / CONFIG_FILE, self.folder / WEIGHTS_FILE

    def is_vouched_for(self, model: str) -> bool:
        """Whether a person confirmed that this is the base it was trained on."""
        return same_name(model) in self.vouched


@dataclass(frozen=True)
class AdapterRecord:
    """`pane.json` beside an adapter that was not made by a run of this folder.

    `model` is the base's public id, or with `named_by_folder` the last part of the folder path that
    the configuration names. `same_weights`: that folder held the weights of `model`. `method` is a
    method of the registry or PEFT's name for it. `vouched` lists other bases that a person
    confirmed, in the form of `same_name`. `owner` is the login of the person who uploaded it, ""
    for the operator: each has a copy of their own.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "ignore"}

    label: str
    method: str
    model: str
    sha256: str
    detail: str = ""
    task: TaskReference | None = None
    base_precision: BasePrecision | None = None
    named_by_folder: bool = False
    same_weights: bool = False
    vouched: tuple[str, ...] = ()
    owner: str = ""


_RECORD: TypeAdapter[AdapterRecord] = TypeAdapter(AdapterRecord)


def base_source() -> PaneSource:
    return PaneSource(BASE, label_of(BASE_METHOD))


def find_source(runs_folder: Path, name: str) -> PaneSource:
    """Finds a source by name; raises `FtlabError` with a solution if it is unknown or unusable."""
    if name == BASE:
        return base_source()
    for prefix, parent in (SHIPPED, shipped_folder()), (UPLOADED, uploaded_folder(runs_folder)):
        if name.startswith(prefix):
            folder = name.removeprefix(prefix)
            if not _FOLDER_NAME.fullmatch(folder):
                raise FtlabError(
                    f"'{folder}' names no adapter; choose one of the playground's list."
                )
            return _from_folder(name, parent / folder)
    run = read_run(find_run(runs_folder, name))
    reason = cannot_answer(run)
    if reason:
        raise FtlabError(reason)
    return run_source(run)


def all_sources(runs: Sequence[Run], runs_folder: Path) -> list[PaneSource]:
    """All usable sources: base, finished runs (newest first), uploaded and shipped adapters."""
    able = [run_source(run) for run in reversed(runs) if not cannot_answer(run)]
    return [base_source(), *able, *uploaded_sources(runs_folder), *shipped_sources()]


def adapters_on(model: str, sources: Iterable[PaneSource]) -> list[str]:
    """The names of the adapters and trained parts that can answer on that base."""
    able = [s for s in sources if (s.is_adapter or s.is_part) and not wrong_base(s, model)]
    return [source.name for source in able]


def shipped_folder() -> Path:
    return assets_folder() / "adapters"


def uploaded_folder(runs_folder: Path) -> Path:
    return control_folder(runs_folder) / "adapters"


def shipped_sources() -> list[PaneSource]:
    """The shipped adapters, sorted by their training task in the order of `TASKS`."""
    order = list(TASKS)
    return sorted(
        _of_folder(SHIPPED, shipped_folder()),
        key=lambda s: order.index(s.task.id) if s.task and s.task.id in order else len(order),
    )


def uploaded_sources(runs_folder: Path) -> list[PaneSource]:
    return list(_of_folder(UPLOADED, uploaded_folder(runs_folder)))


def cannot_answer(run: Run) -> str:
    """A sentence that says why the run cannot answer in a pane; "" if it can."""
    if run.spec.is_base:
        return f"Run '{run.run_id}' is a base run and has no adapter; choose '{BASE}' instead."
    if not run.has_weights:
        return (
            f"Run '{run.run_id}' is {STATUS_LABELS[run.status]}, so it has no adapter to answer "
            "with; choose a run that is done."
        )
    if run.directory.adapter.is_symlink():
        return f"The weights of run '{run.run_id}' are a link; put the folder itself there."
    return ""


def run_source(run: Run) -> PaneSource:
    """The source of a run. `detail` shows the time and the number of the run id, not all of it."""
    spec = run.spec
    method = None if spec.variant is None else spec.variant.spec
    number = _RUN_NUMBER.fullmatch(run.run_id)
    made = time.strftime("%d %b %H:%M", time.localtime(spec.created_at))
    return PaneSource(
        name=run.run_id,
        label=spec.label,
        method=spec.method,
        model=spec.model,
        folder=run.directory.adapter,
        is_adapter=method is not None and method.is_adapter,
        is_part=method is not None and not (method.is_adapter or method.ships_whole_model),
        base_precision=spec.base_precision,
        dtype_policy=spec.dtype_policy,
        task=spec.task,
        sweep_id=spec.sweep_id,
        detail=" · ".join([spec.task.label, made, number[1] if number else run.run_id]),
    )


def same_name(model: str) -> str:
    """Normalises a model name; returns the text unchanged if it is not a model name."""
    try:
        return parse_model(model).name
    except FtlabError:
        return model


def wrong_base(source: PaneSource, model: str) -> str:
    """A sentence that says why the source cannot answer on the base `model`; "" if it can.

    An uploaded adapter was compared with the base that it names when it was uploaded. That name may
    be a mirror or a folder, so only its last part counts. A person must confirm any other name.
    """
    if source.name == BASE:
        return ""
    if not source.name.startswith((SHIPPED, UPLOADED)):
        return "" if same_name(source.model) == same_name(model) else _other_base(source, model)
    if _is_named(source, model) or source.is_vouched_for(model):
        return ""
    why = why_not_on(source.files, model) if source.folder is not None else None
    if why is None:
        return _other_base(source, model)
    if why:
        return misfit_words(source, model, why)
    # A local folder path is not shown.
    as_option = "its folder" if model.startswith("/") else model
    if same_name(model) == BUNDLED_ID:
        as_option = "bundled"
    return (
        f"{_doubt(source, model)}. If that is its base, confirm it: by the button in its pane, "
        f"or with --base-is {as_option}."
    )


def base_doubt(source: PaneSource, model: str) -> str:
    """A warning if an uploaded adapter fits the base `model` but names another one; else "".

    It has no full stop. It is "" too if a person confirmed the base."""
    known = _is_named(source, model) or source.is_vouched_for(model)
    if known or not source.name.startswith(UPLOADED) or source.folder is None:
        return ""
    return _doubt(source, model) if why_not_on(source.files, model) == "" else ""


def misfit_words(source: PaneSource, model: str, why: str) -> str:
    """The error sentence for an adapter that does not fit that base; `why` is a clause."""
    name, named = base_name(model), base_name(source.model)
    way_out = f"Its configuration names {named}: choose that one, or an adapter of {name}"
    if _is_named(source, model):
        way_out = "Correct its files, or choose the base model that it was made for"
    return f"'{source.label}' does not fit {name}: {why}. {way_out}."


def _is_named(source: PaneSource, model: str) -> bool:
    last_parts = [
        same_name(name).rstrip("/").rpartition("/")[2].lower() for name in (source.model, model)
    ]
    return last_parts[0] == last_parts[1]


def _doubt(source: PaneSource, model: str) -> str:
    return (
        f"The configuration of '{source.label}' names {base_name(source.model)} as its base; "
        f"{fitting_words(count_tensors(source.files), model)}"
    )


def _other_base(source: PaneSource, model: str) -> str:
    return (
        f"The base model of '{source.label}' is {source.model}, that of this prompt is {model}; "
        "all panes share one base model, so choose runs of the same one."
    )


@dataclass(frozen=True)
class LineUp:
    """The base model and the sources of one request, `found` by pane index.

    `problems` has an error sentence, by pane index, for each pane that cannot answer."""

    model: str
    found: dict[int, PaneSource]
    problems: dict[int, str]

    @property
    def sources(self) -> dict[int, PaneSource]:
        """The sources that can answer, by pane index."""
        return {place: s for place, s in self.found.items() if place not in self.problems}

    def label(self, place: int, name: str) -> str:
        """Returns the pane's label; `name` itself if its source was not found."""
        return self.found[place].label if place in self.found else name


def line_up(panes: Sequence[str], model: str | None, runs_folder: Path) -> LineUp:
    """Finds every pane's source; without `model`, the base model is taken from the sources."""
    found: dict[int, PaneSource] = {}
    problems: dict[int, str] = {}
    for place, name in enumerate(panes):
        try:
            found[place] = find_source(runs_folder, name)
        except (FtlabError, OSError) as error:
            problems[place] = str(error)
    model = model or _shared_model(found.values())
    for place, source in found.items():
        problem = wrong_base(source, model)
        if problem:
            problems[place] = problem
    return LineUp(model, found, problems)


def _shared_model(sources: Iterable[PaneSource]) -> str:
    """The base model if the request names none: the bundled model if only the base answers.

    First a run's model (it is on this machine), then a shipped, then an uploaded adapter's."""
    named = []
    for source in sources:
        if source.name.startswith(UPLOADED):
            unnamed = source.named_by_folder or _is_named(source, BUNDLED_ID)
            likely = BUNDLED_ID if unnamed else source.model
            named.append((2, source.vouched[-1] if source.vouched else likely))
        elif source.model:
            named.append((int(source.name.startswith(SHIPPED)), source.model))
    return min(named, key=lambda ranked: ranked[0])[1] if named else BUNDLED_ID


def read_record(folder: Path) -> AdapterRecord:
    """Reads an adapter's record; raises `FtlabError` if it is missing or cannot be read."""
    try:
        return parse_json(_RECORD, read_plain(folder / RECORD_FILE, MAX_RECORD_BYTES), RECORD_FILE)
    except OSError as error:
        raise FtlabError(
            f"The adapter '{folder.name}' cannot be read ({error.strerror}); upload it again."
        ) from None


def write_record(folder: Path, record: AdapterRecord) -> None:
    write_atomically(folder / RECORD_FILE, _RECORD.dump_json(record, indent=2) + b"\n")


def _of_folder(prefix: str, parent: Path) -> Iterator[PaneSource]:
    folders = sorted(parent.iterdir()) if parent.is_dir() else []
    for folder in folders:
        if _FOLDER_NAME.fullmatch(folder.name) and (folder / RECORD_FILE).is_file():
            try:
                yield _from_folder(prefix + folder.name, folder)
            except FtlabError:
                continue  # not listed; `find_source` with its name reports the error


def _from_folder(name: str, folder: Path) -> PaneSource:
    record = read_record(folder)
    if name.startswith(UPLOADED) and not asking().sees(record.owner):
        raise FtlabError(f"'{folder.name}' names no adapter; choose one of the playground's list.")
    own = {f.name for f in fields(record)} - {"sha256", "owner"}
    same = {name: getattr(record, name) for name in own}
    return PaneSource(name, folder=folder, is_adapter=True, **same)


def parse_names(names: Any) -> list[str]:
    """Returns pane names from a list, or from text such as "base, RUN_ID"."""
    parts = names.split(",") if isinstance(names, str) else names
    return [name.strip() for name in map(str, parts) if name.strip()]
