"""Makes the examples of the SQL task: a small table, a question about it, and its only query.

Each split (training, tuning, held-out) has its own tables, columns and labels, so the model learns
the form of the answer and not a table's name. The question contains the exact column names, so the
query never has to be guessed. The phrasings of a form are in three groups: for all splits, for
training and tuning, and for the held-out split only.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ftlab.tasks.spec import Example, Message, Split

Cell = int | str
Rows = list[list[Cell]]


@dataclass(frozen=True)
class Column:
    """A column: numbers in [low, high] if `values` is empty, else text.

    `unique`: each text value occurs in one row only.
    """

    name: str
    low: int = 0
    high: int = 0
    values: tuple[str, ...] = ()
    unique: bool = False

    @property
    def is_number(self) -> bool:
        return not self.values


@dataclass(frozen=True)
class Table:
    """A table with all its possible columns."""

    name: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Vocabulary:
    """The tables of one split, and the possible joins with their key column."""

    tables: tuple[Table, ...]
    joins: tuple[tuple[Table, Table, str], ...]


def _column(text: str, labels: Mapping[str, str]) -> Column:
    name, kind = text.split("=")
    if kind.startswith("@"):
        return Column(name, values=tuple(labels[kind[1:]].split()), unique=True)
    if kind[0].isdigit():
        low, high = kind.split("-")
        return Column(name, int(low), int(high))
    return Column(name, values=tuple(kind.split("|")))


def _columns(text: str, labels: Mapping[str, str]) -> tuple[Column, ...]:
    """Parses the columns of one line; the values of a category may contain spaces."""
    parts: list[str] = []
    for word in text.split():
        if "=" in word:
            parts.append(word)
        else:
            parts[-1] += f" {word}"
    return tuple(_column(part, labels) for part in parts)


@cache
def vocabulary(split: Split) -> Vocabulary:
    """Returns the tables and joins of a split; no table or column name is in two splits.

    The file has one line per table: `table: column=kind ...`. A kind is

    - `18-70`: whole numbers in that range, all different within one example,
    - `@person`, `@place`, `@title`, `@firm`: a label, different in each row, from the split's own
      `labels`, so that no name in a held-out row appears in training,
    - `a|b|c`: a category, whose values repeat.

    One line per join: `parent child key`; in a question on both tables, both have the column `key`.
    """
    words = json.loads(Path(__file__).with_name("sql_words.json").read_bytes())[split]
    tables = {}
    for line in words["tables"]:
        name, columns = line.split(":", 1)
        tables[name] = Table(name, _columns(columns, words["labels"]))
    joins = [line.split() for line in words["joins"]]
    return Vocabulary(
        tuple(tables.values()),
        tuple((tables[parent], tables[child], key) for parent, child, key in joins),
    )


@dataclass(frozen=True)
class Sheet:
    """A table as shown in one example: a subset of its columns in random order, with rows."""

    table: Table
    columns: tuple[Column, ...]
    rows: Rows

    def values(self, column: Column) -> list[Any]:
        """Returns the cells of one column, in row order."""
        position = self.columns.index(column)
        return [row[position] for row in self.rows]


@dataclass(frozen=True)
class Asker:
    """Makes the random choices of one example about one sheet, with the split's phrasings."""

    rng: random.Random
    sheet: Sheet
    split: Split

    def say(self, shared: Sequence[str], training: Sequence[str], held_out: Sequence[str]) -> str:
        own = held_out if self.split == "held_out" else training
        return self.rng.choice([*shared, *own])

    def number(self) -> Column:
        return self.rng.choice([c for c in self.sheet.columns if c.is_number])

    def text(self) -> Column:
        return self.rng.choice([c for c in self.sheet.columns if not c.is_number])

    def category(self) -> Column:
        return self.rng.choice([c for c in self.sheet.columns if c.values and not c.unique])

    def other(self, *used: Column) -> Column:
        return self.rng.choice([c for c in self.sheet.columns if c not in used])


Form = Callable[[Asker], tuple[str, str]]


