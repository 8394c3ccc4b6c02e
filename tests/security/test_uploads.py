"""Files that are small to send and large to read: one sentence, soon, and in little memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import json_values
from ftlab.tasks import files
from ftlab.tasks.files import MAX_CELL_CHARACTERS, MAX_COLUMNS, MAX_ROWS, read_rows


@pytest.mark.hostile("uploads above a limit")
@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("rows.csv", "prompt,completion\n" + "a,b\n" * (MAX_ROWS + 1), "more than 200,000 rows"),
        ("rows.jsonl", '{"a": 1}\n' * (MAX_ROWS + 1), "more than 200,000 rows"),
        ("rows.json", "[" + "{}," * MAX_ROWS + "{}]", "more than 200,000 rows"),
        (
            "cell.jsonl",
            '{"prompt": "' + "a" * (MAX_CELL_CHARACTERS + 1) + '"}',
            "more than 100,000",
        ),
        ("cell.csv", "prompt\n" + "a" * 200_000 + "\n", "line 2|field larger than"),
        ("columns.csv", ",".join(f"c{n}" for n in range(300_000)) + "\n", "300,000 columns"),
        (
            "columns.json",
            "[{" + ",".join(f'"c{n}": 1' for n in range(1001)) + "}]",
            "1,001 columns",
        ),
        ("deep.json", "[" * 100_000, "nested too deeply"),
        ("number.json", '[{"a": ' + "9" * 5000 + "}]", "number that is too long"),
    ],
)
def test_a_file_above_a_limit_is_one_sentence(
    name: str, text: str, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(FtlabError, match=sentence) as error:
        read_rows(path)
    assert len(str(error.value)) < 400


def test_a_file_at_the_limit_of_columns_is_read(tmp_path: Path) -> None:
    path = tmp_path / "columns.csv"
    names = ",".join(f"c{n}" for n in range(MAX_COLUMNS))
    path.write_text(f"{names}\n{names}\n")
    assert len(read_rows(path)[0]) == MAX_COLUMNS


def save(path: Path, column: pa.Array) -> None:
    pq.write_table(pa.table({"prompt": column}), path, store_schema=False)


def lists(each: int, values: pa.Array) -> pa.Array:
    """The values as lists of so many each."""
    offsets = pa.array(range(0, len(values) + 1, each), pa.int64())
    return pa.LargeListArray.from_arrays(offsets, values)


def one_text(rows: int) -> pa.Array:
    indices = pa.Array.from_buffers(pa.int32(), rows, [None, pa.py_buffer(bytes(4 * rows))])
    return pa.DictionaryArray.from_arrays(indices, pa.array([""]))


PARQUET: dict[str, Callable[[Path], None]] = {
    "lists of nothing": lambda path: save(path, lists(100_000, pa.nulls(50_000_000, pa.bool_()))),
    "lists of one text": lambda path: save(path, lists(100_000, one_text(5_000_000))),
    "an object of many fields": lambda path: save(
        path, pa.nulls(5_000, pa.struct([(f"f{n}", pa.int8()) for n in range(1_000)]))
    ),
    "many columns": lambda path: pq.write_table(
        pa.table({f"c{n}": pa.nulls(10_000, pa.int8()) for n in range(900)}), path
    ),
}
TEXTS: dict[str, tuple[str, bytes, bytes, bytes]] = {
    "empty objects": ("a.json", b"[", b"{},", b"{}]"),
    "numbers": ("a.jsonl", b'{"a":[', b"1,", b"1]}"),
    "a text without an end": ("a.json", b'[{"a":"', b'\\",[{:', b""),
    "commas": ("a.csv", b"", b",", b""),
    "cells": ("a.csv", b",".join(b"c%d" % n for n in range(900)) + b"\n", b"," * 899 + b"\n", b""),
    "lines": ("a.csv", b"prompt,completion\n", b"\n", b"a,b\n"),
    "one cell": ("a.csv", b'prompt\n"', b"x", b'"\n'),
    "zeros": ("a.csv", b"", b"\x00", b""),
}


@pytest.fixture
def little_time_and_memory() -> Iterator[None]:
    """10 s of a core, and 500 MB on top of what the process had at most before."""
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert time.process_time() - began < 10
    assert grown < 500 * 1024, f"{grown // 1024} MB"


@pytest.mark.hostile("uploads above a limit")
@pytest.mark.parametrize("name", PARQUET)
def test_a_small_parquet_file_of_many_values_is_refused_by_what_its_footer_says(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.parquet"
    PARQUET[name](path)
    began = time.process_time()
    with pytest.raises(FtlabError, match="more than 4,000,000 cells or values"):
        read_rows(path)
    assert time.process_time() - began < 2


@pytest.mark.slow
@pytest.mark.hostile("uploads above a limit")
@pytest.mark.usefixtures("little_time_and_memory")
@pytest.mark.parametrize("name", TEXTS)
def test_a_text_of_90_megabytes_that_would_become_gigabytes_is_refused(
    name: str, tmp_path: Path
) -> None:
    file, begin, middle, end = TEXTS[name]
    path = tmp_path / file
    path.write_bytes(begin + middle * (90 * 2**20 // len(middle)) + end)
    with pytest.raises(FtlabError) as error:
        read_rows(path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("text", "values"), [("[1, 2, {}]", 4), ('["\\",[[["]', 1), ('["[[[', 1), ('{"a": "[,["}', 2)]
)
def test_values_are_counted_outside_of_texts_where_those_within_are_many(
    text: str, values: int
) -> None:
    assert json_values(text, enough=3) == values


@pytest.mark.hostile("uploads above a limit")
def test_a_parquet_file_of_one_value_repeated_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few kB that say, by a dictionary, gigabytes; its own sizes are those of the dictionary."""
    monkeypatch.setattr(files, "MAX_PARQUET_BYTES", 50 * 2**20)
    rows = 2_000
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), ["x" * 90_000])
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"prompt": column}), path, store_schema=False)
    assert path.stat().st_size < 100_000
    with pytest.raises(FtlabError, match=r"unpacks to \d+ MB"):
        read_rows(path)
