"""The SQL task: unseen tables, the score, and containment of hostile queries."""

from __future__ import annotations

import re
import resource
import time
from functools import cache

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.tasks.bundled.sql import (
    EXECUTION_MATCH,
    MAX_SECONDS,
    describe,
    extract_query,
    result_tables,
    run_query,
)
from ftlab.tasks.registry import bundled_data, get_task
from ftlab.tasks.spec import SHOWN_ROWS, Example, Message, ResultTable, TaskData

SINGERS = Example(
    (Message("user", "Table singers(name, age). How many singers are over 30?"),),
    "SELECT COUNT(*) FROM singers WHERE age > 30",
    {
        "schema": ["CREATE TABLE singers (name TEXT, age INTEGER)"],
        "rows": {"singers": [["Ann", 20], ["Bo", 31], ["Cy", 40], ["Di", 30]]},
    },
)
SORTED = Example(SINGERS.prompt, "SELECT name FROM singers ORDER BY age", SINGERS.extra)
NAMES = Example(SINGERS.prompt, "SELECT name FROM singers", SINGERS.extra)


@cache
def data() -> TaskData:
    return bundled_data(get_task("sql"))


def names(examples: tuple[Example, ...]) -> set[str]:
    """All table and column names that the examples' prompts show."""
    headers = [h for e in examples for h in re.findall(r"Table (\w+)\(([^)]*)\)", e.question)]
    return {name for table, columns in headers for name in [table, *columns.split(", ")]}


def test_held_out_and_tuning_tables_and_columns_are_unseen() -> None:
    train, tuning, held_out = (names(s) for s in (data().train, data().tuning, data().held_out))
    assert not train & held_out
    assert not train & tuning
    assert not tuning & held_out


def test_every_reference_query_runs_and_equals_itself() -> None:
    examples = data().train + data().tuning + data().held_out
    scores = EXECUTION_MATCH.score_each(examples, [e.completion for e in examples])
    assert min(scores) == 1.0


def test_almost_every_reference_result_has_rows() -> None:
    empty = sum(not run_query(e, e.completion)[1] for e in data().train)
    assert empty / len(data().train) < 0.02


def test_all_rows_of_the_table_are_seldom_the_right_answer() -> None:
    examples = data().held_out
    everything = [f"SELECT * FROM {next(iter(e.extra['rows']))}" for e in examples]
    assert sum(EXECUTION_MATCH.score_each(examples, everything)) / len(examples) < 0.02


def test_joins_are_a_small_minority() -> None:
    joins = sum(" JOIN " in e.completion for e in data().train)
    assert 0.02 < joins / len(data().train) < 0.1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("SELECT COUNT(*) FROM singers WHERE age > 30", "runs, equal"),
        ("select count(name) from singers where age >= 31;", "runs, equal"),
        ("```sql\nSELECT COUNT(*)\nFROM singers\nWHERE age > 30;\n```\nIt counts.", "runs, equal"),
        ("The query is:\nSELECT COUNT(*) FROM singers WHERE age > 30\n\nDone.", "runs, equal"),
        ("Use `SELECT COUNT(*) FROM singers WHERE age > 30`.", "runs, equal"),
        ("SELECT COUNT(*) FROM singers", "runs, differs"),
        ("SELECT COUNT(*) FROM dancers", "error: no such table: dancers"),
        ("There are two singers over 30.", "no SQL"),
        ("", "no SQL"),
    ],
)
def test_an_answer_is_described(answer: str, said: str) -> None:
    assert describe(SINGERS, answer) == said


def test_order_counts_only_where_the_reference_orders() -> None:
    descending = "SELECT name FROM singers ORDER BY age DESC"
    assert describe(SORTED, descending) == "runs, differs"
    assert describe(NAMES, descending) == "runs, equal"


def test_a_repeated_row_is_not_the_same_as_one() -> None:
    assert describe(NAMES, "SELECT name FROM singers UNION ALL SELECT 'Ann'") == "runs, differs"


def test_a_semicolon_inside_a_text_does_not_end_the_query() -> None:
    assert extract_query("SELECT 'a;b' FROM t; DROP TABLE t") == "SELECT 'a;b' FROM t"