def literal(value: Cell) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _comparison(ask: Asker, column: Column, row: int) -> tuple[str, str]:
    """The words and SQL of a condition on `column` that is true for that row, not for all rows."""
    values = ask.sheet.values(column)
    value = values[row]
    if not column.is_number:
        if ask.rng.random() < 0.15 and len(set(values)) > 1:
            other = ask.rng.choice(sorted(set(values) - {value}))
            return f"is not {other}", f"{column.name} != {literal(other)}"
        words = ask.say(["is"], ["equals"], ["is exactly"])
        return f"{words} {value}", f"{column.name} = {literal(value)}"
    ranked = sorted(values)
    position = ranked.index(value)
    choices = []
    if position > 0:
        choices += [(">", ranked[position - 1])] * 3 + [(">=", value)]
    if position < len(ranked) - 1:
        choices += [("<", ranked[position + 1])] * 3 + [("<=", value)]
    operator, bound = ask.rng.choice(choices)
    words = {
        ">": ask.say(["above", "more than"], ["over", "greater than"], ["higher than"]),
        "<": ask.say(["below", "less than"], ["under"], ["lower than"]),
        ">=": "at least",
        "<=": "at most",
    }[operator]
    return f"is {words} {bound}", f"{column.name} {operator} {bound}"


def _condition(ask: Asker, column: Column, row: int | None = None) -> tuple[str, str]:
    """A complete clause, such as "whose age is above 30" and `age > 30`."""
    row = ask.rng.randrange(len(ask.sheet.rows)) if row is None else row
    words, sql = _comparison(ask, column, row)
    link = ask.say(["whose", "where"], ["if the"], ["for which"])
    return f"{link} {column.name} {words}", sql


def filter_rows(ask: Asker) -> tuple[str, str]:
    tested = ask.other()
    shown = ask.other(tested)
    words, sql = _condition(ask, tested)
    name = ask.sheet.table.name
    phrase = ask.say(
        ["List the {c} of {t} {w}.", "What is the {c} of {t} {w}?", "Show the {c} of all {t} {w}."],
        ["Give the {c} of {t} {w}.", "Find the {c} for {t} {w}."],
        ["Return the {c} of {t} {w}.", "I need the {c} of {t} {w}."],
    )
    question = phrase.format(c=shown.name, t=name, w=words)
    return question, f"SELECT {shown.name} FROM {name} WHERE {sql}"


def two_columns(ask: Asker) -> tuple[str, str]:
    first = ask.other()
    second = ask.other(first)
    name = ask.sheet.table.name
    phrase = ask.say(
        ["List the {a} and {b} of {t}", "Show {a} and {b} of all {t}"],
        ["Give the {a} and {b} for {t}"],
        ["Return the {a} and {b} of {t}"],
    )
    words, sql = _condition(ask, ask.other(first, second))
    question = f"{phrase.format(a=first.name, b=second.name, t=name)} {words}."
    return question, f"SELECT {first.name}, {second.name} FROM {name} WHERE {sql}"


def count_rows(ask: Asker) -> tuple[str, str]:
    name = ask.sheet.table.name
    phrase = ask.say(
        ["How many {t} are there{w}?", "Count the {t}{w}."],
        ["Tell me how many {t} exist{w}.", "How many rows are in {t}{w}?"],
        ["What is the number of {t}{w}?", "Give a count of {t}{w}."],
    )
    if ask.rng.random() < 0.1:
        return phrase.format(t=name, w=""), f"SELECT COUNT(*) FROM {name}"
    words, sql = _condition(ask, ask.other())
    return phrase.format(t=name, w=f" {words}"), f"SELECT COUNT(*) FROM {name} WHERE {sql}"


_AGGREGATES = {
    "AVG": (["average"], ["mean"], ["average"]),
    "SUM": (["total"], ["sum of"], ["summed"]),
    "MAX": (["highest", "maximum"], ["largest"], ["greatest"]),
    "MIN": (["lowest", "minimum"], ["smallest"], ["least"]),
}


def aggregate(ask: Asker) -> tuple[str, str]:
    column = ask.number()
    function = ask.rng.choice(list(_AGGREGATES))
    word = ask.say(*_AGGREGATES[function])
    name = ask.sheet.table.name
    phrase = ask.say(
        ["What is the {f} {c} of {t}{w}?", "Find the {f} {c} of all {t}{w}."],
        ["Give the {f} {c} for {t}{w}.", "Compute the {f} {c} of {t}{w}."],
        ["Return the {f} {c} of {t}{w}.", "Tell me the {f} {c} of {t}{w}."],
    )
    query = f"SELECT {function}({column.name}) FROM {name}"
    if ask.rng.random() < 0.5:
        return phrase.format(f=word, c=column.name, t=name, w=""), query
    words, sql = _condition(ask, ask.other(column))
    question = phrase.format(f=word, c=column.name, t=name, w=f" {words}")
    return question, f"{query} WHERE {sql}"


