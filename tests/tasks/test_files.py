"""Task files: what is read, and the sentence for each thing that can be wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.tasks import files
from ftlab.tasks.files import columns_of, read_rows

ROWS = [{"prompt": "a", "completion": "b"}, {"prompt": "c, d", "completion": "é"}]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_csv_json_and_jsonl_give_the_same_rows(tmp_path: Path) -> None:
    lines = "\n".join(json.dumps(row) for row in ROWS)
    for path in (
        write(tmp_path, "a.csv", 'prompt,completion\r\na,b\r\n"c, d",é\r\n'),
        write(tmp_path, "b.csv", '\ufeffprompt,completion\na,b\n"c, d",é\n'),
        write(tmp_path, "a.json", json.dumps(ROWS)),
        write(tmp_path, "b.json", json.dumps({"version": 1, "data": ROWS})),
        write(tmp_path, "a.jsonl", lines),
        write(tmp_path, "A.JSONL", f"\ufeff{lines}\n\n"),
    ):
        assert read_rows(path) == ROWS, path.name


def test_parquet_is_read(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert read_rows(tmp_path / "a.parquet") == ROWS


def test_columns_come_in_order_of_appearance() -> None:
    assert columns_of([{"b": 1}, {"a": 2, "b": 3}]) == ["b", "a"]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", "", "a.csv is empty"),
        ("a.jsonl", "  \n", "a.jsonl is empty"),
        ("a.json", "[]", "a.json has no rows"),
        ("a.txt", "x", r"a.txt ends in '.txt'.*\.csv, \.json, \.jsonl, \.parquet"),
        ("a", "x", "ends in ''"),
        ("a.json", '[{"a": 1},\n {"a" 2}]', "not valid JSON at line 2, column 7"),
        ("a.json", "3", "holds a int; give a list"),
        ("a.json", "[1]", "item 1 is a int, not an object"),
        ("a.json", '{"a": [], "b": []}', "an object with 2 lists"),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.json", f'[{{"a": {"9" * 5000}}}]', "a number that is too long"),
        ("a.jsonl", '{"a": 1}\n{"a":\n', "not valid JSON at line 2, column"),
        ("a.jsonl", '{"a": 1}\n\n[1]\n', "line 3 is a list, not an object"),
        ("a.csv", b"prompt,completion\na,\xe9\n", "not UTF-8 at byte 20"),
        ("a.jsonl", b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        ("a.csv", "prompt,completion\n", "has a header but no rows"),
        ("a.csv", "prompt,prompt\na,b\n", "two columns 'prompt'"),
        ("a.csv", "prompt,\na,b\n", "a column without a name"),
        ("a.csv", "prompt,completion\na,b\na,b,c\n", "line 3 has 3 cells, the header has 2"),
        ("a.csv", 'prompt,completion\na,"b\n', "not valid CSV at line"),
        ("a.parquet", b"PAR1 not really", "cannot be read as Parquet"),
        ("a.parquet", pickle.dumps([1]), "cannot be read as Parquet"),
    ],
)
def test_a_wrong_file_is_explained_in_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(FtlabError, match=sentence) as error:
        read_rows(write(tmp_path, name, content))
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FtlabError, match=r"There is no file .*x\.csv"):
        read_rows(tmp_path / "x.csv")


def test_limits_on_size_rows_and_cells_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "a.json", json.dumps([{"a": "x" * 50}] * 5))
    monkeypatch.setattr(files, "MAX_CELL_CHARACTERS", 40)
    with pytest.raises(FtlabError, match="row 1 has more than 40 characters in 'a'"):
        read_rows(path)
    monkeypatch.setattr(files, "MAX_ROWS", 4)
    with pytest.raises(FtlabError, match="more than 4 rows"):
        read_rows(path)
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    with pytest.raises(FtlabError, match="more than 0 MB"):
        read_rows(path)
