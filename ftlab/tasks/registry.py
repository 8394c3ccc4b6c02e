"""The bundled tasks, one in each module of `ftlab.tasks.bundled`, and general text.

The general text consists of passages unrelated to these tasks: a model's loss on them before and
after fine-tuning shows how much general language ability it lost.
"""

from __future__ import annotations

import hashlib
import json
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import assets_folder
from ftlab.basics.words import unknown_name
from ftlab.tasks import bundled
from ftlab.tasks.spec import Example, Message, Split, TaskData, TaskSpec

_GENERAL_TEXT_SHA256 = "71e4f28de77d6ecc13dd050c9e179d4486f2ec70c44a90833b2377afaeb0be02"


def _found() -> list[TaskSpec]:
    names = [module.name for module in iter_modules(bundled.__path__)]
    tasks: list[TaskSpec] = [import_module(f"{bundled.__name__}.{name}").TASK for name in names]
    return sorted(tasks, key=lambda task: (task.place, task.id))


TASKS: dict[str, TaskSpec] = {task.id: task for task in _found()}
"""The bundled tasks by id."""


def get_task(task_id: str) -> TaskSpec:
    """The bundled task with that id; otherwise `FtlabError` with the nearest and all known ids."""
    if task_id not in TASKS:
        raise FtlabError(unknown_name("task", task_id, TASKS))
    return TASKS[task_id]


HELD_OUT_AT_FIRST = 200
"""Held-out examples of the bundled tasks before they grew. Runs from before are on the same data:
these come first, as they were, and a run scores the first ones."""


def shipped_file(name: str) -> Path:
    """The file of the bundled task with that id, or of "general_text"."""
    return assets_folder() / "tasks" / f"{name}.jsonl"


def bundled_data(task: TaskSpec) -> TaskData:
    """The examples of a bundled task: 2,400 for training, 200 for tuning and 1,000 held out.

    Raises `FtlabError` if the file is missing or its SHA-256 differs from the task's spec.
    """
    sets: dict[Split, list[Example]] = {"train": [], "tuning": [], "held_out": []}
    for row in _rows(task.id, task.sha256):
        prompt = (Message("user", row["prompt"]),)
        sets[row["split"]].append(Example(prompt, row["completion"], row.get("extra", {})))
    train, tuning, held_out = (tuple(examples) for examples in sets.values())
    return TaskData(train, tuning, held_out, told_by=HELD_OUT_AT_FIRST)


def general_passages() -> tuple[str, ...]:
    """The passages of general text: facts, dialogue, instructions, and text with numbers.

    They were written for ftlab, not copied. Raises `FtlabError` as `bundled_data` does.
    """
    return tuple(row["text"] for row in _rows("general_text", _GENERAL_TEXT_SHA256))


def general_fingerprint() -> str:
    """SHA-256 over the passages in order; losses on them are comparable only if it is equal."""
    return hashlib.sha256("\x00".join(general_passages()).encode()).hexdigest()


def _rows(name: str, sha256: str) -> list[dict[str, Any]]:
    path = shipped_file(name)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FtlabError(
            f"'{path}', which ships with ftlab, cannot be read ({error.strerror}); "
            "install ftlab again."
        ) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FtlabError(
            f"'{path}' has changed: its SHA-256 is not the one that ftlab names, so its results "
            "would compare with no others. Install ftlab again; to train on other examples, give "
            "them as a task file."
        )
    return [json.loads(line) for line in data.splitlines()]