def group_by(ask: Asker) -> tuple[str, str]:
    group = ask.category()
    name = ask.sheet.table.name
    if ask.rng.random() < 0.5:
        phrase = ask.say(
            ["How many {t} are there for each {g}?", "Count the {t} for each {g}."],
            ["Show each {g} with its number of {t}.", "Count {t} per {g}."],
            ["Give the number of {t} for each {g}.", "Return each {g} and how many {t} it has."],
        )
        query = f"SELECT {group.name}, COUNT(*) FROM {name} GROUP BY {group.name}"
        return phrase.format(t=name, g=group.name), query
    column = ask.number()
    function = ask.rng.choice(list(_AGGREGATES))
    word = ask.say(*_AGGREGATES[function])
    phrase = ask.say(
        ["What is the {f} {c} of {t} for each {g}?", "Show the {f} {c} of {t} for each {g}."],
        ["Give the {f} {c} of {t} per {g}.", "For each {g}, find the {f} {c} of {t}."],
        ["For each {g}, return the {f} {c} of {t}."],
    )
    question = phrase.format(f=word, c=column.name, t=name, g=group.name)
    aggregated = f"{function}({column.name})"
    return question, f"SELECT {group.name}, {aggregated} FROM {name} GROUP BY {group.name}"


def order_by(ask: Asker) -> tuple[str, str]:
    key = ask.number()
    shown = ask.other(key)
    name = ask.sheet.table.name
    down = ask.rng.random() < 0.5
    direction = (
        ask.say(["from high to low"], ["in descending order"], ["from highest to lowest"])
        if down
        else ask.say(["from low to high"], ["in ascending order"], ["from lowest to highest"])
    )
    phrase = ask.say(
        ["List the {c} of {t} ordered by {k} {d}.", "Show the {c} of all {t} sorted by {k} {d}."],
        ["Give the {c} of {t} sorted by {k} {d}."],
        ["Return the {c} of {t} ranked by {k} {d}."],
    )
    question = phrase.format(c=shown.name, t=name, k=key.name, d=direction)
    order = f"{key.name} DESC" if down else key.name
    return question, f"SELECT {shown.name} FROM {name} ORDER BY {order}"


def top_rows(ask: Asker) -> tuple[str, str]:
    key = ask.number()
    shown = ask.other(key)
    name = ask.sheet.table.name
    down = ask.rng.random() < 0.65
    count = ask.rng.choice([1, 1, 2, 3, 4, 5])
    most = (
        ask.say(["highest"], ["largest"], ["greatest"])
        if down
        else ask.say(["lowest"], ["smallest"], ["least"])
    )
    if count == 1:
        phrase = ask.say(
            ["Which {c} of {t} has the {m} {k}?", "Show the {c} of the {t} row with the {m} {k}."],
            ["What is the {c} of {t} with the {m} {k}?"],
            ["Return the {c} of {t} that has the {m} {k}."],
        )
    else:
        phrase = ask.say(
            ["List the {c} of the {n} {t} with the {m} {k}."],
            ["Show the {n} {t} with the {m} {k}, only the {c}."],
            ["Return the {c} of the {n} {t} having the {m} {k}."],
        )
    question = phrase.format(c=shown.name, t=name, m=most, k=key.name, n=count)
    order = f"{key.name} DESC" if down else key.name
    return question, f"SELECT {shown.name} FROM {name} ORDER BY {order} LIMIT {count}"


def distinct(ask: Asker) -> tuple[str, str]:
    column = ask.category()
    name = ask.sheet.table.name
    if ask.rng.random() < 0.35:
        phrase = ask.say(
            ["How many different {c} values are in {t}?"],
            ["Count the distinct {c} values of {t}."],
            ["How many distinct {c} values do {t} have?"],
        )
        query = f"SELECT COUNT(DISTINCT {column.name}) FROM {name}"
    else:
        phrase = ask.say(
            ["List the different {c} values of {t}.", "What are the distinct {c} values of {t}?"],
            ["Show every distinct {c} of {t} once."],
            ["Return the unique {c} values of {t}."],
        )
        query = f"SELECT DISTINCT {column.name} FROM {name}"
    return phrase.format(c=column.name, t=name), query


def two_conditions(ask: Asker) -> tuple[str, str]:
    first = ask.other()
    second = ask.other(first)
    row = ask.rng.randrange(len(ask.sheet.rows))
    name = ask.sheet.table.name
    words, sql = _condition(ask, first, row)
    more_words, more_sql = _comparison(ask, second, row)
    joint = ask.rng.choice(["and", "and", "or"])
    where = f"{name} WHERE {sql} {joint.upper()} {more_sql}"
    clause = f"{words} {joint} {second.name} {more_words}"
    if len(ask.sheet.columns) == 2 or ask.rng.random() < 0.4:
        phrase = ask.say(
            ["How many {t} are there {w}?"], ["Count the {t} {w}."], ["Count {t} {w}."]
        )
        return phrase.format(t=name, w=clause), f"SELECT COUNT(*) FROM {where}"
    shown = ask.other(first, second)
    phrase = ask.say(
        ["List the {c} of {t} {w}."], ["Show the {c} of {t} {w}."], ["Return the {c} of {t} {w}."]
    )
    return phrase.format(c=shown.name, t=name, w=clause), f"SELECT {shown.name} FROM {where}"


