"""Reads rows of a task file (CSV, JSON, JSONL or Parquet) or a Hub data set, with size limits, and
converts them to examples. An `FtlabError` tells where the file is wrong.
"""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ftlab.basics.errors import FtlabError, one_line
from ftlab.basics.files import json_values, person_path
from ftlab.basics.words import plural, shorten
from ftlab.models.reference import is_owned_hub_id
from ftlab.tasks.spec import Example, Message, Role, TaskData

if TYPE_CHECKING:
    import pyarrow


MAX_BYTES = 100 * 1024 * 1024
MAX_ROWS = 200_000
MAX_HUB_ROWS = 20_000
MAX_CELL_CHARACTERS = 100_000
MAX_COLUMNS = 1_000
MAX_COLUMN_NAME = 200
# A small Parquet file can hold gigabytes of one repeated value.
MAX_PARQUET_BYTES = 512 * 1024 * 1024
# Cells of a table, or values within lists and objects; each costs some 100 bytes of memory.
MAX_VALUES = 4_000_000
MAX_LINE_CHARACTERS = 10_000_000
_MAX_BREAKS = 10_000_000  # commas or line ends of a text, including those within cells

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)?")

Row = dict[str, Any]


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file, in the format of its extension; `FtlabError` if it is not usable."""
    path = person_path(str(path))
    check_file(path)
    reader = _READERS[path.suffix.lower()]
    rows = reader(path)
    if not rows:
        raise FtlabError(f"{path.name} has no rows; give it at least a few examples.")
    check_columns(path, columns_of(rows))
    for number, row in enumerate(rows, 1):
        for name, cell in row.items():
            texts = list(_texts(cell))
            if sum(map(len, texts)) > MAX_CELL_CHARACTERS:
                raise FtlabError(
                    f"{path.name} row {number} has more than {MAX_CELL_CHARACTERS:,} characters in "
                    f"'{name}'; shorten it or drop the row."
                )
            if not all(map(_is_whole, texts)):
                raise FtlabError(
                    f"{path.name} row {number} has half of a character (a lone surrogate) in "
                    f"'{name}', which no model can read; correct it or drop the row."
                )
    return rows


def check_file(path: Path) -> None:
    """Raises `FtlabError` for a missing, unknown, too large or empty file, without reading it."""
    if not path.is_file():
        raise FtlabError(f"There is no file '{path}'; check the path.")
    if path.suffix.lower() not in _READERS:
        raise FtlabError(
            f"{path.name} ends in '{path.suffix}', which is no kind of task file; use one of: "
            f"{', '.join(EXTENSIONS)}."
        )
    size = path.stat().st_size
    if size == 0:
        raise FtlabError(f"{path.name} is empty; give it at least a few examples.")
    if size > MAX_BYTES:
        raise FtlabError(
            f"{path.name} has {size / 2**20:,.0f} MB, more than {MAX_BYTES // 2**20} MB; "
            "take fewer rows."
        )


def check_columns(path: Path, columns: Sequence[str]) -> None:
    """Raises `FtlabError` for too many columns or a name that is too long or not valid text."""
    if len(columns) > MAX_COLUMNS:
        raise FtlabError(
            f"{path.name} has {len(columns):,} columns, more than {MAX_COLUMNS:,}; keep those with "
            "prompts and completions."
        )
    for name in columns:
        if len(name) > MAX_COLUMN_NAME:
            raise FtlabError(
                f"{path.name} has a column whose name has {len(name):,} characters "
                f"('{name[:40]}…'); at most {MAX_COLUMN_NAME} are taken, so rename it."
            )
        if not _is_whole(name):
            raise FtlabError(f"{path.name} has a column named {name!r}, no whole text; rename it.")


def list_columns(columns: Sequence[str]) -> str:
    """The column names as text, at most the first twenty: "prompt, completion"."""
    shown = ", ".join(shorten(name, 40) for name in columns[:20])
    return shown + (f" and {len(columns) - 20:,} more" if len(columns) > 20 else "")


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """All column names of the rows, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def _texts(cell: Any) -> Iterator[str | bytes]:
    """All text in a cell, including nested lists and dicts (without recursion)."""
    stack = [cell]
    while stack:
        item = stack.pop()
        if isinstance(item, str | bytes):
            yield item
        elif isinstance(item, dict):
            stack += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            stack += item


