"""Makes the examples of the SQL task: a small table, a question about it, and its only query.

Each split (training, tuning, held-out) has its own tables, columns and labels, so the model learns
the form of the answer and not a table's name. The question contains the exact column names, so the
query never has to be guessed. The held-out split also has phrasings of its own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ftlab.tasks.spec import Example, Message, Split

Cell = int | str
Rows = list[list[Cell]]


@dataclass(frozen=True)
class Column:
    """Numbers in [low, high], or text from `values`; a `unique` text is in one row only."""

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


@cache
def phrases() -> dict[str, list[list[str]]]:
    """Returns the phrasings: for all splits, for training and tuning, and for held-out only."""
    phrasings: dict[str, list[list[str]]] = json.loads(
        Path(__file__).with_name("sql_phrases.json").read_bytes()
    )
    return phrasings


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

    @property
    def name(self) -> str:
        return self.sheet.table.name

    def say(self, what: str, **values: object) -> str:
        """Chooses a phrasing from sql_phrases.json and fills in the values; `t` is the table."""
        shared, training, held_out = phrases()[what]
        own = held_out if self.split == "held_out" else training
        return self.rng.choice([*shared, *own]).format(t=self.name, **values)

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
        words = ask.say("equal")
        return f"{words} {value}", f"{column.name} = {literal(value)}"
    ranked = sorted(values)
    position = ranked.index(value)
    choices = []
    if position > 0:
        choices += [(">", ranked[position - 1])] * 3 + [(">=", value)]
    if position < len(ranked) - 1:
        choices += [("<", ranked[position + 1])] * 3 + [("<=", value)]
    operator, bound = ask.rng.choice(choices)
    above, below = ask.say("above"), ask.say("below")
    words = {">": above, "<": below, ">=": "at least", "<=": "at most"}[operator]
    return f"is {words} {bound}", f"{column.name} {operator} {bound}"


def _condition(ask: Asker, column: Column, row: int | None = None) -> tuple[str, str]:
    """A complete clause, such as "whose age is above 30" and `age > 30`."""
    row = ask.rng.randrange(len(ask.sheet.rows)) if row is None else row
    words, sql = _comparison(ask, column, row)
    link = ask.say("condition")
    return f"{link} {column.name} {words}", sql


def filter_rows(ask: Asker) -> tuple[str, str]:
    tested = ask.other()
    shown = ask.other(tested)
    words, sql = _condition(ask, tested)
    question = ask.say("filter", c=shown.name, w=words)
    return question, f"SELECT {shown.name} FROM {ask.name} WHERE {sql}"


def two_columns(ask: Asker) -> tuple[str, str]:
    first = ask.other()
    second = ask.other(first)
    question = ask.say("two columns", a=first.name, b=second.name)
    words, sql = _condition(ask, ask.other(first, second))
    query = f"SELECT {first.name}, {second.name} FROM {ask.name} WHERE {sql}"
    return f"{question} {words}.", query


def count_rows(ask: Asker) -> tuple[str, str]:
    phrase = ask.say("count", w="{w}")
    query = f"SELECT COUNT(*) FROM {ask.name}"
    if ask.rng.random() < 0.1:
        return phrase.format(w=""), query
    words, sql = _condition(ask, ask.other())
    return phrase.format(w=f" {words}"), f"{query} WHERE {sql}"


_AGGREGATES = ("AVG", "SUM", "MAX", "MIN")


def aggregate(ask: Asker) -> tuple[str, str]:
    column = ask.number()
    function = ask.rng.choice(_AGGREGATES)
    phrase = ask.say("aggregate", f=ask.say(function), c=column.name, w="{w}")
    query = f"SELECT {function}({column.name}) FROM {ask.name}"
    if ask.rng.random() < 0.5:
        return phrase.format(w=""), query
    words, sql = _condition(ask, ask.other(column))
    return phrase.format(w=f" {words}"), f"{query} WHERE {sql}"


def group_by(ask: Asker) -> tuple[str, str]:
    group = ask.category().name
    if ask.rng.random() < 0.5:
        question, counted = ask.say("count per group", g=group), "COUNT(*)"
    else:
        column, function = ask.number(), ask.rng.choice(_AGGREGATES)
        counted = f"{function}({column.name})"
        question = ask.say("aggregate per group", f=ask.say(function), c=column.name, g=group)
    return question, f"SELECT {group}, {counted} FROM {ask.name} GROUP BY {group}"


def order_by(ask: Asker) -> tuple[str, str]:
    key = ask.number()
    shown = ask.other(key)
    down = ask.rng.random() < 0.5
    direction = ask.say("descending" if down else "ascending")
    question = ask.say("order", c=shown.name, k=key.name, d=direction)
    order = f"{key.name} DESC" if down else key.name
    return question, f"SELECT {shown.name} FROM {ask.name} ORDER BY {order}"


def top_rows(ask: Asker) -> tuple[str, str]:
    key = ask.number()
    shown = ask.other(key)
    down = ask.rng.random() < 0.65
    count = ask.rng.choice([1, 1, 2, 3, 4, 5])
    most = ask.say("most" if down else "least")
    phrase = "top row" if count == 1 else "top rows"
    question = ask.say(phrase, c=shown.name, m=most, k=key.name, n=count)
    order = f"{key.name} DESC" if down else key.name
    return question, f"SELECT {shown.name} FROM {ask.name} ORDER BY {order} LIMIT {count}"


def distinct(ask: Asker) -> tuple[str, str]:
    column = ask.category().name
    if ask.rng.random() < 0.35:
        query = f"SELECT COUNT(DISTINCT {column}) FROM {ask.name}"
        return ask.say("count distinct", c=column), query
    return ask.say("distinct", c=column), f"SELECT DISTINCT {column} FROM {ask.name}"


def two_conditions(ask: Asker) -> tuple[str, str]:
    first = ask.other()
    second = ask.other(first)
    row = ask.rng.randrange(len(ask.sheet.rows))
    words, sql = _condition(ask, first, row)
    more_words, more_sql = _comparison(ask, second, row)
    joint = ask.rng.choice(["and", "and", "or"])
    where = f"FROM {ask.name} WHERE {sql} {joint.upper()} {more_sql}"
    clause = f"{words} {joint} {second.name} {more_words}"
    if len(ask.sheet.columns) == 2 or ask.rng.random() < 0.4:
        return ask.say("count matching", w=clause), f"SELECT COUNT(*) {where}"
    shown = ask.other(first, second).name
    return ask.say("matching", c=shown, w=clause), f"SELECT {shown} {where}"


def like(ask: Asker) -> tuple[str, str]:
    column = ask.text()
    shown = ask.other(column).name
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
    question = ask.say("like", s=shown, c=column.name, k=kind, p=part)
    return question, f"SELECT {shown} FROM {ask.name} WHERE {column.name} LIKE '{pattern}'"


def between(ask: Asker) -> tuple[str, str]:
    column = ask.number()
    low, high = sorted(ask.rng.sample(ask.sheet.values(column), 2))
    where = f"FROM {ask.name} WHERE {column.name} BETWEEN {low} AND {high}"
    clause = f"{column.name} is between {low} and {high}"
    if ask.rng.random() < 0.4:
        return ask.say("count between", w=clause), f"SELECT COUNT(*) {where}"
    shown = ask.other(column).name
    return ask.say("between", s=shown, w=clause), f"SELECT {shown} {where}"


def against_average(ask: Asker) -> tuple[str, str]:
    number = ask.number()
    column, shown = number.name, ask.other(number).name
    operator = ask.rng.choice("><")
    side = "above" if operator == ">" else "below"
    question = ask.say("against average", s=shown, c=column, o=side)
    average = f"(SELECT AVG({column}) FROM {ask.name})"
    return question, f"SELECT {shown} FROM {ask.name} WHERE {column} {operator} {average}"


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
    question = ask.say("join", p=parent.name, c=child.name, k=key, a=shown.name, b=other.name)
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
