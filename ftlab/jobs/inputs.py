"""Checks the model and data of a request before it is queued, and which of them a visitor may use.

On loopback the visitor is the operator. Behind a login, visitors may use only the local folders
that the operator lists. A public demo does not train, accepts no files and sends no requests.

`Access` checks what a visitor names. Writes are refused a second time where they happen: a demo's
runs folder is closed (`ftlab.records.run`), and the server refuses uploads.
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
from ftlab.tasks.spec import TaskData, TaskSpec, get_text_metric

Rows = list[dict[str, Any]]


def formatter_of(model: str) -> PromptFormatter | None:
    """Returns the formatter of a local model; `None` if it has no usable tokenizer here."""
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
    """Loads the rows from the Hub and caches them for `kept_hub_rows`.

    Raises `FtlabError` if they cannot be loaded.
    """
    _keep_torch_out()
    rows = load_hub_rows(reference.id, reference.config, reference.split)
    _HUB_ROWS[_hub_key(reference)] = rows
    return rows


def kept_hub_rows(reference: TaskReference) -> Rows | None:
    """Returns the cached rows of a data set, for any column mapping; `None` if not cached."""
    return _HUB_ROWS.get(_hub_key(reference))


def _hub_key(reference: TaskReference) -> tuple[str, str | None, str | None]:
    return reference.id, reference.config, reference.split


def load_data(reference: TaskReference) -> tuple[str, str, TaskData]:
    """Returns summary, metric and data; recent data is cached, so models share it.

    Raises `FtlabError` if the data cannot be read.
    """
    if reference.kind == "hub":
        rows = kept_hub_rows(reference) or read_hub_rows(reference)
        # A data set that was loaded again is a new list of rows.
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
    """Stops `datasets` from importing torch for streaming; torch's data loaders are not used here.

    The variable USE_TORCH is not used, because the workers would inherit it and not find torch.
    """
    import datasets

    datasets.config.TORCH_AVAILABLE = False


def data_stamp(reference: TaskReference) -> str:
    """Returns a cache key of the reference, which contains the file's modification time."""
    try:
        stamp = Path(reference.id).stat().st_mtime_ns if reference.kind == "file" else 0
    except OSError:
        stamp = 0
    return f"{reference!r} {stamp}"


_KEPT = 6


def scored_now(request: SweepRequest) -> Scored:
    """Returns how many examples the sweep will score; lengths in tokens if the model is local.

    Raises `FtlabError` if the data cannot be read, or no example is short enough.
    """
    _, _, data = load_data(request.task)
    if formatter_of(request.model) is None:
        return scored_of(request, data)
    return scored_of(request, data, measured_examples(request).dropped)


def check_training_fits(request: SweepRequest) -> None:
    """Raises `TooLong` if no training example is short enough; does nothing for a remote model."""
    formatter = formatter_of(request.model)
    if formatter is None:
        return
    _, _, data = load_data(request.task)
    length = request.settings.max_length
    # One example that fits is enough; tokenizing all of them takes seconds.
    if not any(formatter.format(example).length <= length for example in data.train):
        training_examples(request)


def training_examples(request: SweepRequest) -> EncodedSet:
    _, _, data = load_data(request.task)
    formatted = _formatted(request.model, request.task, data_stamp(request.task), "training")
    return fitting(data.train, formatted, request.settings.max_length, "training")


def measured_examples(request: SweepRequest) -> EncodedSet:
    """Returns the examples to score: the first of the split, without those that are too long."""
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
    """Returns all examples of a split in tokens; a changed `stamp` makes it read them again."""
    formatter = formatter_of(model)
    assert formatter is not None
    _, _, data = load_data(task)
    examples = {"training": data.train, "tuning": data.tuning, "held_out": data.held_out}[split]
    return tuple(formatter.format_all(examples))


@dataclass(frozen=True)
class Inputs:
    """`scored` is `None` if the data is not known yet, or cannot be read."""

    errors: tuple[FieldError, ...] = ()
    scored: Scored | None = None

    @property
    def words(self) -> str:
        """A sentence if fewer examples are scored than requested, else ""."""
        return scored_words(self.scored) if self.scored else ""


