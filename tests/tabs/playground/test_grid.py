"""The prompt grid's sheet: what it asks for, and what it shows of a grid."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import start_time
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.grid import MAX_PROMPTS, Cell, GridProcess, GridRequest
from ftlab.records.store import RunStore
from ftlab.tabs.context import AppContext
from ftlab.tabs.playground.grid import (
    HELD_OUT,
    TYPED,
    UPLOADED,
    all_on_base,
    chosen_task,
    export_files,
    grid_choices,
    grid_html,
    grid_request,
    task_choices,
    time_line,
)
from ftlab.tasks.files import ColumnMapping
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run
from tests.playground.grid.fakes import SQL, make_grid, make_request
from tests.tabs.playground.fakes import SETTINGS_AT_FIRST

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def context(tmp_path: Path) -> AppContext:
    return AppContext(tmp_path, RunStore(tmp_path), PlaygroundClient(tmp_path))


@pytest.fixture(autouse=True)
def own_downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "downloads"))


def asked(
    context: AppContext,
    source: str = HELD_OUT,
    *,
    task: str = "sql",
    number: Any = 3,
    typed: str = "",
    upload: Path | None = None,
    panes: Sequence[str] = ("base", "shipped:sql"),
    **settings: Any,
) -> GridRequest:
    values = list((SETTINGS_AT_FIRST | settings).values())
    file = str(upload) if upload else None
    return grid_request(source, task, number, typed, file, None, panes, values, context)


def running(folder: Path, request: GridRequest | None = None, **process: Any) -> Any:
    """A grid that this very process is said to answer."""
    grid = make_grid(folder, request)
    grid.write_process(GridProcess(os.getpid(), start_time(os.getpid()) or 0.0, **process))
    return grid


# ---- what is asked for


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, "3 prompts in 2 panes"), (42.0, "3 prompts in 2 panes: about 42 s")],
)
def test_how_much_is_asked_for_and_how_long_it_takes_is_said(
    context: AppContext, seconds: float | None, words: str
) -> None:
    assert time_line(asked(context), seconds) == f'<p class="meta">{words}</p>'


def test_held_out_examples_of_a_task_are_asked_with_the_panes_and_settings_above(
    context: AppContext,
) -> None:
    request = asked(context, number=4.0, temperature=0.5, max_new_tokens=12.0)
    assert request.prompts == tuple(context.held_out.prompts(SQL, 4))
    assert request.task == SQL
    assert request.panes == ("base", "shipped:sql")
    assert (request.request.temperature, request.request.max_new_tokens) == (0.5, 12)
    assert (request.request.prompt, request.request.histories) == ("", ())


@pytest.mark.parametrize("number", [0, -1, 2.5, MAX_PROMPTS + 1, None, "many", float("nan")])
def test_a_number_of_examples_that_is_none_is_named(context: AppContext, number: Any) -> None:
    with pytest.raises(FtlabError, match=f"{number} is no whole number between 1 and 200"):
        asked(context, number=number)


def test_a_task_that_is_unknown_or_whose_examples_are_gone_is_named(
    context: AppContext, tmp_path: Path
) -> None:
    with pytest.raises(FtlabError, match="There is no task 'nope'"):
        asked(context, task="nope")
    reference = TaskReference("file", str(tmp_path / "gone.csv"), ColumnMapping("q", "a"))
    make_run(tmp_path, "lora", task=reference)
    (own,) = [value for _, value in task_choices(context.store.runs()) if "gone" in value]
    with pytest.raises(FtlabError, match="No test examples of 'gone"):
        asked(context, task=own)


def test_the_file_of_a_run_can_be_chosen_with_its_columns(
    context: AppContext, tmp_path: Path, task_file: Path
) -> None:
    reference = TaskReference("file", str(task_file), ColumnMapping("prompt", "completion"))
    make_run(tmp_path, "lora", task=reference)
    make_run(tmp_path, "lora", task=reference)
    labels, values = zip(*task_choices(context.store.runs()), strict=True)
    assert labels == ("SQL", "Shakespeare", "Medical summary", reference.label)
    assert chosen_task(values[-1]) == reference
    request = asked(context, task=values[-1], number=2)
    assert request.task == reference
    assert all(prompt.startswith("Repeat ") for prompt in request.prompts)


def test_typed_prompts_are_a_line_each_and_belong_to_no_task(context: AppContext) -> None:
    request = asked(context, TYPED, typed="one\n\n two \n", number=None, task="nope")
    assert request.prompts == ("one", "two")
    assert request.task is None


def test_uploaded_prompts_are_read_from_their_column(context: AppContext, tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("id,prompt\n1,one\n2,two\n", encoding="utf-8")
    assert asked(context, UPLOADED, upload=file).prompts == ("one", "two")
    with pytest.raises(FtlabError, match="No file is chosen"):
        asked(context, UPLOADED)
    file.write_text("id,n\n1,2\n", encoding="utf-8")
    with pytest.raises(FtlabError, match="no column of prompts"):
        asked(context, UPLOADED, upload=file)


# ---- what is shown


def test_saved_grids_are_listed_newest_first_by_what_they_asked(tmp_path: Path) -> None:
    make_grid(tmp_path).request_file.write_text("{ torn")  # is no choice
    for name, grid in (
        ("20261124-090000-00aa", make_grid(tmp_path, make_request(task=SQL), status="done")),
        ("20261125-140200-00bb", make_grid(tmp_path, make_request(["a", "b", "c"]))),
    ):
        os.rename(grid.path, grid.path.with_name(name))
    assert grid_choices(tmp_path) == [
        ("25 Nov 14:02 · own prompts · 3 x 2 · queued", "20261125-140200-00bb"),
        ("24 Nov 09:00 · SQL · 2 x 2 · done", "20261124-090000-00aa"),
    ]


def test_a_running_grid_is_a_bar_with_what_is_left(tmp_path: Path) -> None:
    shown = grid_html(running(tmp_path))
    assert "0 of 4 answers" in shown
    assert "estimating" in shown
    shown = grid_html(running(tmp_path, waiting=f"Waiting for {EVIL}."))
    assert "Waiting for &lt;img" in shown
    assert "estimating" not in shown
    grid = running(tmp_path, reached=2.0, worked_seconds=30.0)
    grid.add_cell(Cell(0, 0, "a"))
    grid.add_cell(Cell(0, 1, error="Out of memory."))
    shown = grid_html(grid)
    for part in ('aria-valuenow="50"', "2 of 4 answers", "about 30 s left", "1 without answer"):
        assert part in shown


def test_an_ended_grid_shows_every_answer_and_none_is_html(tmp_path: Path) -> None:
    cells = [Cell(prompt, pane, f"answer {prompt}{pane} {EVIL}", verdict=EVIL, score=0.0)
             for prompt in (0, 1) for pane in (0, 1)]  # fmt: skip
    request = make_request([EVIL, "two"], labels=("Base", EVIL))
    shown = grid_html(make_grid(tmp_path, request, cells, "done"))
    for cell in cells:
        assert cell.answer.partition(" <")[0] in shown
    assert "<img" not in shown


def test_a_grid_that_failed_says_why_above_the_answers_it_has(tmp_path: Path) -> None:
    request = replace(make_request(panes=("base", "gone")), labels=("Base", "LoRA r=4"))
    shown = grid_html(make_grid(tmp_path, request, [Cell(0, 0, "kept")], "failed"))
    assert shown.index('role="alert">Why.') < shown.index("kept")
    assert "LoRA r=4" in shown, "the label of a run that is gone"


def test_both_exports_are_written_for_download_and_named_after_the_grid(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, None, [Cell(0, 0, "=1+1"), Cell(0, 1, EVIL)], "done")
    table, report = files = [Path(str(file)) for file in export_files(grid)]
    assert table.name == f"ftlab-grid-{grid.grid_id}.csv"
    assert report.name == f"ftlab-grid-{grid.grid_id}.html"
    with table.open(encoding="utf-8", newline="") as file:
        assert [row["answer"] for row in csv.DictReader(file)] == ["'=1+1", EVIL]
    page = report.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "&lt;img" in page
    assert "<img" not in page
    written = [file.stat().st_mtime_ns for file in files]
    assert export_files(grid) == [str(file) for file in files]
    assert [file.stat().st_mtime_ns for file in files] == written, "not written again"


def test_all_adapters_on_the_panes_base_answer_newest_first_and_no_others(
    context: AppContext, tmp_path: Path
) -> None:
    runs = [make_run(tmp_path, method, run_id=f"20261125-120000-ab12-0{i}-{method}")
            for i, method in enumerate(("lora", "full", "ia3"))]  # fmt: skip
    make_run(tmp_path, "dora", model="other/model")
    make_run(tmp_path, "vera", "failed")
    for run in runs:
        run.adapter.mkdir(exist_ok=True)
    found = all_on_base(["base", runs[0].run_id], None, context.store)
    assert found[:3] == ["base", runs[2].run_id, runs[0].run_id]
    assert all(name.startswith("shipped:") for name in found[3:])
