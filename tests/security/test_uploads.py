"""Files that are small to send and large to read: one sentence, soon, and in little memory."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ftlab.errors import FtlabError
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
