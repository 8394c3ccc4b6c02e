"""Model and data of a request before it is queued, and who may name which of them.

On loopback the visitor is the operator. Behind a login, visitors name local folders only where the
operator lists them. A public demo trains nothing, takes nothing in, and asks nobody for anything.

`Access` answers for what a visitor names. What would be written is refused again where it is
written: a demo's runs folder is closed (`ftlab.records.run`), its uploads by the server's gate.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.basics.recent import Recent
from ftlab.basics.words import shown_name
from ftlab.models.reference import BUNDLED_ID, parse_model
from ftlab.models.resolve import ModelReach, local_folder
from ftlab.records.comparability import Scored, measured_split, scored_of, scored_words
from ftlab.records.spec import SweepRequest
from ftlab.settings.training import EVAL_SPLITS
from ftlab.tasks.files import EXTENSIONS, columns_of, guess_mapping, load_hub_rows, to_task_data
from ftlab.tasks.formatting import (
    EncodedSet,
    FileTokenizer,
    FormattedExample,
    PromptFormatter,
    TooLong,
    fitting,
)
from ftlab.tasks.reference import TaskReference, load
from ftlab.tasks.registry import TASKS
from ftlab.tasks.scoring import get_text_metric
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


_LONGEST_PATH = 4_096  # characters; no system opens a longer one
_BUNDLED = ("bundled", BUNDLED_ID, BUNDLED_ID.split("/")[1])
_DRIVE = re.compile(r"[A-Za-z]:")
_SHOWN_CHARACTERS = 120

DEMO_REFUSAL = (
    "This is a public demo: it trains nothing, keeps nothing and takes no files; to do that, "
    "duplicate the Space and set its secret FTLAB_AUTH to user:password."
)
DEMO_ASKS_NOBODY = (
    "This public demo asks the Hugging Face Hub for nothing; choose a model of the list, paste its "
    "config.json in Plan, or duplicate the Space."
)


@dataclass(frozen=True)
class Access:
    """What visitors of one app may do.

    `folders` are those in which a local model or file may be named; `None`: anywhere. `uploads` is
    where the app keeps what visitors uploaded, which they may name as well. `space` is the id of
    the Hugging Face Space that serves a demo, "" elsewhere. `logs_in`: they come with a password.
    `answer_seconds` is how long the panes of one prompt may write (`None`: to their end).
    """

    may_train: bool = True
    may_upload: bool = True
    may_ask_hub: bool = True
    folders: tuple[Path, ...] | None = None
    uploads: Path | None = None
    space: str = ""
    logs_in: bool = False
    answer_seconds: float | None = None

    @property
    def is_demo(self) -> bool:
        return not self.may_train

    def check_training(self) -> None:
        """Before anything is launched, ended, changed or removed. Raises `FtlabError`."""
        if not self.may_train:
            raise FtlabError(DEMO_REFUSAL)

    def check_upload(self) -> None:
        """Before a file of a visitor's is read. Raises `FtlabError`."""
        if not self.may_upload:
            raise FtlabError(DEMO_REFUSAL)

    def check_model(self, name: str) -> None:
        """Raises `FtlabError` if a visitor may not name that model; nothing of it is opened."""
        if not isinstance(name, str):
            raise FtlabError("The model's name is no text; give one as in 'bundled'.")
        if name.strip() in _BUNDLED:
            return
        if self.folders is not None and is_path(name):
            self._check_path(name)
        elif not self.may_ask_hub:
            raise FtlabError(DEMO_ASKS_NOBODY)

    def check_task(self, task: TaskReference) -> None:
        """Raises `FtlabError` if a visitor may not name that data; nothing of it is opened."""
        if task.kind == "hub" and not self.may_ask_hub:
            raise FtlabError(DEMO_ASKS_NOBODY)
        if task.kind == "file" and task.id and self.folders is not None:
            self._check_path(task.id)

    def check_task_text(self, text: str) -> None:
        """`check_task` on a task as the command line and the API write it, before it is read."""
        if not isinstance(text, str):
            raise FtlabError("The task is no text; name one as in 'sql'.")
        if text in TASKS:
            return
        if text.startswith("hub:"):
            self.check_task(TaskReference("hub", text.removeprefix("hub:")))
        elif is_path(text) or Path(text).suffix.lower() in EXTENSIONS:
            self.check_task(TaskReference("file", text))

    def _check_path(self, text: str) -> None:
        """Whether the path, with all links followed, lies in a folder that may be named."""
        listed = tuple(self.folders or ())
        allowed = listed if self.uploads is None else (*listed, self.uploads)
        if lies_within(text, allowed):
            return
        shown = shown_name(text, _SHOWN_CHARACTERS)
        if not listed:
            raise FtlabError(
                f"'{shown}' is a path of the machine that serves this page, and none may be named "
                "here; the operator can list folders with --allow-folder."
            )
        names = ", ".join(f"'{folder}'" for folder in listed)
        raise FtlabError(
            f"'{shown}' does not lie in a folder that may be named here; name one within {names}."
        )


EVERYTHING = Access()
"""On loopback, where the visitor is the operator."""


DEMO_ANSWER_SECONDS = 5.0
"""Two cores write some hundred tokens in it."""


def demo_access(space: str = "") -> Access:
    """A public demo's: what ships with ftlab may be looked at and tried."""
    return Access(False, False, False, folders=(), space=space, answer_seconds=DEMO_ANSWER_SECONDS)


def is_path(text: str) -> bool:
    """Whether a name means something of this machine's disk, in any system's way of writing it.

    What names an existing folder is a path however it is written, as `parse_model` takes it.
    """
    name = text.strip()
    if not name:
        return False
    if name[0] in "/.~\\" or _DRIVE.match(name) or "\\" in name or "\x00" in name:
        return True
    if ".." in name.split("/") or name.lower().startswith("file:"):
        return True
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long for a file's name
        return False


def lies_within(text: str, folders: Iterable[Path]) -> bool:
    """Whether the path leads into one of the folders once every link and `..` is followed.

    A home folder by its "~", a NUL, links in a circle, and what is no path of this system never do.
    """
    name = text.strip()
    if not name or name[0] == "~" or "\x00" in name or "\\" in name or _DRIVE.match(name):
        return False
    if len(str(name)) > _LONGEST_PATH:  # following one of a million parts takes a minute
        return False
    try:
        try:
            real = Path(os.path.realpath(name, strict=True))
        except FileNotFoundError:
            real = Path(os.path.realpath(name))
        return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)
    except (OSError, ValueError):
        return False
