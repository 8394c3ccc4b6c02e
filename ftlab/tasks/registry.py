"""The bundled tasks by id."""

from __future__ import annotations

from ftlab.errors import FtlabError
from ftlab.tasks.medical import MEDICAL
from ftlab.tasks.names import unknown_name
from ftlab.tasks.shakespeare import SHAKESPEARE
from ftlab.tasks.spec import TaskSpec
from ftlab.tasks.sql import SQL

TASKS: dict[str, TaskSpec] = {task.id: task for task in (SQL, SHAKESPEARE, MEDICAL)}


def get_task(task_id: str) -> TaskSpec:
    """The bundled task of that id; FtlabError with the nearest and all known ids otherwise."""
    if task_id not in TASKS:
        raise FtlabError(unknown_name("task", task_id, TASKS))
    return TASKS[task_id]