def test_the_word_with_inside_a_text_is_allowed() -> None:
    assert run_query(SINGERS, "SELECT name FROM singers WHERE name LIKE '%with ''it%'")[1] == ()


def test_run_query_gives_column_names_and_rows() -> None:
    columns, rows = run_query(SINGERS, "SELECT name, age FROM singers WHERE age < 31")
    assert columns == ("name", "age")
    assert rows == (("Ann", 20), ("Di", 30))


def test_the_results_of_reference_and_answer_stand_side_by_side() -> None:
    tables = result_tables(
        SORTED, "Here:\n```sql\nSELECT name, age FROM singers WHERE age > 30;```"
    )
    assert tables is not None
    assert tables.expected == ResultTable(("name",), (("Ann",), ("Di",), ("Bo",), ("Cy",)), 0)
    assert tables.found == ResultTable(("name", "age"), (("Bo", 31), ("Cy", 40)), 0)
    assert (tables.error, tables.query) == ("", "SELECT name, age FROM singers WHERE age > 30")


def test_a_long_result_is_cut_and_the_rest_counted() -> None:
    tables = result_tables(SINGERS, "SELECT 1 FROM singers a, singers b")
    assert tables is not None
    assert tables.found == ResultTable(("1",), ((1,),) * SHOWN_ROWS, 16 - SHOWN_ROWS)
    exact = ResultTable.of(("1",), [(1,)] * SHOWN_ROWS)
    assert (len(exact.rows), exact.more) == (SHOWN_ROWS, 0)


@pytest.mark.parametrize(
    ("answer", "error", "query"),
    [
        ("Two of them.", "no SQL", ""),
        ("SELECT * FROM dancers;", "no such table: dancers", "SELECT * FROM dancers"),
        ("SELECT sql FROM sqlite_master", "access to sqlite_master.sql is prohibited", None),
    ],
)
def test_an_answer_without_a_result_says_why_beside_what_was_expected(
    answer: str, error: str, query: str | None
) -> None:
    tables = result_tables(SINGERS, answer)
    assert tables is not None
    assert tables.expected.rows == ((2,),)
    assert (tables.found, tables.error) == (None, error)
    assert tables.query == (answer if query is None else query)
    assert describe(SINGERS, answer).removeprefix("error: ") == error


def test_a_reference_that_fails_has_no_result_to_show() -> None:
    broken = Example(SINGERS.prompt, "SELECT * FROM dancers", SINGERS.extra)
    assert result_tables(broken, "SELECT 1") is None


DOUBLING = "WITH a0 AS (SELECT 1 x)" + "".join(
    f", a{i + 1} AS (SELECT p.x FROM a{i} p, a{i} q)" for i in range(30)
)
CROSS = ", ".join(f"singers s{i}" for i in range(16))
# tests/security/test_sql_hostile.py tries many more
HOSTILE = [
    "VACUUM INTO '/tmp/ftlab-hostile.db'",
    "SELECT sql FROM sqlite_master",
    f"SELECT COUNT(*) FROM {CROSS}",
    f"SELECT s0.name FROM {CROSS} ORDER BY s1.age * s2.age",
    f"SELECT s0.name FROM {', '.join(f'singers s{i}' for i in range(6))}",
    f"{DOUBLING} SELECT COUNT(*) FROM a30",
    f"SELECT * FROM ({DOUBLING} SELECT COUNT(*) FROM a30)",
    f"/* ' */ {DOUBLING} SELECT COUNT(*) FROM a30 -- '",
    "SELECT printf('%*d', 1000000000, 1)",
    "SELECT '" + "x" * 100_000 + "'",
    "SELECT 1; DROP TABLE singers",
    "SELECT '\x00'",
    "SELECT '\ud800'",
    "SELECT ?",
]  # fmt: skip


@pytest.mark.parametrize("query", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_query_is_refused_quickly_and_in_little_memory(query: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.monotonic()
    with pytest.raises(FtlabError):
        run_query(SINGERS, query)
    assert time.monotonic() - start < MAX_SECONDS + 0.7
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    assert describe(SINGERS, query) != "runs, equal"
    tables = result_tables(SINGERS, query)
    assert tables is not None
    assert tables.found is None or "DROP" in query  # only the first statement is run
