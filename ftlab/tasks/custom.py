"""Turns rows of a file or a Hub data set into a task's three sets of examples."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ftlab.errors import FtlabError
from ftlab.tasks.files import list_columns
from ftlab.tasks.spec import Example, Message, Role, TaskData

MIN_EXAMPLES = 3
"""One example for each of the three sets."""
MAX_EVALUATION = 200
EVALUATION_SHARE = 0.1

_PROMPT_NAMES = ("prompt", "question", "instruction", "input", "query", "source", "text")
_COMPLETION_NAMES = ("completion", "answer", "output", "response", "target", "summary", "sql")
_MESSAGES_NAMES = ("messages", "conversations", "conversation", "chat")
_SYSTEM_NAMES = ("system", "system_prompt")
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


@dataclass(frozen=True)
class ColumnMapping:
    """Which columns hold what: `prompt` and `completion`, or `messages` with a chat.

    `system` is a column with the system message, if there is one.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    prompt: str | None = None
    completion: str | None = None
    messages: str | None = None
    system: str | None = None


def guess_mapping(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> ColumnMapping:
    """The mapping that the names and the first rows suggest; None where nothing fits.

    A column of chats wins over prompt and completion. Names that say nothing are not guessed at:
    training on the wrong column costs more than naming the right one.
    """
    by_name = {column.lower(): column for column in reversed(columns)}

    def first(names: Sequence[str]) -> str | None:
        return next((by_name[name] for name in names if name in by_name), None)

    system = first(_SYSTEM_NAMES)
    chats = [by_name[name] for name in _MESSAGES_NAMES if name in by_name]
    for column in [*chats, *columns]:
        if any(_turns(row.get(column)) for row in rows[:20]):
            return ColumnMapping(messages=column, system=system)
    prompt, completion = first(_PROMPT_NAMES), first(_COMPLETION_NAMES)
    return ColumnMapping(prompt=prompt, completion=completion, system=system)


def check_mapping(mapping: ColumnMapping) -> str | None:
    """The sentence for a mapping that says too little or two things; None if it is fine."""
    if mapping.messages and (mapping.prompt or mapping.completion):
        return "Columns are set for both messages and prompt or completion; keep one of the two."
    if mapping.messages or (mapping.prompt and mapping.completion):
        return None
    missing = "completion" if mapping.prompt else "prompt"
    return f"No column is set for the {missing}; choose one, or a column of chat messages."


def to_task_data(rows: Sequence[Mapping[str, Any]], mapping: ColumnMapping, seed: int) -> TaskData:
    """The three sets, shuffled by `seed`; a prompt is in one set only.

    Tuning and held-out set each get a tenth, from 1 to 200 examples. Notes count the dropped rows.
    Raises FtlabError for a column that is missing or empty, and for fewer than 3 usable rows.
    """
    sentence = check_mapping(mapping)
    if sentence:
        raise FtlabError(sentence)
    _check_columns(rows, mapping)
    examples: list[Example] = []
    prompts: set[tuple[Message, ...]] = set()
    unusable = repeated = 0
    for row in rows:
        example = _example(row, mapping)
        if example is None:
            unusable += 1
        elif example.prompt in prompts:
            repeated += 1
        else:
            prompts.add(example.prompt)
            examples.append(example)
    if len(examples) < MIN_EXAMPLES:
        raise FtlabError(_too_few(len(examples), len(rows)))
    random.Random(f"custom/{seed}").shuffle(examples)
    size = min(MAX_EVALUATION, max(1, round(len(examples) * EVALUATION_SHARE)))
    return TaskData(
        train=tuple(examples[2 * size :]),
        tuning=tuple(examples[size : 2 * size]),
        held_out=tuple(examples[:size]),
        notes=_notes(mapping, unusable, repeated),
    )


def _too_few(usable: int, rows: int) -> str:
    needed = (
        f"at least {MIN_EXAMPLES} are needed, one each for training, tuning and scoring, so add "
        "some."
    )
    if usable == rows:
        return f"The data have only {_count(rows)}; {needed}"
    if not usable:
        return f"None of the {_count(rows)} has both a prompt and a completion; {needed}"
    what = "has a prompt of its own" if usable == 1 else "have prompts of their own"
    return f"Only {usable:,} of the {_count(rows)} {what} and a completion; {needed}"


def _notes(mapping: ColumnMapping, unusable: int, repeated: int) -> tuple[str, ...]:
    notes = []
    if unusable:
        what = "a chat that ends with an answer" if mapping.messages else "a prompt or a completion"
        notes.append(f"{_count(unusable)} without {what} left out.")
    if repeated:
        notes.append(f"{_count(repeated)} with a prompt that came before left out.")
    return tuple(notes)


def _count(rows: int) -> str:
    return "1 row" if rows == 1 else f"{rows:,} rows"


def _check_columns(rows: Sequence[Mapping[str, Any]], mapping: ColumnMapping) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for column in (mapping.prompt, mapping.completion, mapping.messages, mapping.system):
        if column is None:
            continue
        if column not in columns:
            raise FtlabError(
                f"task file has no column '{column[:80]}'; columns: {list_columns(columns)}."
            )
        if column != mapping.system and not any(_cell(row.get(column)) for row in rows):
            raise FtlabError(f"Column '{column}' is empty in every row; choose another column.")


def _example(row: Mapping[str, Any], mapping: ColumnMapping) -> Example | None:
    """The example of a row, or None where prompt or completion is missing."""
    if mapping.messages:
        turns = _turns(row.get(mapping.messages))
        while turns and turns[-1].role != "assistant":
            turns.pop()
        if len(turns) < 2 or turns[-2].role != "user":
            return None
        prompt, completion = turns[:-1], turns[-1].content
    else:
        question = _cell(row.get(mapping.prompt or ""))
        completion = _cell(row.get(mapping.completion or ""))
        if not question or not completion:
            return None
        prompt = [Message("user", question)]
    system = _cell(row.get(mapping.system)) if mapping.system else ""
    if system and prompt[0].role != "system":
        prompt.insert(0, Message("system", system))
    return Example(tuple(prompt), completion)


def _turns(value: Any) -> list[Message]:
    """The turns of a chat: a list of {"role", "content"} or {"from", "value"}, or its JSON text.

    Empty where it is no such chat, or a turn has an unknown role or no text.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    if not isinstance(value, list | tuple):
        return []
    turns = []
    for item in value:
        if not isinstance(item, Mapping):
            return []
        role = _ROLES.get(str(item.get("role", item.get("from", ""))).lower())
        content = item.get("content", item.get("value"))
        if role is None or not isinstance(content, str) or not content.strip():
            return []
        turns.append(Message(role, content.strip()))
    return turns


def _cell(value: Any) -> str:
    """A cell as text without white space around it; "" for None and NaN."""
    if value is None or value != value:  # NaN is the one value that differs from itself
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str) if value else ""
    return str(value)
