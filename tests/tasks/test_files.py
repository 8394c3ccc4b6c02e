"""Task files and Hub data sets: what is read, how rows become examples, and each error message."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.tasks import files
from ftlab.tasks.files import (
    ColumnMapping,
    columns_of,
    guess_mapping,
    load_hub_rows,
    read_rows,
    to_task_data,
)
from ftlab.tasks.reference import TaskReference, load, parse_task, validate, with_columns
from ftlab.tasks.spec import Message

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
    monkeypatch.setattr(files, "MAX_CELL_CHARACTERS", 50)
    monkeypatch.setattr(files, "MAX_ROWS", 5)
    assert len(read_rows(path)) == 5
    monkeypatch.setattr(files, "MAX_COLUMN_NAME", 0)
    with pytest.raises(FtlabError, match="a column whose name has 1 characters"):
        read_rows(path)
    monkeypatch.setattr(files, "MAX_COLUMNS", 0)
    with pytest.raises(FtlabError, match="has 1 columns, more than 0"):
        read_rows(path)
    monkeypatch.setattr(files, "MAX_ROWS", 4)
    with pytest.raises(FtlabError, match="more than 4 rows"):
        read_rows(path)
    monkeypatch.setattr(files, "MAX_BYTES", 100)
    with pytest.raises(FtlabError, match="more than 0 MB"):
        read_rows(path)


PAIRS = ColumnMapping(prompt="prompt", completion="completion")


def rows(count: int) -> list[dict[str, Any]]:
    return [{"prompt": f"question {i}", "completion": f"answer {i}"} for i in range(count)]


def guessed(*some: dict[str, Any]) -> ColumnMapping:
    return guess_mapping(columns_of(some), some)


def test_sets_are_shuffled_by_seed_and_never_overlap() -> None:
    data = to_task_data(rows(50) + rows(50), PAIRS, seed=0)
    assert (len(data.train), len(data.tuning), len(data.held_out)) == (40, 5, 5)
    prompts = [e.prompt for e in data.train + data.tuning + data.held_out]
    assert len(set(prompts)) == 50
    assert data.notes == ("50 rows with a prompt that came before left out.",)
    assert data.fingerprint(8) == to_task_data(rows(50) + rows(50), PAIRS, 0).fingerprint(8)
    assert data.fingerprint(8) != to_task_data(rows(50), PAIRS, 1).fingerprint(8)


def test_evaluation_sets_hold_at_most_200() -> None:
    data = to_task_data(rows(5_000), PAIRS, seed=0)
    assert (len(data.train), len(data.tuning), len(data.held_out)) == (4_600, 200, 200)


def test_three_rows_make_three_sets() -> None:
    data = to_task_data(rows(3), PAIRS, seed=0)
    assert (len(data.train), len(data.tuning), len(data.held_out)) == (1, 1, 1)


def test_rows_without_prompt_or_completion_are_counted() -> None:
    spoilt = [{"prompt": " ", "completion": "x"}, {"prompt": "y", "completion": None}]
    data = to_task_data(rows(5) + spoilt, PAIRS, seed=0)
    assert data.notes == ("2 rows without a prompt or a completion left out.",)


@pytest.mark.parametrize(
    ("some", "mapping", "sentence"),
    [
        (rows(2), PAIRS, "only 2 rows; at least 3 are needed"),
        (rows(1) * 9, PAIRS, "Only 1 of the 9 rows has a prompt of its own and a completion"),
        (
            rows(5),
            ColumnMapping(prompt="question", completion="completion"),
            "task file has no column 'question'; columns: prompt, completion",
        ),
        (
            [{"prompt": "a", "completion": ""}] * 5,
            PAIRS,
            "Column 'completion' is empty in every row",
        ),
        (rows(5), ColumnMapping(prompt="prompt"), "No column is set for the completion"),
        (rows(5), ColumnMapping(prompt="prompt", messages="m"), "keep one of the two"),
    ],
)
def test_unusable_data_is_explained(
    some: list[dict[str, Any]], mapping: ColumnMapping, sentence: str
) -> None:
    with pytest.raises(FtlabError, match=sentence):
        to_task_data(some, mapping, seed=0)


def test_columns_are_guessed_from_their_names() -> None:
    assert guessed({"Question": "a", "id": 1, "Answer": "b"}) == ColumnMapping("Question", "Answer")
    assert guessed({"instruction": "a", "output": "b", "system": "c"}) == ColumnMapping(
        "instruction", "output", system="system"
    )
    both = {"input": "a", "target": "b", "prompt": "c", "answer": "d"}
    assert guessed(both) == ColumnMapping("prompt", "answer"), "the better name of two"
    assert guessed({"english": "a", "french": "b"}) == ColumnMapping()
    assert guessed({"a": "1", "b": "2", "c": "3"}) == ColumnMapping()


CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "{}"},
    {"role": "assistant", "content": "Bye"},
]


def chats(turns: list[dict[str, str]]) -> list[list[dict[str, str]]]:
    """Five chats that differ in their last question."""
    return [
        [{k: v.replace("{}", f"Part {i}") for k, v in turn.items()} for turn in turns]
        for i in range(5)
    ]


def test_a_chat_becomes_its_turns_and_the_last_answer() -> None:
    some = [{"messages": chat, "system": "Be brief."} for chat in chats(CHAT)]
    mapping = guessed(*some)
    assert mapping == ColumnMapping(messages="messages", system="system")
    example = to_task_data(some, mapping, seed=0).train[0]
    assert [m.role for m in example.prompt] == ["system", "user", "assistant", "user"]
    assert example.question.startswith("Part ")
    assert example.completion == "Bye"


def test_a_sharegpt_chat_and_a_chat_as_json_text_are_understood() -> None:
    share = [
        {"from": {"user": "human", "assistant": "gpt"}[t["role"]], "value": t["content"]}
        for t in CHAT
    ]
    for some in (
        [{"conversations": chat} for chat in chats(share)],
        [{"conversations": json.dumps(chat)} for chat in chats(share)],
    ):
        data = to_task_data(some, guessed(*some), seed=0)
        assert data.train[0].completion == "Bye"
        assert data.train[0].prompt[0] == Message("user", "Hi")


def test_a_chat_without_an_answer_is_left_out() -> None:
    some = [{"messages": chat} for chat in [*chats(CHAT), [CHAT[0]], CHAT[1:2]]]
    data = to_task_data(some, ColumnMapping(messages="messages"), seed=0)
    assert data.notes == ("2 rows without a chat that ends with an answer left out.",)


def test_the_command_line_words_are_understood(tmp_path: Path) -> None:
    assert parse_task("sql") == TaskReference("bundled", "sql")
    assert parse_task("hub:owner/name") == TaskReference("hub", "owner/name")
    assert parse_task(str(tmp_path / "a.csv")) == TaskReference("file", str(tmp_path / "a.csv"))
    with pytest.raises(FtlabError, match=r"There is no task 'sqll'.*'sql'.*hub:owner/name"):
        parse_task("sqll")


def test_wrong_fields_of_a_reference_are_listed_without_reading_data() -> None:
    wrong = TaskReference("hub", "no slash", ColumnMapping("a"), metric="bleu", seed=-1)
    fields = [error.field for error in validate(wrong)]
    assert fields == ["task.id", "task.metric", "task.mapping", "task.seed"]
    assert validate(TaskReference("bundled", "sql")) == []
    assert validate(TaskReference("file", "/no/a.csv"))[0].field == "task.id"
    assert validate(TaskReference("zip", "x"))[0].field == "task.kind"  # type: ignore[arg-type]


def test_a_file_is_loaded_with_guessed_columns_and_the_chosen_metric(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(rows(10)))
    task, data = load(TaskReference("file", str(path), metric="exact_match"))
    assert task.label == "mine.json"
    assert task.metric.key == "exact_match"
    assert len(data.train) == 8
    assert task.metric.score_each(data.held_out, [f" {data.held_out[0].completion}\n"]) == [1.0]
    other = load(TaskReference("file", str(path), seed=1))
    assert other[0].metric.key == "chrf"
    assert other[1] == to_task_data(rows(10), PAIRS, seed=1) != data


def test_columns_named_by_hand_replace_those_of_a_reference_and_the_rest_stays() -> None:
    given = TaskReference("file", "/a.csv", PAIRS, metric="rouge_l")
    assert with_columns(given, {}) is given
    changed = with_columns(given, {"prompt": "q", "completion": "a"}, split="test")
    mapping = ColumnMapping("q", "a")
    assert changed == TaskReference("file", "/a.csv", mapping, metric="rouge_l", split="test")
    assert with_columns(given, {}, metric="chrf") == TaskReference("file", "/a.csv", PAIRS, "chrf")
    with pytest.raises(FtlabError, match="no column role 'answer'; roles: prompt, completion"):
        with_columns(given, {"answer": "a"})
    with pytest.raises(FtlabError, match="has its own columns and metric"):
        with_columns(TaskReference("bundled", "sql"), {}, metric="chrf")


def test_a_file_whose_columns_cannot_be_guessed_lists_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("a,b,c\n1,2,3\n")
    with pytest.raises(FtlabError, match=r"No column is set for the prompt.*columns: a, b, c"):
        load(TaskReference("file", str(path)))


def test_a_hub_that_cannot_be_reached_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", fail)
    with pytest.raises(FtlabError, match=r"Could not read data set 'owner/name'.*no network"):
        load_hub_rows("owner/name", None, None, 10)


def test_the_first_rows_of_the_split_that_was_named_are_read_from_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def load_dataset(*given: Any, **named: Any) -> Any:
        asked.append((*given, named))
        found = [] if named["split"] == "empty" else rows(9)
        return SimpleNamespace(take=lambda count: found[:count])

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", lambda *_, **__: None)
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert load_hub_rows("owner/name", None, None, 4) == rows(4)
    assert load_hub_rows("owner/name", "small", "test") == rows(9)
    assert asked == [
        ("owner/name", None, {"split": "train", "streaming": True}),
        ("owner/name", "small", {"split": "test", "streaming": True}),
    ]
    with pytest.raises(FtlabError, match="split 'empty', has no rows; choose another split"):
        load_hub_rows("owner/name", None, "empty")


@pytest.mark.parametrize("bad", ["pandas", "../etc", "a/b/c", "https://x.y/z", ""])
def test_a_malformed_hub_id_is_refused(bad: str) -> None:
    with pytest.raises(FtlabError, match="is no data set id"):
        load_hub_rows(bad, None, None, 10)
