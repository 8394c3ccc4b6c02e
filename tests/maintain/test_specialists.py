"""The adapters that ship with ftlab, and the command that trains them; nothing is trained here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.maintain import specialists
from ftlab.maintain.__main__ import main
from ftlab.maintain.specialists import MAX_WEIGHTS_BYTES, publish, run_record
from ftlab.models.files import read_header
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.adapter_files import check_config
from ftlab.playground.panes import (
    CONFIG_FILE,
    RECORD_FILE,
    WEIGHTS_FILE,
    find_source,
    read_record,
    shipped_folder,
)
from ftlab.records.result import RunResult
from ftlab.records.run import run_directories
from ftlab.records.store import Run, read_run
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.registry import TASKS
from tests.fakes import make_run, plausible_measures
from tests.playground.adapters import adapter_folder, config_bytes, weights

FILES = sorted([CONFIG_FILE, WEIGHTS_FILE, RECORD_FILE, "record.json"])


def specialist(folder: Path, config: bytes | None = None, **measures: Any) -> Run:
    """A finished run on SQL with a small adapter, on a machine that tells much of itself."""
    directory = make_run(folder, "lora", model=BUNDLED_ID, measures=measures)
    adapter_folder(directory.adapter, config)
    (directory.adapter / "README.md").write_text("not shipped")
    run = read_run(directory)
    assert run.result is not None
    environment = {
        "device": "CPU", "metric": "SQL score", "platform": "Linux-6.1-secret-host",
        "settings": {"LD_PRELOAD": "/home/alice/lib.so"}, "memory_bytes": 8,
    }  # fmt: skip
    return replace(run, result=replace(run.result, environment=environment))


@pytest.mark.parametrize("task_id", TASKS)
def test_a_shipped_adapter_is_complete_small_and_better_than_the_base(task_id: str) -> None:
    folder = shipped_folder() / task_id
    assert sorted(path.name for path in folder.iterdir()) == FILES
    data = (folder / WEIGHTS_FILE).read_bytes()
    assert len(data) < MAX_WEIGHTS_BYTES
    record = read_record(folder)
    assert record.sha256 == hashlib.sha256(data).hexdigest()
    assert (record.method, record.model) == ("lora", BUNDLED_ID)
    assert record.task == TaskReference("bundled", task_id)
    facts = check_config((folder / CONFIG_FILE).read_bytes())
    assert facts.model == BUNDLED_ID
    assert json.loads((folder / CONFIG_FILE).read_bytes())["base_model_name_or_path"] == BUNDLED_ID
    assert f"r={facts.rank}," in record.detail
    run = json.loads((folder / "record.json").read_bytes())
    assert run["measures"]["score_after"] > run["measures"]["score_before"] + 0.3
    assert run["measures"]["eval_loss_after"] < run["measures"]["eval_loss_before"]
    assert run["spec"]["task"]["id"] == task_id
    assert run["environment"]["model_hash"]


@pytest.mark.parametrize("task_id", TASKS)
def test_a_shipped_adapter_is_in_fp32_is_found_by_its_name_and_tells_nothing_of_its_machine(
    task_id: str,
) -> None:
    source = find_source(Path("nowhere"), f"shipped:{task_id}")
    assert source.title.endswith("ships with ftlab")
    assert source.folder is not None
    with (source.folder / WEIGHTS_FILE).open("rb") as file:
        header = read_header(file, WEIGHTS_FILE)
        assert header.file_bytes == (source.folder / WEIGHTS_FILE).stat().st_size
    assert b'"dtype":"F32"' in header.raw
    assert b"F16" not in header.raw
    for path in source.folder.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for trace in ("/home", "/root", "/tmp", "/work", "run_dir", "run_id", "platform"):
            assert trace not in text, f"{path.name} holds {trace}"


def test_the_record_keeps_the_numbers_and_leaves_out_the_machine_s_own(tmp_path: Path) -> None:
    record = run_record(specialist(tmp_path))
    assert record["spec"]["learning_rate"] == 2e-3
    assert record["spec"]["settings"]["steps"] == 30
    assert record["measures"]["score_after"] == 0.71
    assert record["environment"] == {"device": "CPU", "metric": "SQL score"}
    text = json.dumps(record)
    for trace in (str(tmp_path), "alice", "secret-host", "run_id", "sweep_id", "run_dir"):
        assert trace not in text


def test_a_published_adapter_is_four_files_that_the_playground_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "shipped"
    for _ in range(2):  # a second time it takes the place of the first
        folder = publish(specialist(tmp_path / "runs"), target)
        (folder / "left over").touch()
    folder = publish(specialist(tmp_path / "runs"), target)
    assert [path.name for path in target.iterdir()] == ["sql"]
    assert sorted(path.name for path in folder.iterdir()) == FILES
    record = read_record(folder)
    assert record.label == "SQL specialist"
    assert record.detail == "LoRA r=8, 30 steps, ships with ftlab"
    assert record.sha256 == hashlib.sha256(weights()).hexdigest()
    monkeypatch.setattr("ftlab.playground.panes.shipped_folder", lambda: target)
    assert find_source(tmp_path, "shipped:sql").folder == folder


@pytest.mark.parametrize(
    ("changes", "limit", "sentence"),
    [
        ({}, 100, "bytes; below 100 it may ship"),
        ({"score_after": 0.31}, None, "the score went from 0.31 to 0.31"),
        ({"score_after": None}, None, "the score went from 0.31 to –"),
        ({"config": config_bytes(base_model_name_or_path="/a/b")}, None, "its base '/a/b', not"),
    ],
)
def test_what_is_not_fit_to_ship_is_refused_and_the_old_one_stays(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    limit: int | None,
    sentence: str,
) -> None:
    target = tmp_path / "shipped"
    publish(specialist(tmp_path / "runs"), target)
    before = (target / "sql" / "record.json").read_bytes()
    if limit is not None:
        monkeypatch.setattr(specialists, "MAX_WEIGHTS_BYTES", limit)
    with pytest.raises(FtlabError, match=sentence):
        publish(specialist(tmp_path / "runs", **changes), target)
    assert (target / "sql" / "record.json").read_bytes() == before
    assert [path.name for path in target.iterdir()] == ["sql"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The runs folders in which work began; every run there is done at once, with an adapter."""
    folders: list[Path] = []

    def work(folder: Path) -> None:
        folders.append(folder)
        for directory in run_directories(folder):
            if directory.result() is None:
                adapter_folder(directory.adapter)
                method = directory.spec().method
                directory.write_result(RunResult("done", measures=plausible_measures(method)))

    monkeypatch.setattr(specialists, "start_dispatcher", work)
    monkeypatch.setattr(specialists, "ensure_bundled", lambda say: None)
    return folders