def _is_whole(text: str | bytes) -> bool:
    """Whether the text can be encoded: JSON may hold half of a surrogate pair."""
    if isinstance(text, bytes) or text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(path: Path) -> str:
    """The text without a byte order mark; `FtlabError` with the position if it is not UTF-8."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FtlabError(
            f"{path.name} is not UTF-8 at byte {error.start:,}; save it again as UTF-8."
        ) from error
    text = text.removeprefix("\ufeff")
    if not text or text.isspace():
        raise FtlabError(f"{path.name} is empty; give it at least a few examples.")
    return text


def _limit(path: Path, number: int, most: int, what: str = "rows", way_out: str = "") -> None:
    if number > most:
        way_out = way_out or "take fewer rows"
        raise FtlabError(f"{path.name} has more than {most:,} {what}; {way_out}.")


def _limit_values(path: Path, values: int) -> None:
    only = "take fewer rows, or only the columns with prompts and completions"
    _limit(path, values, MAX_VALUES, "cells or values", only)


def _read_csv(path: Path) -> list[Row]:
    text = _text(path)
    _limit(path, max(map(text.count, ",\n\r")), _MAX_BREAKS, "commas or lines")
    # Not a StringIO, which uses four bytes per character.
    reader = csv.reader(_csv_lines(path, text), strict=True)
    rows: list[Row] = []
    try:
        header = [name.strip() for name in next(reader)]
        _check_header(path, header)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise FtlabError(
                    f"{path.name} line {reader.line_num} has {len(cells)} cells, the header has "
                    f"{len(header)}; quote cells that hold a comma."
                )
            rows.append(dict(zip(header, cells, strict=True)))
            _limit(path, len(rows), MAX_ROWS)
            _limit_values(path, len(rows) * len(header))
    except csv.Error as error:
        raise FtlabError(
            f"{path.name} is not valid CSV at line {reader.line_num}: {error}; correct that line."
        ) from error
    if not rows:
        raise FtlabError(f"{path.name} has a header but no rows; add some below it.")
    return rows


def _csv_lines(path: Path, text: str) -> Iterator[str]:
    """The lines with line ends; rejects long ones, on which csv.reader would block all threads."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin) + 1 or len(text)
        if end - begin > MAX_LINE_CHARACTERS:
            raise FtlabError(
                f"{path.name} has a line of more than {MAX_LINE_CHARACTERS:,} characters; shorten "
                "its cells, or end each row with a line end."
            )
        yield from (found.group() for found in _LINE.finditer(text, begin, end) if found.group())
        begin = end


def _check_header(path: Path, header: list[str]) -> None:
    check_columns(path, header)
    for name in header:
        if not name:
            raise FtlabError(f"{path.name} has a column without a name; name it in line 1.")
        if header.count(name) > 1:
            raise FtlabError(f"{path.name} has two columns '{name}'; rename one in line 1.")


def _parse(text: str, path: Path, line: int | None = None) -> Any:
    """Parses the JSON of a whole file, or of one line of it."""
    where = "" if line is None else f" line {line}"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise FtlabError(
            f"{path.name} is not valid JSON at {place}: {error.msg}; correct it there."
        ) from error
    except RecursionError as error:
        raise FtlabError(f"{path.name}{where} is nested too deeply; flatten it.") from error
    except ValueError as error:
        raise FtlabError(f"{path.name}{where} holds a number that is too long.") from error


def _objects(path: Path, items: Iterable[tuple[str, Any]]) -> list[Row]:
    """The items, which must be objects; each comes with its place for the message ("line 3")."""
    rows = []
    for place, item in items:
        if not isinstance(item, dict):
            raise FtlabError(
                f"{path.name} {place} is {_kind(item)}, not an object; write each one as "
                '{"prompt": …, "completion": …}.'
            )
        rows.append(item)
        _limit(path, len(rows), MAX_ROWS)
    return rows


