"""Model and data of a request before it is queued: read without torch, and what was read lately is
kept. Page, command line and API ask here whether they can be used and how much is scored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ftlab.errors import FieldError, FtlabError, InvalidRequest
from ftlab.models.reach import ModelReach
from ftlab.models.reference import parse_model
from ftlab.models.resolve import local_folder
from ftlab.recent import Recent
from ftlab.runs.scored import Scored, measured_split, scored_of, scored_words
from ftlab.runs.spec import SweepRequest
from ftlab.settings.training import EVAL_SPLITS
from ftlab.tasks.custom import guess_mapping, to_task_data
from ftlab.tasks.files import columns_of, load_hub_rows
from ftlab.tasks.formatting import (
    EncodedSet,
    FileTokenizer,
    FormattedExample,
    PromptFormatter,
    TooLong,
    fitting,
)
from ftlab.tasks.metrics import get_text_metric
from ftlab.tasks.reference import TaskReference, load
from ftlab.tasks.spec import TaskData, TaskSpec

Rows = list[dict[str, Any]]


def formatter_of(model: str) -> PromptFormatter | None:
    """The formatter of a model that is on this machine; `None` where its tokens are not known."""
    try:
        folder = local_folder(parse_model(model))
        return None if folder is None else _formatter(folder)
    except FtlabError:
        return None


@lru_cache(maxsize=4)
def _formatter(folder: Path) -> PromptFormatter:
    return PromptFormatter(FileTokenizer(folder))


_LOADED: Recent[str, tuple[TaskSpec, TaskData]] = Recent(4)
_HUB_ROWS: Recent[tuple[str, str | None, str | None], Rows] = Recent(2)
_HUB_DATA: Recent[str, tuple[Rows, TaskData]] = Recent(4)


def read_hub_rows(reference: TaskReference) -> Rows:
    """Asks the Hub for the rows and keeps them for `kept_hub_rows`.

    Raises `FtlabError` if they cannot be had.
    """
    _keep_torch_out()
    rows = load_hub_rows(reference.id, reference.config, reference.split)
    _HUB_ROWS[_hub_key(reference)] = rows
    return rows


def kept_hub_rows(reference: TaskReference) -> Rows | None:
    """The rows of a data set that was read lately, whatever its columns are mapped to."""
    return _HUB_ROWS.get(_hub_key(reference))


def _hub_key(reference: TaskReference) -> tuple[str, str | None, str | None]:
    return reference.id, reference.config, reference.split


def load_data(reference: TaskReference) -> tuple[str, str, TaskData]:
    """Summary, metric and data; what was read lately is not read again for every model.

    Raises `FtlabError` if the data cannot be read.
    """
    if reference.kind == "hub":
        rows = kept_hub_rows(reference) or read_hub_rows(reference)
        # A data set that was read again is another list of rows.
        known = _HUB_DATA.get(repr(reference))
        if known is None or known[0] is not rows:
            mapping = reference.mapping or guess_mapping(columns_of(rows), rows)
            known = rows, to_task_data(rows, mapping, reference.seed)
            _HUB_DATA[repr(reference)] = known
        return reference.label, get_text_metric(reference.metric).label, known[1]
    key = data_stamp(reference)
    loaded = _LOADED.get(key) or load(reference)
    _LOADED[key] = loaded
    task, data = loaded
    return task.summary, task.metric.label, data


def _keep_torch_out() -> None:
    """`datasets` imports torch to stream, for torch's own loaders, which nothing here uses.

    Not by its variable USE_TORCH: the workers would inherit that and find no torch.
    """
    import datasets

    datasets.config.TORCH_AVAILABLE = False


def data_stamp(reference: TaskReference) -> str:
    """Tells a reference from others, and the data behind it from what they were before."""
    try:
        stamp = Path(reference.id).stat().st_mtime_ns if reference.kind == "file" else 0
    except OSError:
        stamp = 0
    return f"{reference!r} {stamp}"


_KEPT = 6


def scored_now(request: SweepRequest) -> Scored:
    """How many examples the sweep will score, counted in the model's tokens where it is here.

    Raises `FtlabError` if the data cannot be read, or no example is short enough.
    """
    _, _, data = load_data(request.task)
    if formatter_of(request.model) is None:
        return scored_of(request, data)
    return scored_of(request, data, measured_examples(request).dropped)


def check_training_fits(request: SweepRequest) -> None:
    """Raises `TooLong` if none is short enough, counted where the model is on this machine."""
    formatter = formatter_of(request.model)
    if formatter is None:
        return
    _, _, data = load_data(request.task)
    length = request.settings.max_length
    # One that fits is enough: in tokens all of them take seconds.
    if not any(formatter.format(example).length <= length for example in data.train):
        training_examples(request)


def training_examples(request: SweepRequest) -> EncodedSet:
    _, _, data = load_data(request.task)
    formatted = _formatted(request.model, request.task, data_stamp(request.task), "training")
    return fitting(data.train, formatted, request.settings.max_length, "training")


def measured_examples(request: SweepRequest) -> EncodedSet:
    """The examples that are scored: the first of their split, without those that are too long."""
    _, _, data = load_data(request.task)
    settings = request.settings
    wanted = measured_split(data, settings)[: settings.eval_examples]
    stamp = data_stamp(request.task)
    formatted = _formatted(request.model, request.task, stamp, settings.eval_split)[: len(wanted)]
    return fitting(wanted, formatted, settings.max_length, EVAL_SPLITS[settings.eval_split])


@lru_cache(maxsize=_KEPT)
def _formatted(
    model: str, task: TaskReference, stamp: str, split: str
) -> tuple[FormattedExample, ...]:
    """All examples of a split in tokens; read anew where the data's `stamp` is another one."""
    formatter = formatter_of(model)
    assert formatter is not None
    _, _, data = load_data(task)
    examples = {"training": data.train, "tuning": data.tuning, "held_out": data.held_out}[split]
    return tuple(formatter.format(example) for example in examples)


