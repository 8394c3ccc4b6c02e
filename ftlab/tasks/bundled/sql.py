"""The SQL task: the input is a table's columns and a question, the output one SQLite query.

An answer is scored by running the reference query and the answer's query on a small table, and
comparing the results. The query comes from a model, so it is untrusted. It runs on an in-memory
database with only the example's rows. An authorizer allows only reading those tables and a list of
plain functions. SQLite's limits bound text, rows, statement size and memory; a step count and a
deadline bound the time.
"""

from __future__ import annotations

import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ftlab.basics.errors import FtlabError
from ftlab.tasks.spec import Example, ResultTable, ResultTables, TaskMetric, TaskSpec

MAX_SECONDS = 0.5
MAX_STEPS = 250_000  # of SQLite's virtual machine; a correct answer takes a few thousand
MAX_ROWS = 1_000
MAX_QUERY_CHARACTERS = 2_000
NO_QUERY = "no SQL"

# At most 1,000 bytes per row or value, times the steps above, limits the memory of a sort.
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MAX_QUERY_CHARACTERS * 4,
    sqlite3.SQLITE_LIMIT_COLUMN: 32,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 40,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 8,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 10_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 8,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
_FUNCTIONS = frozenset({
    "abs", "avg", "coalesce", "count", "date", "dense_rank", "glob", "group_concat", "ifnull",
    "iif", "instr", "julianday", "length", "like", "lower", "ltrim", "max", "min", "nullif", "rank",
    "replace", "round", "row_number", "rtrim", "strftime", "substr", "substring", "sum", "total",
    "trim", "typeof", "upper",
})  # fmt: skip
_START = re.compile(r"(?:^|\n|`)[ \t]*(?=select\b|with\s+\w+(?:\s*\([^)]*\))?\s+as\b)", re.I)
_NOT_CODE = re.compile(
    r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*|/\*.*?(?:\*/|\Z)""", re.S
)
_FENCE = re.compile(r"```[a-zA-Z]*[ \t]*\n?(.*?)(?:```|\Z)", re.S)


def extract_query(answer: str) -> str | None:
    """The first SELECT statement of an answer without its semicolon, or None.

    Searches inside a markdown fence if there is one. The statement must begin a line (or an inline
    code span) and ends at a semicolon outside quotes, a blank line or a backtick.
    """
    fence = _FENCE.search(answer)
    text = fence.group(1) if fence else answer
    start = _START.search(text)
    if start is None:
        return None
    return _first_statement(text[start.end() :]).strip() or None


def _first_statement(text: str) -> str:
    quote = ""
    for index, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in ";`" or re.match(r"\n[ \t]*\n", text[index : index + 80]):
            return text[:index]
    return text


def run_query(example: Example, query: str) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    """Column names and rows of one query on the example's tables.

    Raises `FtlabError` with a short message if the query is rejected, fails or exceeds a limit.
    """
    connection = _database(example.extra)
    try:
        return _run(connection, example.extra, query)
    finally:
        connection.close()


def _database(extra: Mapping[str, Any]) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, cached_statements=0)
    # Without this a large sort would be written to a temporary file.
    connection.execute("PRAGMA temp_store = MEMORY")
    for statement in extra["schema"]:
        connection.execute(statement)
    for table, rows in extra["rows"].items():
        if rows:
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)
    connection.execute("PRAGMA query_only = ON")
    if hasattr(connection, "enable_load_extension"):
        connection.enable_load_extension(False)
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    return connection


def _run(
    connection: sqlite3.Connection, extra: Mapping[str, Any], query: str
) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
    if len(query) > MAX_QUERY_CHARACTERS:
        raise FtlabError(f"query longer than {MAX_QUERY_CHARACTERS} characters")
    # SQLite expands references to WITH clauses during compilation, which cannot be interrupted:
    # 30 clauses that each use the previous one twice would fill the memory.
    code = _NOT_CODE.sub(" ", query)
    if re.search(r"\bwith\b", code, re.I):
        raise FtlabError("WITH is not allowed")
    if not re.match(r"\s*select\b", code, re.I):  # EXPLAIN also returns rows, for any statement
        raise FtlabError("not a SELECT")
    deadline = time.monotonic() + MAX_SECONDS
    connection.set_authorizer(_authorizer(extra, deadline))
    connection.set_progress_handler(_progress(deadline), 1_000)
    try:
        cursor = connection.execute(query)
        rows = cursor.fetchmany(MAX_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, UnicodeError, OverflowError, ValueError) as error:
        raise FtlabError(_short(error)) from error
    finally:
        connection.set_progress_handler(None, 0)
    if len(rows) > MAX_ROWS:
        raise FtlabError(f"more than {MAX_ROWS} rows")
    if cursor.description is None:
        raise FtlabError("not a SELECT")
    return tuple(column[0] for column in cursor.description), tuple(rows)


def _authorizer(extra: Mapping[str, Any], deadline: float) -> Callable[..., int]:
    tables = {table.lower() for table in extra["rows"]}

    def authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
        # SQLite calls this during compilation, when older versions call no progress handler.
        if time.monotonic() > deadline:
            return sqlite3.SQLITE_DENY
        allowed = (
            action == sqlite3.SQLITE_SELECT
            or (action == sqlite3.SQLITE_READ and (first or "").lower() in tables)
            or (action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS)
        )
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    return authorize


def _progress(deadline: float) -> Callable[[], int]:
    calls = 0

    def progress() -> int:
        nonlocal calls
        calls += 1
        return int(calls * 1_000 > MAX_STEPS or time.monotonic() > deadline)

    return progress


def _short(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if text == "interrupted":
        return "stopped, too much work"
    return text[:77] + "…" if len(text) > 78 else text


def _rows_for_comparison(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rounds numbers, so that AVG and SUM / COUNT agree; 3 and 3.0 are equal in Python."""
    return [
        tuple(round(cell, 6) if isinstance(cell, float) else cell for cell in row) for row in rows
    ]


def describe(example: Example, answer: str) -> str:
    """The verdict on an answer: "runs, equal", "runs, differs", "error: …" or "no SQL"."""
    query = extract_query(answer)
    if query is None:
        return NO_QUERY
    connection = _database(example.extra)
    try:
        _, wanted = _run(connection, example.extra, example.completion)
        _, found = _run(connection, example.extra, query)
    except FtlabError as error:
        return f"error: {error}"
    finally:
        connection.close()
    left, right = _rows_for_comparison(wanted), _rows_for_comparison(found)
    ordered = "ORDER BY" in example.completion.upper()
    equal = left == right if ordered else Counter(left) == Counter(right)
    return "runs, equal" if equal else "runs, differs"


def execution_match(example: Example, answer: str) -> float:
    """1.0 if the answer's query returns the reference's rows (in order with ORDER BY), else 0.0."""
    return float(describe(example, answer) == "runs, equal")


def result_tables(example: Example, answer: str) -> ResultTables | None:
    """The results of the reference query and the answer's query, each in its own database.

    `None` if the reference query fails.
    """
    try:
        expected = ResultTable.of(*run_query(example, example.completion))
    except FtlabError:
        return None
    query = extract_query(answer)
    if query is None:
        return ResultTables(expected, None, NO_QUERY, "")
    try:
        return ResultTables(expected, ResultTable.of(*run_query(example, query)), "", query)
    except FtlabError as error:
        return ResultTables(expected, None, str(error), query)


EXECUTION_MATCH = TaskMetric(
    key="execution_match",
    label="SQL score",
    how="Share of answers whose query returns the reference's rows from a small SQLite table.",
    score=execution_match,
    hub_id="accuracy",
    describe=describe,
    result_tables=result_tables,
)

TASK = TaskSpec(
    id="sql",
    label="SQL",
    summary="A table's columns and a question in, one SQLite query out, scored by running it.",
    metric=EXECUTION_MATCH,
    max_new_tokens=48,
    sha256="427519241a3f80e94f00d49d15bfedcd12d94faa1f047b2f0052713663daf16f",
    place=1,
)