def _kind(item: Any) -> str:
    if item is None:
        return "null"
    return "a list" if isinstance(item, list) else f"a {type(item).__name__}"


def _read_json(path: Path) -> list[Row]:
    text = _text(path)
    _limit_values(path, json_values(text, MAX_VALUES))
    content = _parse(text, path)
    if isinstance(content, dict):
        lists = [value for value in content.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise FtlabError(
                f"{path.name} is an object with {len(lists)} lists; give a list of objects, or an "
                "object that holds just one."
            )
        content = lists[0]
    if not isinstance(content, list):
        raise FtlabError(f"{path.name} holds {_kind(content)}; give a list of objects.")
    return _objects(path, ((f"item {number}", item) for number, item in enumerate(content, 1)))


def _read_jsonl(path: Path) -> list[Row]:
    text = _text(path)
    _limit(path, text.count("\n"), _MAX_BREAKS, "commas or lines")
    _limit_values(path, json_values(text, MAX_VALUES))
    # Not splitlines: a line separator such as U+2028 may occur inside a JSON string.
    lines = enumerate((found.group() for found in re.finditer("[^\n]*\n?", text)), 1)
    return _objects(
        path, ((f"line {n}", _parse(line, path, n)) for n, line in lines if line.strip())
    )


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow.parquet

    try:
        rows: list[Row] = []
        size = 0
        with pyarrow.parquet.ParquetFile(path) as file:
            metadata = file.metadata
            _limit(path, metadata.num_rows, MAX_ROWS)
            check_columns(path, file.schema_arrow.names)
            groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
            size = sum(group.total_byte_size for group in groups)
            _check_unpacked(path, size)
            columns = range(metadata.num_columns)
            values = (group.column(index).num_values for group in groups for index in columns)
            _limit_values(path, sum(values))
            leaves = [file.schema.column(index) for index in columns]
            texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        size = 0
        # Dictionary encoding stores a repeated text once, until the unpacked size is checked.
        with pyarrow.parquet.ParquetFile(path, read_dictionary=texts) as file:
            for batch in file.iter_batches(batch_size=1_000):
                size += sum(map(_unpacked_bytes, batch.columns))
                _check_unpacked(path, size)
                rows += batch.to_pylist()
                _limit(path, len(rows), MAX_ROWS)
    except FtlabError:
        raise
    except Exception as error:  # pyarrow passes on errors of Python's dates, zones and numbers
        raise FtlabError(
            f"{path.name} cannot be read as Parquet ({one_line(error)[:120]}); write it again."
        ) from error
    return rows


def _check_unpacked(path: Path, size: int) -> None:
    if size > MAX_PARQUET_BYTES:
        raise FtlabError(f"{path.name} unpacks to {size / 2**20:,.0f} MB; take fewer rows.")


def _unpacked_bytes(array: pyarrow.Array) -> int:
    """Bytes of all values of a column; a repeated value counts each time."""
    import pyarrow
    import pyarrow.compute

    kind = array.type
    if pyarrow.types.is_dictionary(kind):
        lengths = pyarrow.compute.binary_length(array.dictionary).cast(pyarrow.int64())
        return pyarrow.compute.sum(lengths.take(array.indices)).as_py() or 0
    if pyarrow.types.is_nested(kind):
        inner = array.flatten()
        return sum(map(_unpacked_bytes, inner if isinstance(inner, list) else [inner]))
    return int(array.nbytes)


_READERS = {
    ".csv": _read_csv,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
EXTENSIONS = tuple(_READERS)
"""The extensions of task files, with the dot."""


def load_hub_rows(
    dataset_id: str, config: str | None, split: str | None, limit: int = MAX_HUB_ROWS
) -> list[dict[str, Any]]:
    """The first `limit` rows of a split ("train" if None); runs no code of the data set.

    Raises `FtlabError` if it cannot be reached or read, and for an id without an owner: `datasets`
    has file readers with such names, one of them for pickles.
    """
    if not is_owned_hub_id(dataset_id):
        raise FtlabError(f"'{dataset_id[:120]}' is no data set id; write it as owner/name.")
    if Path(dataset_id).exists():
        # `datasets` would read this folder instead.
        raise FtlabError(f"'{dataset_id}' is a folder here too; rename it.")
    from datasets import load_dataset
    from huggingface_hub import HfApi

    split = split or "train"
    tried = f"data set '{dataset_id}'" + (f", config '{config}'" if config else "")
    try:
        # Without a connection this fails at once; load_dataset would retry for 20 seconds.
        HfApi().dataset_info(dataset_id, timeout=10)
        stream = load_dataset(dataset_id, config, split=split, streaming=True)
        rows = [dict(row) for row in stream.take(limit)]
    except Exception as error:  # `datasets` passes on any error of its HTTP and file layers
        raise FtlabError(
            f"Could not read {tried}, split '{split}', from the Hub ({one_line(error)[:160]}); "
            "check the names and the connection, or download it and use the file."
        ) from error
    if not rows:
        raise FtlabError(f"{tried}, split '{split}', has no rows; choose another split.")
    return rows


MIN_EXAMPLES = 3
"""One example for each of the three sets."""
MAX_EVALUATION = 200
EVALUATION_SHARE = 0.1

_PROMPT_NAMES = ("prompt", "question", "instruction", "input", "query", "source", "text")
_COMPLETION_NAMES = ("completion", "answer", "output", "response", "target", "summary", "sql")
_MESSAGES_NAMES = ("messages", "conversations", "conversation", "chat")
_SYSTEM_NAMES = ("system", "system_prompt")
_ROLES: dict[str, Role] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
}


@dataclass(frozen=True)
class ColumnMapping:
    """The roles of columns: `prompt` and `completion`, or `messages` with a chat.

    `system` is a column with the system message, if there is one.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    prompt: str | None = None
    completion: str | None = None
    messages: str | None = None
    system: str | None = None


def guess_mapping(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> ColumnMapping:
    """Guesses the mapping from the names and the first rows; a column of chats has priority.

    Unknown names are not guessed: to train on the wrong column costs more than to name it.
    """
    by_name = {column.lower(): column for column in reversed(columns)}

    def first(names: Sequence[str]) -> str | None:
        return next((by_name[name] for name in names if name in by_name), None)

    system = first(_SYSTEM_NAMES)
    chats = [by_name[name] for name in _MESSAGES_NAMES if name in by_name]
    for column in [*chats, *columns]:
        if any(_turns(row.get(column)) for row in rows[:20]):
            return ColumnMapping(messages=column, system=system)
    prompt, completion = first(_PROMPT_NAMES), first(_COMPLETION_NAMES)
    return ColumnMapping(prompt=prompt, completion=completion, system=system)


def check_mapping(mapping: ColumnMapping) -> str | None:
    """The error message for an incomplete or contradictory mapping; None if it is valid."""
    if mapping.messages and (mapping.prompt or mapping.completion):
        return "Columns are set for both messages and prompt or completion; keep one of the two."
    if mapping.messages or (mapping.prompt and mapping.completion):
        return None
    missing = "completion" if mapping.prompt else "prompt"
    return f"No column is set for the {missing}; choose one, or a column of chat messages."


def to_task_data(rows: Sequence[Mapping[str, Any]], mapping: ColumnMapping, seed: int) -> TaskData:
    """The three sets, shuffled by `seed`; each prompt is in one set only.

    Tuning and held-out set each get a tenth, from 1 to 200 examples. Raises `FtlabError` for a
    column that is missing or empty, and for fewer than 3 usable rows.
    """
    sentence = check_mapping(mapping)
    if sentence:
        raise FtlabError(sentence)
    _check_columns(rows, mapping)
    examples: list[Example] = []
    prompts: set[tuple[Message, ...]] = set()
    unusable = repeated = 0
    for row in rows:
        example = _example(row, mapping)
        if example is None:
            unusable += 1
        elif example.prompt in prompts:
            repeated += 1
        else:
            prompts.add(example.prompt)
            examples.append(example)
    if len(examples) < MIN_EXAMPLES:
        raise FtlabError(_too_few(len(examples), len(rows)))
    random.Random(f"custom/{seed}").shuffle(examples)
    size = min(MAX_EVALUATION, max(1, round(len(examples) * EVALUATION_SHARE)))
    return TaskData(
        train=tuple(examples[2 * size :]),
        tuning=tuple(examples[size : 2 * size]),
        held_out=tuple(examples[:size]),
        notes=_notes(mapping, unusable, repeated),
    )


def _too_few(usable: int, rows: int) -> str:
    needed = (
        f"at least {MIN_EXAMPLES} are needed, one each for training, tuning and scoring, so add "
        "some."
    )
    if usable == rows:
        return f"The data have only {plural(rows, 'row')}; {needed}"
    if not usable:
        return f"None of the {plural(rows, 'row')} has both a prompt and a completion; {needed}"
    what = "has a prompt of its own" if usable == 1 else "have prompts of their own"
    return f"Only {usable:,} of the {plural(rows, 'row')} {what} and a completion; {needed}"


def _notes(mapping: ColumnMapping, unusable: int, repeated: int) -> tuple[str, ...]:
    notes = []
    if unusable:
        what = "a chat that ends with an answer" if mapping.messages else "a prompt or a completion"
        notes.append(f"{plural(unusable, 'row')} without {what} left out.")
    if repeated:
        notes.append(f"{plural(repeated, 'row')} with a prompt that came before left out.")
    return tuple(notes)


def _check_columns(rows: Sequence[Mapping[str, Any]], mapping: ColumnMapping) -> None:
    columns = columns_of(rows)
    for column in (mapping.prompt, mapping.completion, mapping.messages, mapping.system):
        if column is None:
            continue
        if column not in columns:
            raise FtlabError(
                f"task file has no column '{column[:80]}'; columns: {list_columns(columns)}."
            )
        if column != mapping.system and not any(_cell(row.get(column)) for row in rows):
            raise FtlabError(f"Column '{column}' is empty in every row; choose another column.")


def _example(row: Mapping[str, Any], mapping: ColumnMapping) -> Example | None:
    """The example of a row, or None if prompt or completion is missing."""
    if mapping.messages:
        turns = _turns(row.get(mapping.messages))
        while turns and turns[-1].role != "assistant":
            turns.pop()
        if len(turns) < 2 or turns[-2].role != "user":
            return None
        prompt, completion = turns[:-1], turns[-1].content
    else:
        question = _cell(row.get(mapping.prompt or ""))
        completion = _cell(row.get(mapping.completion or ""))
        if not question or not completion:
            return None
        prompt = [Message("user", question)]
    system = _cell(row.get(mapping.system)) if mapping.system else ""
    if system and prompt[0].role != "system":
        prompt.insert(0, Message("system", system))
    return Example(tuple(prompt), completion)


def _turns(value: Any) -> list[Message]:
    """The turns of a chat: a list of {"role", "content"} or {"from", "value"}, or its JSON text.

    Empty if the value is not such a chat, or a turn has an unknown role or no text.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return []
    if not isinstance(value, list | tuple):
        return []
    turns = []
    for item in value:
        if not isinstance(item, Mapping):
            return []
        role = _ROLES.get(str(item.get("role", item.get("from", ""))).lower())
        content = item.get("content", item.get("value"))
        if role is None or not isinstance(content, str) or not content.strip():
            return []
        turns.append(Message(role, content.strip()))
    return turns


def _cell(value: Any) -> str:
    """A cell as text without white space around it; "" for None and NaN."""
    if value is None or value != value:  # only NaN differs from itself
        return ""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False, default=str) if value else ""
    return str(value)
