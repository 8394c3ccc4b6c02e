"""The app's log: what stands in it, what never does, and that it stops nothing."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics import log
from ftlab.basics.log import (
    app_log,
    note,
    note_error,
    note_refusal,
    redact,
    secrets_of,
    without_inputs,
)

TOKEN = "hf_AbCdEfGhIjKlMnOpQrStUvWx"


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "app.log").read_text("utf-8").splitlines()]


def fail(message: str) -> ValueError:
    try:
        raise ValueError(message)
    except ValueError as error:
        return error


def test_each_event_is_one_line_of_json_with_its_facts(tmp_path: Path) -> None:
    with app_log(tmp_path):
        note("runs deleted", runs=["a", "b"])
        note_refusal("request refused", status=403, path="/x\ny")
    deleted, refused = rows(tmp_path)
    assert (deleted["event"], deleted["level"], deleted["runs"]) == (
        "runs deleted", "info", ["a", "b"],
    )  # fmt: skip
    assert deleted["time"].endswith("Z")
    assert (refused["level"], refused["path"]) == ("warning", "/x\ny")


def test_an_error_stands_there_with_its_stack_and_without_what_was_sent(tmp_path: Path) -> None:
    prompt = 'My diagnosis is "secret"\nand long'
    with app_log(tmp_path):
        note_error("handler failed", fail(f"cannot parse {prompt!r}"), [{"text": [prompt]}])
    (row,) = rows(tmp_path)
    assert row["error"] == "ValueError"
    assert "diagnosis" not in json.dumps(row)
    assert row["message"] == "cannot parse '[given]'"
    assert any(frame.endswith(" fail") for frame in row["stack"])


def test_a_closed_log_leaves_logging_as_it_was_and_nothing_is_written_or_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("ftlab.app")
    before = (list(logger.handlers), logger.level, logger.propagate)
    with app_log(tmp_path):
        note("one")
        assert (list(logger.handlers), logger.level) != before[:2]
    assert (list(logger.handlers), logger.level, logger.propagate) == before
    note("two")
    note_error("three", fail("x"))
    assert [row["event"] for row in rows(tmp_path)] == ["one"]
    assert capfd.readouterr().err == ""


@pytest.mark.hostile("tokens in the log")
@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"https://user:{TOKEN}@huggingface.co/x",
        f"{{'token': '{TOKEN}'}}",
        f"Authorization: Bearer {TOKEN}",
        "Authorization: Bearer abcdef0123456789",
        "authorization: basic dXNlcjpwYXNzd29yZA==",
        'the value pa"ss\\word-1 of a variable',
        "a password from FTLAB_AUTH: correct-horse",
    ],
)
def test_no_token_and_no_secret_of_the_environment_reaches_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", 'pa"ss\\word-1')
    monkeypatch.setenv("FTLAB_AUTH", "ada:correct-horse")
    with app_log(tmp_path):
        note("event", text=text, nested={"deep": [text]})
        note_refusal(text)
        note_error("failed", fail(text))
    written = (tmp_path / "app.log").read_text("utf-8")
    secrets = (TOKEN, "abcdef0123456789", "dXNlcjpwYXNzd29yZA", "ss\\\\word-1", "correct-horse")
    assert [secret for secret in secrets if secret in written] == []
    assert len(rows(tmp_path)) == 3


def test_short_values_and_innocent_variables_hide_nothing() -> None:
    given = {
        "HF_TOKEN": TOKEN, "USE_AUTH": "1", "HOME": "/home/somebody", "DB_PASSWORD": "hunter22"
    }  # fmt: skip
    assert secrets_of(given) == (TOKEN, "hunter22")
    assert redact("port 1 of /home/somebody", secrets_of(given)) == "port 1 of /home/somebody"
    assert without_inputs("step 12 of run", ["run", 12, None, {"a": True}]) == "step 12 of run"


def test_files_rotate_and_only_so_many_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "FILE_BYTES", 2000)
    with app_log(tmp_path):
        for number in range(200):
            note("event", number=number, padding="x" * 100)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["app.log", *(f"app.log.{i}" for i in range(1, log.OLD_FILES + 1))]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    assert rows(tmp_path)[-1]["number"] == 199


@pytest.mark.parametrize(
    ("in_the_way", "folder", "said"),
    [
        pytest.param(
            Path.touch, "app.log/.ftlab", "the app goes on without it",
            marks=pytest.mark.fault("log folder cannot be made"), id="no folder",
        ),
        pytest.param(
            Path.mkdir, ".", "cannot be written",
            marks=pytest.mark.fault("log file replaced by a folder"), id="no file",
        ),
    ],
)  # fmt: skip
def test_a_log_that_cannot_be_written_is_said_once_and_the_app_goes_on(
    in_the_way: Callable[[Path], None], folder: str, said: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    in_the_way(tmp_path / "app.log")
    with app_log(tmp_path / folder):
        note("one")
        note("two")
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.fault("disk full while the log is written")
def test_a_full_disk_is_said_once_and_the_log_goes_on_when_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "app.log"
    path.symlink_to("/dev/full")  # every write to it ends with ENOSPC
    with app_log(tmp_path):
        for number in range(5):
            note("lost", number=number)
        assert capsys.readouterr().err.count("No space left on device") == 1
        path.unlink()
        note("found")
        path.rename(tmp_path / "kept")
    kept = (tmp_path / "kept").read_text().splitlines()
    assert [json.loads(line)["event"] for line in kept] == ["found"]
    assert capsys.readouterr().err == ""
