"""A reference to a task, as stored in run records and passed by page and command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from ftlab.basics.errors import FieldError, FtlabError
from ftlab.basics.files import person_path
from ftlab.basics.words import unknown_name
from ftlab.models.reference import is_owned_hub_id
from ftlab.settings.schema import Setting
from ftlab.tasks.files import (
    EXTENSIONS,
    ColumnMapping,
    check_file,
    check_mapping,
    columns_of,
    guess_mapping,
    list_columns,
    load_hub_rows,
    read_rows,
    to_task_data,
)
from ftlab.tasks.registry import TASKS, bundled_data, get_task
from ftlab.tasks.spec import (
    CHRF,
    TEXT_METRICS,
    TaskData,
    TaskMetric,
    TaskSpec,
    get_text_metric,
)

Kind = Literal["bundled", "file", "hub"]


@dataclass(frozen=True)
class TaskReference:
    """Where a task comes from.

    `id` is a bundled task's id, a file's absolute path or a data set's id. `mapping` (guessed if
    None), `metric` (chrF if None), `config` and `split` are only for files and the Hub. `seed`
    shuffles their rows; a bundled task has seed 0, which its examples were made with.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    kind: Kind
    id: str
    mapping: ColumnMapping | None = None
    metric: Annotated[
        str | None, Setting("Scored with", help="metric of a file or a Hub data set: "
                            f"{', '.join(TEXT_METRICS)}", empty="chrf", place="own"),
    ] = None  # fmt: skip
    config: Annotated[
        str | None, Setting("Config", help="config of a Hub data set", empty="none", place="own",
                            option="hub-config", example="NAME"),
    ] = None  # fmt: skip
    split: Annotated[
        str | None, Setting("Split", help="split of a Hub data set", empty="train", place="own",
                            option="hub-split", example="NAME"),
    ] = None  # fmt: skip
    seed: int = 0

    @property
    def label(self) -> str:
        """The display name: "SQL", "questions.csv", "owner/name"."""
        if self.kind == "bundled":
            return TASKS[self.id].label if self.id in TASKS else self.id
        return Path(self.id).name if self.kind == "file" else self.id

    def __str__(self) -> str:
        """The text that `parse_task` reads."""
        return f"hub:{self.id}" if self.kind == "hub" else self.id


def validate(reference: TaskReference) -> list[FieldError]:
    """Returns the wrong fields of a reference; reads no data and makes no network request."""
    errors = []
    if reference.kind not in get_args(Kind):
        sentence = unknown_name("kind of task", str(reference.kind), get_args(Kind))
        return [FieldError("task.kind", sentence)]
    problem = _problem_of_id(reference)
    if problem:
        errors.append(FieldError("task.id", problem))
    metrics = _metrics(reference)
    if reference.metric is not None and reference.metric not in metrics:
        sentence = unknown_name("metric", reference.metric, metrics)
        errors.append(FieldError("task.metric", sentence))
    if reference.mapping is not None and reference.kind != "bundled":
        wrong = check_mapping(reference.mapping)
        if wrong:
            errors.append(FieldError("task.mapping", wrong))
    if reference.seed < 0:
        sentence = f"The data seed is {reference.seed}; give 0 or more."
        errors.append(FieldError("task.seed", sentence))
    elif reference.seed and reference.kind == "bundled":
        sentence = (
            f"The data seed is {reference.seed}, but a bundled task has the examples of seed 0 "
            "alone; give 0, or a task file of your own."
        )
        errors.append(FieldError("task.seed", sentence))
    return errors


def _problem_of_id(reference: TaskReference) -> str | None:
    if reference.kind == "bundled":
        known = reference.id in TASKS
        return None if known else unknown_name("task", reference.id, TASKS)
    if reference.kind == "hub":
        fits = is_owned_hub_id(reference.id)
        return None if fits else f"'{reference.id[:120]}' is no data set id; write owner/name."
    try:
        check_file(person_path(reference.id))
    except FtlabError as error:
        return str(error)
    return None


def _metrics(reference: TaskReference) -> list[str]:
    if reference.kind == "bundled" and reference.id in TASKS:
        return [TASKS[reference.id].metric.key]
    return list(TEXT_METRICS)


def metric_of(reference: TaskReference) -> TaskMetric | None:
    """What the task is scored with; `None` for a task or a metric of another version of ftlab."""
    if reference.kind == "bundled":
        return TASKS[reference.id].metric if reference.id in TASKS else None
    return TEXT_METRICS.get(reference.metric or CHRF.key)


def load(reference: TaskReference) -> tuple[TaskSpec, TaskData]:
    """The task and its data. Raises `FtlabError` if it cannot be found, read or parsed."""
    errors = validate(reference)
    if errors:
        raise FtlabError(errors[0].message)
    if reference.kind == "bundled":
        task = get_task(reference.id)
        return task, bundled_data(task)
    if reference.kind == "file":
        rows = read_rows(reference.id)
    else:
        rows = load_hub_rows(reference.id, reference.config, reference.split)
    mapping = reference.mapping or guess_mapping(columns_of(rows), rows)
    sentence = check_mapping(mapping)
    if sentence:
        raise FtlabError(
            f"{sentence[:-1]} (on the command line --columns prompt=…,completion=…); "
            f"columns: {list_columns(columns_of(rows))}."
        )
    data = to_task_data(rows, mapping, reference.seed)
    task = TaskSpec(
        id=f"{reference.kind}:{reference.label}",
        label=reference.label,
        summary=f"{len(data.train):,} training examples from {reference.label}.",
        metric=get_text_metric(reference.metric),
    )
    return task, data


def parse_task(text: str) -> TaskReference:
    """Parses a command line argument: "sql", "questions.csv", "hub:owner/name".

    Raises `FtlabError` with a list of the bundled tasks for anything else.
    """
    if text in TASKS:
        return TaskReference("bundled", text)
    if text.startswith("hub:"):
        return TaskReference("hub", text.removeprefix("hub:"))
    path = person_path(text)
    if path.suffix.lower() in EXTENSIONS or path.is_file():
        return TaskReference("file", str(path.resolve()))
    known = unknown_name("task", text, TASKS)
    raise FtlabError(f"{known[:-1]}, a file ({', '.join(EXTENSIONS)}) or hub:owner/name.")


def with_columns(
    reference: TaskReference,
    columns: Mapping[str, str],
    metric: str | None = None,
    config: str | None = None,
    split: str | None = None,
) -> TaskReference:
    """The reference with `columns` set, as in {"prompt": "q", "completion": "a"}.

    Raises `FtlabError` for an unknown role, and for a bundled task, whose columns are fixed.
    """
    given = [name for name in (*columns, metric, config, split) if name]
    if not given:
        return reference
    if reference.kind == "bundled":
        raise FtlabError(
            f"The bundled task '{reference.id}' has its own columns and metric; "
            "name columns for a file or a Hub data set only."
        )
    roles = [field.name for field in fields(ColumnMapping)]
    for role in columns:
        if role not in roles:
            raise FtlabError(f"There is no column role '{role}'; roles: {', '.join(roles)}.")
    mapping = ColumnMapping(**{role: columns.get(role) or None for role in roles})
    return replace(
        reference,
        mapping=mapping if columns else reference.mapping,
        metric=metric or reference.metric,
        config=config or reference.config,
        split=split or reference.split,
    )
