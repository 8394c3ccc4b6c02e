"""What is refused before a grid starts, and what its record says when it does."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.grid import MAX_PROMPTS, GridRequest, list_grids, start_grid, validate_grid
from ftlab.playground.requests import MAX_GRID_PANES, GenerateRequest
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.spec import Message
from tests.fakes import make_run
from tests.playground.grid.fakes import make_request

BASE_ONLY: dict[str, Any] = {"panes": ("base",), "labels": (), "methods": ()}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Command lines of the processes that would have been started."""
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: commands.append(command))
    return commands


@pytest.mark.parametrize(
    ("request_", "field", "part"),
    [
        (make_request([], **BASE_ONLY), "prompts", "There are 0 prompts"),
        (make_request(["a"] * 201, **BASE_ONLY), "prompts", "takes 1 to 200, so leave some out"),
        (make_request(["a", " "], **BASE_ONLY), "prompts", "Prompt 2 is empty"),
        (make_request(["a" * 100_001], **BASE_ONLY), "prompts", "Prompt 1 has 100,001 characters"),
        (make_request(temperature=9, **BASE_ONLY), "temperature", "9"),
        (make_request(panes=()), "panes", "0 panes"),
        (make_request(panes=("base",) * 66), "panes", "66 panes are chosen; choose 1 to 65"),
        (make_request(**(BASE_ONLY | {"labels": ("a", "b")})), "labels", "2 labels for 1 panes"),
        (make_request(task=TaskReference("bundled", "sqll"), **BASE_ONLY), "task.id", "sqll"),
        (
            make_request(histories=((Message("user", "a"),),), **BASE_ONLY),
            "histories",
            "A grid has no chats",
        ),
    ],
)
def test_a_wrong_field_is_named_with_the_rule(
    request_: GridRequest, field: str, part: str, tmp_path: Path
) -> None:
    found = {error.field: error.message for error in validate_grid(request_, tmp_path)}
    assert part in found[field]


def test_a_grid_as_large_as_may_be_is_fine(tmp_path: Path) -> None:
    panes = ("base",) * MAX_GRID_PANES
    largest = make_request(["a"] * MAX_PROMPTS, **(BASE_ONLY | {"panes": panes}))
    assert validate_grid(largest, tmp_path) == []


def test_a_pane_that_cannot_answer_is_refused_and_nothing_is_written(
    tmp_path: Path, started: list[list[str]]
) -> None:
    running = make_run(tmp_path, "lora", "failed").run_id
    with pytest.raises(InvalidRequest, match="is failed, so it has no adapter"):
        start_grid(make_request(panes=("base", running)), tmp_path)
    assert list_grids(tmp_path) == []
    assert started == []


def test_the_record_keeps_what_a_deleted_run_could_no_longer_say(
    tmp_path: Path, started: list[list[str]]
) -> None:
    first, second = make_run(tmp_path, "lora").run_id, make_run(tmp_path, "lora").run_id
    full = make_run(tmp_path, "full").run_id
    panes = ("base", first, full, second)
    grid = start_grid(GridRequest(GenerateRequest(panes, ""), ("hi",)), tmp_path)
    request = grid.request()
    assert request.request.model == "bundled"
    assert request.methods == ("base", "lora", "full", "lora")
    assert request.labels[0] == "Base"
    assert request.labels[2] == "Full fine-tuning"
    assert request.labels[1].startswith("LoRA · ")
    assert request.labels[1] != request.labels[3]
    assert started[0][1:] == ["-m", "ftlab.playground.grid_worker", str(grid.path)]
    assert grid.status() == "queued"


def test_given_labels_stay(tmp_path: Path, started: list[list[str]]) -> None:
    settings = GenerateRequest(("base",), "")
    grid = start_grid(GridRequest(settings, ("hi",), labels=("Untouched",)), tmp_path)
    assert grid.request().labels == ("Untouched",)
    assert grid.request().request.model == BUNDLED_ID


def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / ".ftlab").touch()  # a file where the folder should be
    with pytest.raises(FtlabError, match="could not be started in"):
        start_grid(make_request(**BASE_ONLY), tmp_path)
