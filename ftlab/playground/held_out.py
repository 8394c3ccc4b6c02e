"""Finds the test example of a known task that equals a prompt, and scores answers to it.

Nothing here uses the network: tasks of the Hub are skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from ftlab.basics.errors import FtlabError
from ftlab.basics.recent import Recent
from ftlab.tasks.reference import TaskReference, load
from ftlab.tasks.registry import TASKS
from ftlab.tasks.spec import Example, ResultTables, TaskSpec

_Version = tuple[int, int] | None
"""Modification time in nanoseconds and size in bytes of a task's file; `None` without a file."""


@dataclass(frozen=True)
class HeldOutExample:
    """An example that is not used in training. `label` is its task's name to show."""

    task: TaskSpec
    example: Example
    label: str


@dataclass(frozen=True)
class AnswerScore:
    """The score of one answer.

    `score` is in [0, 1], higher is better; `metric` is the metric's label. `verdict` describes the
    result in a few words, "" if the score is enough. `tables` holds the results of reference and
    answer if the task executes them.
    """

    score: float
    metric: str
    verdict: str
    tables: ResultTables | None


_Loaded = tuple[TaskSpec | None, dict[str, Example]]
"""A task (`None`: it cannot be loaded) and its test examples by their last turn."""


class HeldOut:
    """Caches the test examples of the `most` recently used tasks.

    The app creates one object; its threads share it. A file is read again if it has changed.
    """

    def __init__(self, most: int = 32) -> None:
        self._tasks: Recent[TaskReference, tuple[_Version, _Loaded]] = Recent(most)
        self._lock = Lock()

    def find(self, prompt: str, tasks: Sequence[TaskReference]) -> HeldOutExample | None:
        """Returns the example whose last turn equals `prompt`; outer white space is ignored.

        Searches the given tasks in order, then the bundled ones; skips tasks that cannot be loaded.
        """
        bundled = [TaskReference("bundled", task_id) for task_id in TASKS]
        for reference in dict.fromkeys([*tasks, *bundled]):
            task, examples = self._load(reference)
            example = examples.get(prompt.strip())
            if task is not None and example is not None:
                return HeldOutExample(task, example, reference.label)
        return None

    def prompts(self, task: TaskReference, count: int) -> list[str]:
        """Returns the first `count` test prompts; empty if the task cannot be loaded."""
        return list(self._load(task)[1])[:count]

    @staticmethod
    def score(found: HeldOutExample, answer: str) -> AnswerScore:
        """Scores one answer as a run's evaluation does."""
        metric, example = found.task.metric, found.example
        return AnswerScore(
            score=metric.score(example, answer),
            metric=metric.label,
            verdict=metric.describe(example, answer),
            tables=metric.result_tables(example, answer),
        )

    def _load(self, reference: TaskReference) -> _Loaded:
        with self._lock:  # two threads that want the same large file read it once
            version = _version(reference)
            known, loaded = self._tasks.get(reference, (None, None))
            if loaded is None or known != version:
                loaded = _read(reference, version)
            self._tasks[reference] = version, loaded
            return loaded


def _version(reference: TaskReference) -> _Version:
    if reference.kind != "file":
        return None
    try:
        found = Path(reference.id).stat()
    except (OSError, ValueError):  # ValueError: a path with a null character
        return None
    return found.st_mtime_ns, found.st_size


def _read(reference: TaskReference, version: _Version) -> _Loaded:
    if reference.kind == "hub" or (reference.kind == "file" and version is None):
        return None, {}
    try:
        task, data = load(reference)
    except (FtlabError, OSError):
        return None, {}
    examples: dict[str, Example] = {}
    for example in data.held_out:
        examples.setdefault(example.question.strip(), example)
    return task, examples
