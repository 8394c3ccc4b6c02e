"""SQL that a model, or whoever taught it, means badly: it reads its own tables or is refused."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

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
from ftlab.tasks.spec import Example, Message

EXAMPLE = Example(
    (Message("user", "Table singers(name, age). How many singers are over 30?"),),
    "SELECT COUNT(*) FROM singers WHERE age > 30",
    {
        "schema": ["CREATE TABLE singers (name TEXT, age INTEGER)"],
        "rows": {"singers": [["Ann", 20], ["Bo", 31], ["Cy", 40], ["Di", 30]]},
    },
)

_STATEMENTS = (
    "ATTACH DATABASE '{file}' AS x",
    "ATTACH ':memory:' AS x",
    "DETACH DATABASE main",
    "VACUUM",
    "VACUUM INTO '{file}'",
    "REINDEX",
    "ANALYZE",
    "BEGIN",
    "COMMIT",
    "ROLLBACK",
    "SAVEPOINT a",
    "RELEASE a",
    "DROP TABLE singers",
    "ALTER TABLE singers RENAME TO x",
    "CREATE TABLE x (a)",
    "CREATE TEMP TABLE x AS SELECT 1",
    "CREATE VIEW v AS SELECT 1",
    "CREATE TRIGGER t AFTER INSERT ON singers BEGIN SELECT 1; END",
    "CREATE INDEX i ON singers(age)",
    "CREATE VIRTUAL TABLE v USING fts5(a)",
    "CREATE VIRTUAL TABLE v USING csv(filename='{file}')",
    "CREATE VIRTUAL TABLE v USING rtree(a,b,c)",
    "INSERT INTO singers VALUES ('x', 1)",
    "REPLACE INTO singers VALUES ('x', 1)",
    "UPDATE singers SET age = 31",
    "DELETE FROM singers",
    "INSERT INTO singers SELECT * FROM singers RETURNING *",
    "EXPLAIN DELETE FROM singers",
    "DELETE FROM singers RETURNING name",
    "UPDATE singers SET age = 1 RETURNING *",
    ".read {file}",
    ".shell id",
    ".output {file}",
    "",
    ";",
    "x",
    "\x00",
    "-- nothing",
    "/* open",
)
_NOTHING = ("", ";", "-- nothing", "/* open")
_PRAGMAS = (
    "query_only = OFF",
    "writable_schema = ON",
    "temp_store_directory = '/tmp'",
    "database_list",
    "table_info(singers)",
    "journal_mode = DELETE",
    "trusted_schema = ON",
    "hard_heap_limit = 0",
    "mmap_size = 9999999999",
    "cache_size = -99999999",
    "temp_store = FILE",
    "threads = 64",
    "integrity_check",
    "compile_options",
    "function_list",
    "foreign_keys = ON",
    "user_version = 9",
)
_FUNCTIONS = (
    "load_extension('{file}')",
    "load_extension('x', 'y')",
    "readfile('/etc/passwd')",
    "writefile('{file}', 'x')",
    "edit('x')",
    "fts3_tokenizer('x')",
    "sqlite_source_id()",
    "sqlite_version()",
    "sqlite_compileoption_get(1)",
    "randomblob(2000000000)",
    "random()",
    "zeroblob(2000000000)",
    "hex(zeroblob(1000000000))",
    "printf('%.*c', 2000000000, 'x')",
    "format('%1000000000d', 1)",
    "char(1,2,3)",
    "quote(name)",
    "unhex('00')",
    "last_insert_rowid()",
    "changes()",
    "total_changes()",
    "json('[]')",
    "json_array(1)",
    "json_each.value",
    "soundex('x')",
    "likely(1)",
    "group_concat(name, zeroblob(99999999))",
    "sqlite_offset(name)",
    "eval('SELECT 1')",
    "regexp('(a+)+$', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!')",
    "fileio_read('/etc/passwd')",
    "ftlab()",
    "__import__('os')",
    "nosuch(name)",
    "generate_series(1, 1e12)",
)
_TABLES = (
    "sqlite_master",
    "sqlite_schema",
    "sqlite_temp_master",
    "sqlite_sequence",
    "sqlite_stat1",
    "pragma_database_list",
    "pragma_table_info('singers')",
    "pragma_function_list",
    "dbstat",
    "pragma_compile_options",
    "sqlite_dbpage",
    "bytecode('SELECT 1')",
    "tables_used('SELECT 1')",
    "json_each('[1]')",
    "json_tree('[1]')",
    "generate_series(1, 1000000000)",
    "fsdir('/')",
    "main.sqlite_master",
    "temp.sqlite_master",
    "x.singers",
    "zipfile('{file}')",
    "csv('{file}')",
)
_CROSS = ", ".join(f"singers s{i}" for i in range(16))
_ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT {} FROM c"
_WORK = (
    *(_ENDLESS.format(what) for what in ("x", "count(*)", "sum(x)", "max(x)", "group_concat(x)")),
    "with recursive c as (select 1 union select * from c) select * from c",
    "SELECT * FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT x FROM c)",
    "/* ' */ WITH a AS (SELECT 1) SELECT * FROM a -- '",
    "SELECT (WITH a AS (SELECT 1) SELECT * FROM a)",
    *(
        f"SELECT {what} FROM {_CROSS}"
        for what in (
            "*",
            "count(*)",
            "sum(s0.age)",
            "max(s0.name)",
            "DISTINCT s0.name",
            "group_concat(s0.name)",
            "count(DISTINCT s0.age + s15.age)",
            "total(s0.age * s1.age * s2.age)",
        )
    ),
    *(
        f"SELECT s0.age FROM {_CROSS} {tail}"
        for tail in (
            "ORDER BY s0.age + s1.age",
            "GROUP BY s0.age, s1.age, s2.age",
            "WHERE s0.name LIKE s1.name",
            "WHERE s0.age > ALL_OF_THEM",
            "LIMIT -1 OFFSET 999999999",
            "EXCEPT SELECT 1",
            "HAVING 1",
            "UNION SELECT 2",
            "INTERSECT SELECT age FROM singers",
            "WHERE s0.age IN (SELECT s1.age)",
        )
    ),
    "SELECT row_number() OVER (ORDER BY s0.age) FROM " + _CROSS,
    "SELECT sum(s0.age) OVER (ROWS UNBOUNDED PRECEDING) FROM " + _CROSS,
    "SELECT replace(replace(replace(name, '', '"
    + "n" * 400
    + "'), 'n', '"
    + "n" * 400
    + "'), 'n', 'nnnn') FROM singers",
    "SELECT name LIKE '" + "%a" * 60 + "' FROM singers",
    "SELECT name GLOB '" + "*a" * 60 + "' FROM singers",
    "SELECT 1" + " UNION ALL SELECT 1" * 100,
    "SELECT " + "(" * 900 + "1" + ")" * 900,
    "SELECT " + "-" * 1_500 + "1",
    "SELECT " + "NOT " * 480 + "1",
    "SELECT " + "1+" * 900 + "1",
    "SELECT " + ",".join(["1"] * 500),
    "SELECT max(" + ",".join(["1"] * 500) + ")",
    "SELECT '" + "x" * 1_900 + "'",
    "SELECT '" + "x" * 100_000 + "'",
    "SELECT x'" + "00" * 900 + "'",
    "SELECT CASE " + "WHEN 1 THEN 1 " * 120 + "END",
    "SELECT * FROM " + "(SELECT * FROM " * 90 + "nothing" + ")" * 90,
    "SELECT " + "(SELECT " * 150 + "1" + ")" * 150,
    "SELECT ?1",
    "SELECT :a",
    "SELECT $a",
    "SELECT @a",
    "SELECT '\ud800'",
    "SELECT 1e999 - 1e999 FROM nothing",
    "SELECT * FROM singers s, singers NATURAL JOIN x",
)


def _bad(file: Path) -> Iterator[str]:
    """Statements that must fail, each as it is and behind the disguises that a model may try."""
    calls = [f"SELECT {call}" for call in _FUNCTIONS]
    calls += [f"SELECT {call} FROM singers" for call in _FUNCTIONS]
    calls += [f"SELECT name FROM singers WHERE {call}" for call in _FUNCTIONS]
    calls += [f"SELECT name FROM singers ORDER BY {call}" for call in _FUNCTIONS]
    tables = [f"SELECT * FROM {table}" for table in _TABLES]
    tables += [f"SELECT 1 FROM singers WHERE EXISTS (SELECT * FROM {table})" for table in _TABLES]
    tables += [f"SELECT name FROM singers UNION SELECT 1 FROM {table}" for table in _TABLES]
    pragmas = [f"PRAGMA {pragma}" for pragma in _PRAGMAS]
    for text in (*_STATEMENTS, *pragmas, *calls, *tables, *_WORK):
        query = text.replace("{file}", str(file))
        yield query
        if text in _STATEMENTS or text in pragmas:
            yield f"/* x */ {query}"
            yield f"EXPLAIN {query}"
            if text not in _NOTHING:
                yield f"SELECT 1; {query}"


@pytest.mark.hostile("SQL")
def test_no_hostile_query_runs_writes_or_takes_long(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    file = tmp_path / "written.db"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    queries = list(_bad(file))
    for query in queries:
        start = time.monotonic()
        with pytest.raises(FtlabError) as error:
            pytest.fail(f"{query[:200]!r} ran: {run_query(EXAMPLE, query)[1][:3]}")
        assert len(str(error.value)) < 200
        assert time.monotonic() - start < MAX_SECONDS + 1.5, query[:200]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 150 * 1024, f"{grown // 1024} MB"
    assert list(tmp_path.iterdir()) == []
    record_property("hostile inputs", len(queries))


@pytest.mark.hostile("SQL in answers")
def test_no_answer_of_a_model_scores_by_trickery(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    wraps = ("{}", "```sql\n{}\n```", "Here you are:\n{};", "`{}`")
    queries = [q for q in _bad(tmp_path / "written.db") if not q.startswith("SELECT 1;")]
    quick = [query for query in queries if query not in _WORK]
    answers = [wrap.format(query) for wrap, query in product(wraps, quick)]
    for answer in answers:
        assert describe(EXAMPLE, answer) != "runs, equal"
        tables = result_tables(EXAMPLE, answer)
        assert tables is not None
        query = extract_query(answer)
        assert query is None or ";" not in query.replace("';'", "").rstrip(";") or "'" in query
    assert sum(EXECUTION_MATCH.score_each([EXAMPLE] * len(answers), answers)) == 0
    assert list(tmp_path.iterdir()) == []
    record_property("hostile inputs", len(answers))


def test_the_plain_query_still_scores() -> None:
    assert describe(EXAMPLE, EXAMPLE.completion) == "runs, equal"
