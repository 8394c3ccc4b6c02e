"""The SQL task: a table's columns and a question in, one SQLite query out.

Training, tuning and held-out questions use tables, columns and labels of their own, so what is
learnt is the form of the answer and not a table's name.
"""

from __future__ import annotations

import random
from typing import Any

from ftlab.tasks.spec import Example, Message, TaskData, TaskSpec
from ftlab.tasks.splits import collect
from ftlab.tasks.sql_questions import FORMS, Asker, Cell, Sheet
from ftlab.tasks.sql_schemas import Column, Split, Table, vocabulary
from ftlab.tasks.sql_scoring import EXECUTION_MATCH

JOIN_SHARE = 0.06
_FORMS = list(FORMS)
_WEIGHTS = list(FORMS.values())


def _cells(rng: random.Random, column: Column, count: int) -> list[Cell]:
    if column.is_number:
        # All different, so that an ORDER BY has one right answer.
        return list(rng.sample(range(column.low, column.high + 1), count))
    if column.unique:
        return list(rng.sample(column.values, count))
    # Each category once before any repeats: a condition on it then always divides the rows.
    cells = [*column.values, *rng.choices(column.values, k=count)][:count]
    rng.shuffle(cells)
    return list(cells)


def _sheet(rng: random.Random, table: Table, size: int, columns: tuple[Column, ...] = ()) -> Sheet:
    """A sheet of `size` columns of the table in random order, always with a number and a text."""
    chosen = columns
    while not chosen:
        sample = rng.sample(table.columns, min(size, len(table.columns)))
        if any(c.is_number for c in sample) and any(c.values and not c.unique for c in sample):
            chosen = tuple(sample)
    count = rng.randint(8, 14)
    by_column = [_cells(rng, column, count) for column in chosen]
    return Sheet(table, chosen, [list(row) for row in zip(*by_column, strict=True)])


def _header(name: str, columns: list[str]) -> str:
    return f"Table {name}({', '.join(columns)})."


def _create(sheet: Sheet, key: str = "") -> str:
    columns = [f"{c.name} {'INTEGER' if c.is_number else 'TEXT'}" for c in sheet.columns]
    return (
        f"CREATE TABLE {sheet.table.name} ({', '.join([f'{key} INTEGER'] * bool(key) + columns)})"
    )


def _example(prompt: str, query: str, extra: dict[str, Any]) -> Example:
    return Example((Message("user", prompt),), query, extra)


def _single(rng: random.Random, split: Split) -> Example:
    table = rng.choice(vocabulary(split).tables)
    sheet = _sheet(rng, table, rng.choice([3, 3, 4]))
    form = rng.choices(_FORMS, _WEIGHTS)[0]
    question, query = form(Asker(rng, sheet, split))
    header = _header(table.name, [c.name for c in sheet.columns])
    extra = {"schema": [_create(sheet)], "rows": {table.name: sheet.rows}}
    return _example(f"{header} {question}", query, extra)


def _join(rng: random.Random, split: Split) -> Example:
    parent, child, key = rng.choice(vocabulary(split).joins)
    common = {c.name for c in parent.columns} & {c.name for c in child.columns}
    left = rng.choice([c for c in parent.columns if c.name not in common])
    right = rng.choice([c for c in child.columns if c.name not in common])
    parents, children = _sheet(rng, parent, 1, (left,)), _sheet(rng, child, 1, (right,))
    keys = rng.sample(range(1, 100), len(parents.rows))
    shown, other = (left, right) if rng.random() < 0.5 else (right, left)
    ask = Asker(rng, parents, split)
    question = ask.say(
        ["Join {p} with {c} on {k} and list {a} and {b}."],
        ["Join {p} and {c} by {k}, show {a} and {b}."],
        ["Join {p} to {c} on {k} and return {a} and {b}."],
    ).format(p=parent.name, c=child.name, k=key, a=shown.name, b=other.name)
    query = f"SELECT {shown.name}, {other.name} FROM {parent.name} JOIN {child.name} USING ({key})"
    headers = [_header(t.name, [key, c.name]) for t, c in ((parent, left), (child, right))]
    extra = {
        "schema": [_create(parents, key), _create(children, key)],
        "rows": {
            parent.name: [[k, *row] for k, row in zip(keys, parents.rows, strict=True)],
            child.name: [[rng.choice(keys), *row] for row in children.rows],
        },
    }
    return _example(" ".join([*headers, question]), query, extra)


def _make(rng: random.Random, split: Split) -> Example:
    return _join(rng, split) if rng.random() < JOIN_SHARE else _single(rng, split)


def load(seed: int) -> TaskData:
    """The task's data for a seed: 2,400 training, 200 tuning and 200 held-out examples."""
    return collect(seed, "sql", _make)


SQL = TaskSpec(
    id="sql",
    label="SQL",
    summary="A table's columns and a question in, one SQLite query out, scored by running it.",
    metric=EXECUTION_MATCH,
    load=load,
    max_new_tokens=48,
)
