"""`race` in the terminal: what it tells, its answer, JSON, and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftlab.__main__ import main
from ftlab.commands.race import lines
from ftlab.race import worker
from ftlab.race.record import RaceDirectory, list_races
from ftlab.records.spec import SweepRequest
from tests.commands.test_tune import SMALL
from tests.fakes import DEAD_PID
from tests.training.one_run import work_off


@pytest.fixture
def race(
    tiny_model: Path, task_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The command, with its process in this one."""

    def conduct(module: str, log: Path, environment: Any, path: str) -> None:
        assert module == "ftlab.race.worker"
        worker.main([path])

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ftlab.race.start.start_detached", conduct)
    monkeypatch.setattr("ftlab.race.runner.start_dispatcher", work_off)
    where = ["--model", str(tiny_model), "--task", str(task_file), "--runs-dir", "runs"]
    return ["race", *where, *SMALL, "--methods", "lora,ia3", "--seeds", "0"]


@pytest.mark.slow
@pytest.mark.model
def test_a_race_tells_who_goes_on_and_ends_with_an_answer(
    race: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*race, "--minutes", "5", "--prefer", "file"]) == 0
    said = capsys.readouterr()
    assert "candidates of 2 methods" in said.err
    assert "This takes about " in said.err
    assert "To step 1: " in said.err
    assert "is out: loss " in said.err
    assert "Scored on the test examples with seed 0: " in said.err
    assert "were compared on the tuning examples" in said.out
    (found,) = list_races(tmp_path / "runs")
    assert found.request().settings.prefer == "file"


@pytest.mark.slow
@pytest.mark.model
def test_a_stopped_race_says_how_to_go_on_and_does_printing_json_alone_if_asked(
    race: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def stop(folder: Path) -> None:
        list_races(folder)[0].cancel_file.touch()

    monkeypatch.setattr("ftlab.race.runner.start_dispatcher", stop)
    monkeypatch.setattr("ftlab.race.runner.QueuedRunner.end_all", lambda runner: None)
    assert main(race) == 1
    (found,) = list_races(tmp_path / "runs")
    assert f"To go on: python -m ftlab race --resume {found.race_id}" in capsys.readouterr().err
    monkeypatch.setattr("ftlab.race.runner.start_dispatcher", work_off)
    assert main(["race", "--resume", found.race_id, "--runs-dir", "runs", "--json"]) == 0
    said = capsys.readouterr()
    content = json.loads(said.out)
    assert content["status"] == "done"
    assert content["recommendation"]["prefer"] == "score"
    assert content["tried"] == content["candidates"]
    assert "To step" not in said.err
    assert main(["race", "--resume", found.race_id, "--runs-dir", "runs"]) == 2
    assert "is done; only one that ended early can go on" in capsys.readouterr().err


def test_a_race_whose_process_dies_says_how_to_go_on(
    race: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def die(module: str, log: Path, environment: Any, path: str) -> None:
        RaceDirectory(Path(path)).write_worker(DEAD_PID, 0.0)

    monkeypatch.setattr("ftlab.race.start.start_detached", die)
    assert main(race) == 2
    (found,) = list_races(tmp_path / "runs")
    said = capsys.readouterr().err
    assert "The race was cut off: The worker ended without a result" in said
    assert f"--resume {found.race_id}" in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--minutes", "0"], "Minutes is 0; it must lie between 0.5 and"),
        (["--memory", "much"], "The memory limit 'much' is no size"),
        (["--methods", "nonsense"], "nonsense"),
        (["--methods", ""], "Name at least one"),
        (["--resume", "x"], "There is no race 'x'"),
        (["--steps", "0"], "Steps"),
    ],
)
def test_wrong_input_is_one_sentence(
    options: list[str], words: str, race: list[str], capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    assert main([*race, *options]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert list_races(tmp_path / "runs") == []


def test_a_limit_of_memory_is_part_of_the_request(
    race: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[SweepRequest] = []

    def planned(request: SweepRequest, *beside: Any) -> None:
        asked.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr("ftlab.commands.race.begin_race", planned)
    assert main([*race, "--memory", "2GB"]) == 130
    assert asked[0].memory_limit == 2_000_000_000


def test_what_happens_is_told_in_a_line_each() -> None:
    events = [
        {"event": "start", "pid": 1},
        {"event": "rung", "step": 5, "candidates": 9},
        {"event": "reading", "label": "LoRA", "step": 5, "loss": 1.25, "elapsed": 61.0},
        {"event": "reading", "label": "IA3", "step": 5, "loss": None, "elapsed": 70.0},
        {"event": "left", "label": "IA3", "reason": "the loss is not a number"},
        {"event": "no_time", "step": 5, "labels": ["DoRA", "VeRA"]},
        {"event": "final", "seed": 0, "finalists": ["LoRA", "full"]},
        {"event": "note", "sentence": "There is no time for seed 1."},
    ]
    assert list(lines(events)) == [
        "To step 5: 9 candidates",
        "  LoRA: loss 1.250 after step 5 (1 min 01 s)",
        "  IA3 is out: the loss is not a number",
        "  No time was left to train to step 5: DoRA and VeRA",
        "Scored on the test examples with seed 0: LoRA and full",
        "There is no time for seed 1.",
    ]
