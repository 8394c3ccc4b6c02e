"""Where a grid's prompts come from: typed or pasted text, or a file. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ftlab.errors import FtlabError
from ftlab.reading import UnfitFile, person_path, read_plain
from ftlab.tasks.custom import guess_mapping
from ftlab.tasks.files import EXTENSIONS, MAX_BYTES, columns_of, list_columns, read_rows

BORDER = "---"
"""A line of its own between prompts of several lines."""

_TEXT = ".txt"


def read_prompts(text: str) -> list[str]:
    """One prompt a line; or, if any line is only "---", one prompt between two of those.

    Blank prompts are left out, and so is white space around the others.
    """
    # Not splitlines: a form feed or U+2028 inside a prompt ends no line.
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not any(line.strip() == BORDER for line in lines):
        return [line.strip() for line in lines if line.strip()]
    blocks: list[list[str]] = [[]]
    for line in lines:
        if line.strip() == BORDER:
            blocks.append([])
        else:
            blocks[-1].append(line)
    prompts = ["\n".join(block).strip() for block in blocks]
    return [prompt for prompt in prompts if prompt]


def prompts_of_file(path: Path) -> list[str]:
    """The prompts of a text file, or of the column of prompts in CSV, JSON, JSONL or Parquet.

    The column is found by its name, as a task's is ("prompt", "question", …). Raises `FtlabError`
    for a file that cannot be read, has no such column, or no prompt in it.
    """
    path = person_path(str(path))
    if path.suffix.lower() == _TEXT:
        prompts = read_prompts(_text(path))
    elif path.suffix.lower() in EXTENSIONS or not path.is_file():
        prompts = _column(path)
    else:
        raise FtlabError(
            f"{path.name} ends in '{path.suffix}', which is no kind of prompt file; use one of: "
            f"{', '.join([_TEXT, *EXTENSIONS])}."
        )
    if not prompts:
        raise FtlabError(f"{path.name} holds no prompt; write one a line.")
    return prompts


def _text(path: Path) -> str:
    try:
        return read_plain(path, MAX_BYTES, follow_link=True).decode("utf-8")
    except UnfitFile:
        raise
    except OSError as error:
        raise FtlabError(f"The file '{path}' cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise FtlabError(
            f"{path.name} is not UTF-8 at byte {error.start:,}; save it again as UTF-8."
        ) from None


def _column(path: Path) -> list[str]:
    rows = read_rows(path)
    columns = columns_of(rows)
    column = guess_mapping(columns, []).prompt  # by name alone: a column of chats is no prompt
    if column is None:
        raise FtlabError(
            f"{path.name} has no column of prompts; call one 'prompt'. Its columns: "
            f"{list_columns(columns)}."
        )
    return [text for text in (_cell(row.get(column)) for row in rows) if text]


def _cell(value: Any) -> str:
    return "" if value is None or value != value else str(value).strip()  # NaN differs from itself