@dataclass(frozen=True)
class Inputs:
    """`scored` is `None` where the data are not known yet, or cannot be read."""

    errors: tuple[FieldError, ...] = ()
    scored: Scored | None = None

    @property
    def words(self) -> str:
        """How many examples are scored, in a sentence where they are not as many as asked for."""
        return scored_words(self.scored) if self.scored else ""


def look_at_inputs(request: SweepRequest, models: ModelReach, *, ask: bool = False) -> Inputs:
    """Looks at the model and the data of a request whose fields are right by themselves.

    Only with `ask` the Hub is asked about either, and every training example is counted in tokens,
    which takes seconds; without, what was found out before counts.
    """
    why = models.why_not(request.model) if ask else models.known(request.model)
    errors = [FieldError("model", why)] if why else []
    if request.task.kind == "hub" and not ask and kept_hub_rows(request.task) is None:
        return Inputs(tuple(errors))
    scored = None
    try:
        load_data(request.task)
        scored = scored_now(request)
        if ask:
            check_training_fits(request)
    except TooLong as error:
        errors.append(FieldError("settings.max_length", str(error)))
    except FtlabError as error:
        errors.append(FieldError("task.id", str(error)))
    return Inputs(tuple(errors), scored)


def check_inputs(request: SweepRequest, models: ModelReach) -> Inputs:
    """Asks whoever has to be asked; raises `InvalidRequest` if model or data cannot be used."""
    found = look_at_inputs(request, models, ask=True)
    if found.errors:
        raise InvalidRequest(list(found.errors))
    return found


def must_ask(request: SweepRequest, models: ModelReach) -> bool:
    """Whether the answer depends on the Hub, and is not known yet."""
    unread = request.task.kind == "hub" and kept_hub_rows(request.task) is None
    return unread or models.known(request.model) is None
