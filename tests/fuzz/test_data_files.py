"""Task files and grid prompts: whatever bytes come, rows or a sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from ftlab.playground.grid_table import prompts_of_file, read_prompts
from ftlab.tasks.files import columns_of, guess_mapping, read_rows
from ftlab.tasks.reference import TaskReference, load, parse_task
from tests.fuzz.conftest import Fuzz
from tests.fuzz.strategies import as_json, damaged, scalars, texts, torn, values

ROWS = [{"prompt": f"question {i}", "completion": f"answer, {i}"} for i in range(6)]
CHATS = [
    {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]}
    for i in range(4)
]
CSV = ("prompt,completion\n" + "".join(f'q {i},"a, ""{i}"""\n' for i in range(6))).encode()


def _used(folder: Path, name: str, data: bytes) -> None:
    """Everything that page and run do with an uploaded file."""
    path = folder / name
    path.write_bytes(data)
    rows = read_rows(path)
    json.dumps(rows, default=str, ensure_ascii=False).encode()  # the page and a record can hold it
    guess_mapping(columns_of(rows), rows)
    _, task = load(TaskReference("file", str(path)))
    for example in (*task.train, *task.tuning, *task.held_out):
        example.question.encode()
        example.completion.encode()


@pytest.mark.hostile("fuzzed task files")
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.jsonl", "a.parquet"])
def test_any_bytes_are_rows_or_a_sentence(tmp_path: Path, fuzz: Fuzz, name: str) -> None:
    fuzz(st.binary(max_size=200), lambda data: _used(tmp_path, name, data))


@pytest.mark.hostile("fuzzed task files")
def test_a_torn_csv_is_rows_or_a_sentence(tmp_path: Path, fuzz: Fuzz) -> None:
    fuzz(torn(CSV), lambda data: _used(tmp_path, "a.csv", data), 30)


@pytest.mark.hostile("fuzzed task files")
def test_a_csv_of_any_cells_is_rows_or_a_sentence(tmp_path: Path, fuzz: Fuzz) -> None:
    import csv

    def written(rows: list[list[str]]) -> bytes:
        file = io.StringIO()
        csv.writer(file).writerows(rows)
        return file.getvalue().encode("utf-8", "surrogatepass")

    rows = st.lists(st.lists(texts(20), min_size=1, max_size=4), min_size=1, max_size=6)
    fuzz(rows.map(written), lambda data: _used(tmp_path, "a.csv", data))


@pytest.mark.slow
@pytest.mark.hostile("fuzzed task files")
@pytest.mark.parametrize("rows", [ROWS, CHATS], ids=["questions", "chats"])
def test_json_with_wrong_values_is_rows_or_a_sentence(
    tmp_path: Path, fuzz: Fuzz, rows: list[dict[str, Any]]
) -> None:
    fuzz(damaged(rows).map(as_json), lambda data: _used(tmp_path, "a.json", data), 24)
    lines = damaged(rows).map(lambda items: b"\n".join(map(as_json, items)))
    fuzz(lines, lambda data: _used(tmp_path, "a.jsonl", data), 30)


@pytest.mark.hostile("fuzzed task files")
def test_any_json_is_rows_or_a_sentence(tmp_path: Path, fuzz: Fuzz) -> None:
    fuzz(values().map(as_json), lambda data: _used(tmp_path, "a.json", data))


@pytest.mark.hostile("fuzzed task files")
def test_parquet_of_any_values_and_torn_parquet_are_rows_or_a_sentence(
    tmp_path: Path, fuzz: Fuzz
) -> None:
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    fuzz(torn(file.getvalue()), lambda data: _used(tmp_path, "a.parquet", data), 30)

    def of_columns(columns: dict[str, list[Any]]) -> None:
        try:
            table = pyarrow.table({name: pyarrow.array(cells) for name, cells in columns.items()})
            pyarrow.parquet.write_table(table, tmp_path / "b.parquet")
        except (pyarrow.ArrowException, ArithmeticError, ValueError, TypeError):
            return
        _used(tmp_path, "b.parquet", (tmp_path / "b.parquet").read_bytes())

    dates = st.datetimes() | st.dates() | st.times() | st.timedeltas() | st.decimals(places=2)
    cells = st.one_of(
        st.lists(kind, min_size=4, max_size=4)
        for kind in (scalars(), st.binary(max_size=9), dates, st.lists(texts(9), max_size=3))
    )
    fuzz(st.dictionaries(st.sampled_from(["prompt", "completion", "x"]), cells), of_columns)


@pytest.mark.hostile("fuzzed prompt files")
def test_a_grid_s_prompts_are_texts_or_a_sentence(tmp_path: Path, fuzz: Fuzz) -> None:
    def from_file(data: bytes) -> None:
        for name in ("p.txt", "p.csv", "p.jsonl"):
            (tmp_path / name).write_bytes(data)
            prompts = prompts_of_file(tmp_path / name)
            assert all(isinstance(prompt, str) and prompt for prompt in prompts)

    fuzz(st.binary(max_size=120) | torn(CSV), from_file)
    fuzz(texts(), read_prompts)


@pytest.mark.hostile("fuzzed task names")
def test_a_task_s_name_is_a_reference_or_a_sentence(fuzz: Fuzz) -> None:
    fuzz(texts() | texts(20).map("hub:{}".format) | texts(20).map("{}.csv".format), parse_task)
