"""Prompts from text and from files."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ftlab.basics.errors import FtlabError
from ftlab.playground.grid_table import prompts_of_file, read_prompts


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("\ufeff one\r\n\n  two \n\t\n", ["one", "two"]),
        ("a\n\nb\n ---\n\n---\nc\n--- d", ["a\n\nb", "c\n--- d"]),
        ("a --- b\n----", ["a --- b", "----"]),
        ("one\u2028still one", ["one\u2028still one"]),
    ],
    ids=["a line each", "blocks between dashes", "dashes inside a line", "a line separator"],
)
def test_text_is_split_into_lines_or_into_blocks_between_dashes(
    text: str, prompts: list[str]
) -> None:
    assert read_prompts(text) == prompts


def test_a_text_file_is_read_as_text(tmp_path: Path) -> None:
    path = tmp_path / "prompts.TXT"
    path.write_text("Qué?\nwhy?\n", encoding="utf-8")
    assert prompts_of_file(path) == ["Qué?", "why?"]


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl", "parquet"])
def test_a_table_gives_the_column_whose_name_says_prompt(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"table.{suffix}"
    rows = [{"id": 1, "Question": " first "}, {"id": 2, "Question": ""}, {"id": 3, "Question": "x"}]
    if suffix == "csv":
        path.write_text("id,Question\n1, first \n2,\n3,x\n", encoding="utf-8")
    elif suffix == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif suffix == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    else:
        pd.DataFrame(rows).to_parquet(path)
    assert prompts_of_file(path) == ["first", "x"]


def test_a_table_without_such_a_column_is_refused_with_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("when,who\n1,2\n", encoding="utf-8")
    with pytest.raises(FtlabError, match=r"no column of prompts.*'prompt'.*when, who"):
        prompts_of_file(path)


def test_a_column_of_chats_is_not_taken_for_prompts(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "hi"}]}), encoding="utf-8")
    with pytest.raises(FtlabError, match="columns: messages"):
        prompts_of_file(path)


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.pdf", b"%PDF", "one of: .txt, .csv"),
        ("a.txt", b"\xff\xfe", "not UTF-8 at byte 0"),
        ("a.txt", b" \n---\n", "holds no prompt"),
        ("a.csv", b"prompt\n\n", "no rows"),
        (None, b"", "There is no file"),
        ("missing.txt", None, "cannot be read"),
    ],
)
def test_a_file_that_gives_no_prompts_says_why(
    name: str | None, content: bytes | None, part: str, tmp_path: Path
) -> None:
    path = tmp_path / (name or "missing.csv")
    if name and content is not None:
        path.write_bytes(content)
    with pytest.raises(FtlabError, match=part):
        prompts_of_file(path)
