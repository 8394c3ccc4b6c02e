"""Who can answer in a pane, found by name without torch.

A name is "base", a run id, "shipped:<task>" for an adapter that comes with ftlab, or "adapter:<id>"
for one that somebody brought along.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder, read_plain
from ftlab.basics.parsing import parse_json
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
"""The pane of the untouched model."""

SHIPPED = "shipped:"
UPLOADED = "adapter:"

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
RECORD_FILE = "pane.json"

_FOLDER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,80}")
_RUN_NUMBER = re.compile(r"\d{8}-\d{6}-(\w+-\d+)-\w+")


@dataclass(frozen=True)
class PaneSource:
    """What a pane answers with.

    `folder` holds the weights (`None`: the base's own). `is_adapter`: they are laid over the base;
    `is_part`: they are some of the model's own; else they are a whole model. `label` is short
    ("LoRA r=4"); `detail` tells it apart from others of the same label. `sweep_id` is "" for what
    no sweep made. Of an adapter that was brought along, `named_by_folder`, `same_weights` and
    `vouched` are those of its record.
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
        """Whether a person said that this is the base it was trained on."""
        return same_name(model) in self.vouched


@dataclass(frozen=True)
class AdapterRecord:
    """`pane.json` beside an adapter that no run of this folder made.

    `model` is the base's public id, `method` a method of the registry or PEFT's own name for it.
    `named_by_folder`: the configuration names a folder, of which `model` is the last part alone.
    `same_weights`: that folder held the weights of `model`. `vouched` are the other base models, in
    the form of `same_name`, that a person said it was trained on.
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


_RECORD: TypeAdapter[AdapterRecord] = TypeAdapter(AdapterRecord)


def base_source() -> PaneSource:
    return PaneSource(BASE, label_of(BASE_METHOD))


def find_source(runs_folder: Path, name: str) -> PaneSource:
    """Raises `FtlabError` with the way out for a name that nobody answers to."""
    if name == BASE:
        return base_source()
    if name.startswith(SHIPPED):
        return _from_folder(name, _within(shipped_folder(), name.removeprefix(SHIPPED)))
    if name.startswith(UPLOADED):
        return _from_folder(
            name, _within(uploaded_folder(runs_folder), name.removeprefix(UPLOADED))
        )
    run = read_run(find_run(runs_folder, name))
    reason = cannot_answer(run)
    if reason:
        raise FtlabError(reason)
    return run_source(run)


def all_sources(runs: Sequence[Run], runs_folder: Path) -> list[PaneSource]:
    """Everyone who can answer: the base, finished runs (newest first), brought and shipped ones."""
    able = [run_source(run) for run in reversed(runs) if not cannot_answer(run)]
    return [base_source(), *able, *uploaded_sources(runs_folder), *shipped_sources()]


def shipped_folder() -> Path:
    return assets_folder() / "adapters"


def uploaded_folder(runs_folder: Path) -> Path:
    return control_folder(runs_folder) / "adapters"


def shipped_sources() -> list[PaneSource]:
    """In the order of the tasks that they were trained on."""
    order = list(TASKS)
    return sorted(
        _of_folder(SHIPPED, shipped_folder()),
        key=lambda s: order.index(s.task.id) if s.task and s.task.id in order else len(order),
    )


def uploaded_sources(runs_folder: Path) -> list[PaneSource]:
    return list(_of_folder(UPLOADED, uploaded_folder(runs_folder)))


def cannot_answer(run: Run) -> str:
    """Why the run has no pane of its own, as a sentence; "" if it has."""
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
    """The time of the run id is said once, and its method is in the variant's name."""
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
    """One name for one model, however it was written; the text itself if it names none."""
    try:
        return parse_model(model).name
    except FtlabError:
        return model


def wrong_base(source: PaneSource, model: str) -> str:
    """The sentence for a pane that cannot answer on the base `model`; "" if it can.

    An adapter from elsewhere was held against the base that it names when it was brought. That may
    be a mirror or a folder, so the name's last part counts; another name needs a person's word.
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
    return (
        f"{_doubt(source, model)}. If that is its base, vouch for it: by the button in its pane, "
        f"or with --base-is {_as_asked(model)}."
    )


def base_doubt(source: PaneSource, model: str) -> str:
    """What to say of an adapter whose tensors fit the base `model` while it names another, without
    a full stop; "" for every other, and for one that somebody has vouched for."""
    known = _is_named(source, model) or source.is_vouched_for(model)
    if known or not source.name.startswith(UPLOADED) or source.folder is None:
        return ""
    return _doubt(source, model) if why_not_on(source.files, model) == "" else ""


def misfit_words(source: PaneSource, model: str, why: str) -> str:
    """The sentence for an adapter that cannot be on that base: `why` is a clause."""
    name = base_name(model)
    way_out = "Correct its files, or choose the base model that it was made for"
    if not _is_named(source, model):
        named = base_name(source.model)
        way_out = f"It says it was trained on {named}: choose that one, or an adapter of {name}"
    return f"'{source.label}' does not fit {name}: {why}. {way_out}."


def _is_named(source: PaneSource, model: str) -> bool:
    return _last_part(same_name(source.model)) == _last_part(same_name(model))


def _doubt(source: PaneSource, model: str) -> str:
    return (
        f"'{source.label}' says it was trained on {base_name(source.model)}; "
        f"{fitting_words(count_tensors(source.files), model)}"
    )


def _other_base(source: PaneSource, model: str) -> str:
    return (
        f"The base model of '{source.label}' is {source.model}, that of this prompt is {model}; "
        "all panes share one base model, so choose runs of the same one."
    )


def _as_asked(model: str) -> str:
    """The model as `--base-is` takes it, without telling a folder of this machine."""
    if same_name(model) == BUNDLED_ID:
        return "bundled"
    return "its folder" if model.startswith("/") else model


@dataclass(frozen=True)
class LineUp:
    """Who answers one request: the base model, what was found by its pane's place, and, by place,
    the sentence for each pane that cannot answer."""

    model: str
    found: dict[int, PaneSource]
    problems: dict[int, str]

    @property
    def sources(self) -> dict[int, PaneSource]:
        """Those that can answer."""
        return {place: s for place, s in self.found.items() if place not in self.problems}

    def label(self, place: int, name: str) -> str:
        """What the pane of that name is called: the name itself for a lost run."""
        return self.found[place].label if place in self.found else name


def line_up(panes: Sequence[str], model: str | None, runs_folder: Path) -> LineUp:
    """Finds every pane's source; without a `model` it is the one that they share."""
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
    """A run's model comes first, for this machine has it, then a shipped adapter's; what an adapter
    from elsewhere names comes last. The base alone answers on the bundled model."""
    named = []
    for source in sources:
        if source.name.startswith(UPLOADED):
            named.append((2, _likely_base(source)))
        elif source.model:
            named.append((int(source.name.startswith(SHIPPED)), source.model))
    return min(named, key=lambda ranked: ranked[0])[1] if named else BUNDLED_ID


def _likely_base(source: PaneSource) -> str:
    """What a person vouched for, or what the adapter names; the bundled model where it names a
    mirror of that, or a folder, which nothing can be loaded from."""
    if source.vouched:
        return source.vouched[-1]
    unnamed = source.named_by_folder or _is_named(source, BUNDLED_ID)
    return BUNDLED_ID if unnamed else source.model


def read_record(folder: Path) -> AdapterRecord:
    """Raises `FtlabError` if the adapter's record is missing or cannot be read."""
    try:
        return parse_json(_RECORD, read_plain(folder / RECORD_FILE, MAX_RECORD_BYTES), RECORD_FILE)
    except OSError as error:
        raise FtlabError(
            f"The adapter '{folder.name}' is not there ({error.strerror}); bring it along again."
        ) from None


def write_record(folder: Path, record: AdapterRecord) -> None:
    write_atomically(folder / RECORD_FILE, _RECORD.dump_json(record, indent=2) + b"\n")


def _within(parent: Path, name: str) -> Path:
    if not _FOLDER_NAME.fullmatch(name):
        raise FtlabError(f"'{name}' names no adapter; the playground's list shows those there are.")
    return parent / name


def _of_folder(prefix: str, parent: Path) -> Iterator[PaneSource]:
    folders = sorted(parent.iterdir()) if parent.is_dir() else []
    for folder in folders:
        if _FOLDER_NAME.fullmatch(folder.name) and (folder / RECORD_FILE).is_file():
            try:
                yield _from_folder(prefix + folder.name, folder)
            except FtlabError:
                continue  # a damaged record makes no choice; naming it says why


def _from_folder(name: str, folder: Path) -> PaneSource:
    record = read_record(folder)
    return PaneSource(
        name=name,
        label=record.label,
        method=record.method,
        model=record.model,
        folder=folder,
        is_adapter=True,
        base_precision=record.base_precision,
        task=record.task,
        detail=record.detail,
        named_by_folder=record.named_by_folder,
        same_weights=record.same_weights,
        vouched=record.vouched,
    )


def _last_part(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].lower()


def parse_names(names: Any) -> list[str]:
    """Pane names from a list, or from text as in "base, RUN_ID"."""
    parts = names.split(",") if isinstance(names, str) else names
    return [name.strip() for name in map(str, parts) if name.strip()]