def like(ask: Asker) -> tuple[str, str]:
    column = ask.text()
    shown = ask.other(column)
    name = ask.sheet.table.name
    value = str(ask.rng.choice(ask.sheet.values(column)))
    kind = ask.rng.choice(["starts with", "ends with", "contains"])
    length = min(ask.rng.choice([1, 2, 3]), len(value))
    if kind == "starts with":
        part = value[:length]
        pattern = f"{part}%"
    elif kind == "ends with":
        part = value[-length:]
        pattern = f"%{part}"
    else:
        start = ask.rng.randrange(len(value) - length + 1)
        part = value[start : start + length].strip() or value[:1]
        pattern = f"%{part}%"
    phrase = ask.say(
        ["List the {s} of {t} whose {c} {k} '{p}'.", "Show the {s} of {t} where {c} {k} '{p}'."],
        ["Give the {s} of {t} whose {c} {k} '{p}'."],
        ["Return the {s} of {t} whose {c} {k} '{p}'."],
    )
    question = phrase.format(s=shown.name, t=name, c=column.name, k=kind, p=part)
    return question, f"SELECT {shown.name} FROM {name} WHERE {column.name} LIKE '{pattern}'"


def between(ask: Asker) -> tuple[str, str]:
    column = ask.number()
    name = ask.sheet.table.name
    low, high = sorted(ask.rng.sample(ask.sheet.values(column), 2))
    where = f"FROM {name} WHERE {column.name} BETWEEN {low} AND {high}"
    clause = f"{column.name} is between {low} and {high}"
    if ask.rng.random() < 0.4:
        phrase = ask.say(
            ["How many {t} are there where {w}?"],
            ["Count the {t} whose {w}."],
            ["Count {t} if {w}."],
        )
        return phrase.format(t=name, w=clause), f"SELECT COUNT(*) {where}"
    shown = ask.other(column)
    phrase = ask.say(
        ["List the {s} of {t} whose {w}."],
        ["Show the {s} of {t} where {w}."],
        ["Return the {s} of {t} whose {w}."],
    )
    return phrase.format(s=shown.name, t=name, w=clause), f"SELECT {shown.name} {where}"


def against_average(ask: Asker) -> tuple[str, str]:
    column = ask.number()
    shown = ask.other(column)
    name = ask.sheet.table.name
    operator = ask.rng.choice("><")
    side = "above" if operator == ">" else "below"
    phrase = ask.say(
        ["List the {s} of {t} whose {c} is {o} the average {c}."],
        ["Show the {s} of {t} where {c} is {o} average."],
        ["Return the {s} of {t} whose {c} is {o} average."],
    )
    question = phrase.format(s=shown.name, t=name, c=column.name, o=side)
    average = f"(SELECT AVG({column.name}) FROM {name})"
    return question, f"SELECT {shown.name} FROM {name} WHERE {column.name} {operator} {average}"


FORMS: dict[Form, int] = {
    filter_rows: 18,
    two_columns: 5,
    count_rows: 13,
    aggregate: 14,
    group_by: 9,
    order_by: 7,
    top_rows: 9,
    distinct: 6,
    two_conditions: 7,
    like: 5,
    between: 5,
    against_average: 2,
}
"""The forms for questions on one table, with their weights."""

JOIN_SHARE = 0.06
_FORMS = list(FORMS)
_WEIGHTS = list(FORMS.values())


def _cells(rng: random.Random, column: Column, count: int) -> list[Cell]:
    if column.is_number:
        # Unique values, so that an ORDER BY has only one correct answer.
        return list(rng.sample(range(column.low, column.high + 1), count))
    if column.unique:
        return list(rng.sample(column.values, count))
    # Use every category value once before repeating, so that a condition never matches all rows.
    cells = [*column.values, *rng.choices(column.values, k=count)][:count]
    rng.shuffle(cells)
    return list(cells)


def _sheet(rng: random.Random, table: Table, size: int, columns: tuple[Column, ...] = ()) -> Sheet:
    """A sheet of `size` columns in random order, with at least one number and one category."""
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


def make(rng: random.Random, split: Split) -> Example:
    return _join(rng, split) if rng.random() < JOIN_SHARE else _single(rng, split)