def test_the_command_trains_each_task_once_and_leaves_no_runs_behind(
    started: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ["--only", "medical", "--only", "sql", "--only", "sql"]
    status = main(["specialists", *only, "--steps", "7", "--target", str(tmp_path)])
    out = capsys.readouterr().out.splitlines()
    assert status == 0
    assert [line.split(":")[0] for line in out] == ["Medical summary", "SQL"]
    assert "score 0.31 → 0.71" in out[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["medical", "sql"]
    assert "7 steps" in read_record(tmp_path / "sql").detail
    assert started
    assert not started[0].exists()


def test_all_tasks_are_trained_and_the_runs_kept_where_a_folder_is_named(
    started: list[Path], tmp_path: Path
) -> None:
    runs, target = tmp_path / "runs", tmp_path / "shipped"
    assert main(["specialists", "--runs-dir", str(runs), "--target", str(target)]) == 0
    assert sorted(path.name for path in target.iterdir()) == sorted(TASKS)
    specs = [directory.spec() for directory in run_directories(runs)]
    assert [spec.is_base for spec in specs] == [True, False] * len(TASKS)
    assert {spec.settings.eval_examples for spec in specs} == {200}


def test_a_run_that_fails_is_one_sentence_and_publishes_nothing(
    started: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(folder: Path) -> None:
        for directory in run_directories(folder):
            directory.write_result(RunResult("failed", "The disk is gone."))

    monkeypatch.setattr(specialists, "start_dispatcher", fail)
    assert main(["specialists", "--only", "sql", "--target", str(tmp_path)]) == 2
    assert "SQL: Base bf16 is failed: The disk is gone." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--only", "sqll"], "invalid choice: 'sqll'"),
        (["--only", "sql", "--steps", "0"], "Steps is 0"),
    ],
)
def test_a_wrong_option_is_status_2_and_trains_nothing(
    started: list[Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    part: str,
) -> None:
    try:
        status = main(["specialists", "--target", str(tmp_path), *arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    assert part in capsys.readouterr().err
    assert started == []