def look_at_inputs(request: SweepRequest, models: ModelReach, *, ask: bool = False) -> Inputs:
    """Checks the model and the data of a request whose fields are valid on their own.

    With `ask` it queries the Hub and checks the training lengths in tokens, which takes seconds.
    Without `ask` it uses cached answers only.
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
    """Queries the Hub if needed; raises `InvalidRequest` if model or data cannot be used."""
    found = look_at_inputs(request, models, ask=True)
    if found.errors:
        raise InvalidRequest(list(found.errors))
    return found


def must_ask(request: SweepRequest, models: ModelReach) -> bool:
    """Whether the Hub has to be queried: the answer is not cached."""
    unread = request.task.kind == "hub" and kept_hub_rows(request.task) is None
    return unread or models.known(request.model) is None


_LONGEST_PATH = 4_096  # characters; no system opens a longer path
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
    """The permissions of an app's visitors.

    `folders`: local models and files must be inside these; `None`: anywhere. `uploads`: the folder
    of uploaded files, which is always allowed. `closed`: a folder in which nothing else may be
    named, as that of runs of people who do not see each other's. `space`: the id of the Hugging
    Face Space of a demo, else "". `logs_in`: visitors log in. `pushes`: with Hugging Face, so that
    they can upload with a token of their own. `answer_seconds`: time limit for all panes of one
    prompt; `None`: none.
    """

    may_train: bool = True
    may_upload: bool = True
    may_ask_hub: bool = True
    folders: tuple[Path, ...] | None = None
    uploads: Path | None = None
    closed: Path | None = None
    space: str = ""
    logs_in: bool = False
    pushes: bool = False
    answer_seconds: float | None = None

    @property
    def is_demo(self) -> bool:
        return not self.may_train

    def check_training(self) -> None:
        """Call before launching, ending, changing or removing anything. Raises `FtlabError`."""
        if not self.may_train:
            raise FtlabError(DEMO_REFUSAL)

    def check_upload(self) -> None:
        """Call before reading a visitor's file. Raises `FtlabError`."""
        if not self.may_upload:
            raise FtlabError(DEMO_REFUSAL)

    def check_model(self, name: str) -> None:
        """Raises `FtlabError` if a visitor may not use that model; opens no file."""
        if not isinstance(name, str):
            raise FtlabError("The model's name is no text; give one as in 'bundled'.")
        if name.strip() in _BUNDLED:
            return
        if self.folders is not None and (is_path(name) or self._is_closed(name)):
            self._check_path(name)
        elif not self.may_ask_hub:
            raise FtlabError(DEMO_ASKS_NOBODY)

    def check_task(self, task: TaskReference) -> None:
        """Raises `FtlabError` if a visitor may not use that data; opens no file."""
        if task.kind == "hub" and not self.may_ask_hub:
            raise FtlabError(DEMO_ASKS_NOBODY)
        if task.kind == "file" and task.id and self.folders is not None:
            self._check_path(task.id)

    def check_task_text(self, text: str) -> None:
        """`check_task` for the text form of the command line and the API, before it is parsed."""
        if not isinstance(text, str):
            raise FtlabError("The task is no text; name one as in 'sql'.")
        if text in TASKS:
            return
        if text.startswith("hub:"):
            self.check_task(TaskReference("hub", text.removeprefix("hub:")))
        elif is_path(text) or Path(text).suffix.lower() in EXTENSIONS:
            self.check_task(TaskReference("file", text))

    def _is_closed(self, text: str) -> bool:
        """Whether the name would lead into the closed folder, whether there is such a file or
        not: one that is not there gets the same answer."""
        return self.closed is not None and lies_within(text, (self.closed,))

    def _check_path(self, text: str) -> None:
        """Raises `FtlabError` if the path, with links resolved, is outside the allowed folders."""
        listed = tuple(self.folders or ())
        if self.uploads is not None and lies_within(text, (self.uploads,)):
            return
        if lies_within(text, listed) and not self._is_closed(text):
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
"""For loopback, where the visitor is the operator."""


DEMO_ANSWER_SECONDS = 5.0
"""Two CPU cores generate about a hundred tokens in this time."""


def demo_access(space: str = "") -> Access:
    """Returns the permissions of a public demo: view and try what ships with ftlab."""
    return Access(False, False, False, folders=(), space=space, answer_seconds=DEMO_ANSWER_SECONDS)


def is_path(text: str) -> bool:
    """Whether a name is a local path in the syntax of any operating system.

    The name of an existing file or folder is always a path, as in `parse_model`.
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
    except (OSError, ValueError):  # too long for a file name
        return False


def lies_within(text: str, folders: Iterable[Path]) -> bool:
    """Whether the path is inside one of the folders after resolving all links and `..`.

    `False` for "~", a NUL character, circular links, and paths in another system's syntax.
    """
    name = text.strip()
    if not name or name[0] == "~" or "\x00" in name or "\\" in name or _DRIVE.match(name):
        return False
    if len(str(name)) > _LONGEST_PATH:  # resolving a path of a million parts takes a minute
        return False
    try:
        try:
            real = Path(os.path.realpath(name, strict=True))
        except FileNotFoundError:
            real = Path(os.path.realpath(name))
        return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)
    except (OSError, ValueError):
        return False
