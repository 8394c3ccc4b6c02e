"""The types of a task: what is learnt, and how an answer is scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]
Split = Literal["train", "tuning", "held_out"]


@dataclass(frozen=True)
class Message:
    """One turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True)
class Example:
    """One prompt with the completion to learn.

    `prompt` ends with a user's turn. `extra` holds what only the metric needs (for SQL the tables
    to run the query on); it is JSON and is never shown to the model.
    """

    prompt: tuple[Message, ...]
    completion: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def question(self) -> str:
        """The last turn of the prompt: what a list of examples shows."""
        return self.prompt[-1].content

    def to_json(self) -> dict[str, Any]:
        prompt = [{"role": m.role, "content": m.content} for m in self.prompt]
        return {"prompt": prompt, "completion": self.completion, "extra": dict(self.extra)}


@dataclass(frozen=True)
class TaskData:
    """The three sets of a task. `notes` are sentences to show (rows dropped, and why)."""

    train: tuple[Example, ...]
    tuning: tuple[Example, ...]
    held_out: tuple[Example, ...]
    notes: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """SHA-256 over every example in order: two runs on the same data share it."""
        digest = hashlib.sha256()
        for part in (self.train, self.tuning, self.held_out):
            for example in part:
                digest.update(json.dumps(example.to_json(), sort_keys=True).encode())
            digest.update(b"\x00")
        return digest.hexdigest()


SHOWN_ROWS = 8
"""How many rows of a result are kept to show."""


@dataclass(frozen=True)
class ResultTable:
    """The first rows of what a query gave; `more` counts those left out."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    more: int

    @classmethod
    def of(cls, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> ResultTable:
        """Keeps at most `SHOWN_ROWS` of the rows."""
        shown = tuple(rows[:SHOWN_ROWS])
        return cls(columns, shown, len(rows) - len(shown))


@dataclass(frozen=True)
class ResultTables:
    """What the reference gave beside what the answer's `query` gave.

    `found` is `None` where the answer has no query or its query failed; `error` then says why in a
    few words.
    """

    expected: ResultTable
    found: ResultTable | None
    error: str
    query: str


@dataclass(frozen=True)
class TaskMetric:
    """How an answer is scored.

    `score_each(examples, answers)` gives one score in [0, 1] an example, more is better; the task's
    score is their mean. `describe(example, answer)` says in a few words what became of one answer
    ("runs, equal"), or "" where there is nothing to say. `result_tables(example, answer)` runs both
    again to show what they give, `None` where nothing is run.
    """

    key: str
    label: str
    how: str
    score_each: Callable[[Sequence[Example], Sequence[str]], list[float]]
    describe: Callable[[Example, str], str] = lambda example, answer: ""
    result_tables: Callable[[Example, str], ResultTables | None] = lambda example, answer: None


MAX_NEW_TOKENS = 96
"""Tokens of an answer, at most, where the task does not say."""


@dataclass(frozen=True)
class TaskSpec:
    """A task: its name, what it is about, and how its answers are scored.

    The examples of a bundled task are the file `assets/tasks/<id>.jsonl`, whose SHA-256 is
    `sha256`; a task of a file or of the Hub has none. `place` orders the bundled tasks in lists,
    the smallest first.
    """

    id: str
    label: str
    summary: str
    metric: TaskMetric
    max_new_tokens: int = MAX_NEW_TOKENS
    sha256: str = ""
    place: int = 100
