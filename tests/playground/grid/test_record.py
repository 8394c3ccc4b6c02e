"""A grid's folder: what is written comes back, and its status follows from files and processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from ftlab.basics.errors import FtlabError
from ftlab.basics.processes import start_time
from ftlab.playground.grid import (
    START_SECONDS,
    Cell,
    GridDirectory,
    GridProcess,
    GridResult,
    find_grid,
    grids_folder,
    list_grids,
    read_progress,
)
from tests.fakes import DEAD_PID
from tests.playground.grid.fakes import SQL, make_grid, make_request

CELL = Cell(1, 0, "it is\n“so”", tokens=4, kl_nats=0.5, top1_changed=True, score=1.0, verdict="ok")


def this_process(waiting: str = "") -> GridProcess:
    return GridProcess(os.getpid(), start_time(os.getpid()) or 0.0, waiting)


def test_what_was_asked_comes_back(tmp_path: Path) -> None:
    request = make_request(["ünï", "b\nc"], task=SQL, temperature=0.5, seed=3)
    assert make_grid(tmp_path, request).request() == request


def test_cells_come_back_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, cells=[CELL, replace(CELL, prompt=0)])
    with grid.cells_file.open("a") as file:
        file.write('{"answer": "no place"}\n{"prompt": 1, "pane": 1, "answ')
    assert grid.cells() == [CELL, replace(CELL, prompt=0)]
    grid.write_process(GridProcess(DEAD_PID, 1.0))
    assert read_progress(grid).done == 2


def test_grids_are_listed_newest_first_and_other_folders_left_out(tmp_path: Path) -> None:
    assert list_grids(tmp_path) == []
    names = ["20261125-140212-00ff", "20261126-090000-0000", "20261125-140212-0100"]
    for name in names:
        GridDirectory(grids_folder(tmp_path) / name).write_request(make_request())
    (grids_folder(tmp_path) / "20261127-090000-0000").mkdir()  # nothing was asked in it
    (grids_folder(tmp_path) / "notes").mkdir()
    assert [grid.grid_id for grid in list_grids(tmp_path)] == sorted(names, reverse=True)


def test_a_grid_is_found_by_its_id_alone(tmp_path: Path) -> None:
    grid = make_grid(tmp_path)
    assert find_grid(tmp_path, grid.grid_id) == grid
    assert grid.runs_folder == tmp_path
    for wrong in ("20261125-140212-dead", f"../grids/{grid.grid_id}", ""):
        with pytest.raises(FtlabError, match="no prompt grid"):
            find_grid(tmp_path, wrong)


def test_the_eta_goes_by_the_time_on_the_device(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, make_request(["a", "b", "c"]))
    grid.write_process(this_process())
    assert read_progress(grid).eta_seconds is None
    grid.add_cell(replace(CELL, worked_seconds=1.0))
    grid.add_cell(replace(CELL, prompt=2, error="no", worked_seconds=4.0))
    way = read_progress(grid)
    assert (way.done, way.errors, way.total, way.eta_seconds) == (2, 1, 6, 8.0)
    assert way.fraction == pytest.approx(1 / 3)


def test_until_enough_is_answered_the_rest_of_the_expected_time_is_the_eta(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, replace(make_request(["prompt"] * 20), expected_seconds=30.0))
    assert read_progress(grid).eta_seconds == 30.0
    grid.write_process(replace(this_process(), reached=1.0, worked_seconds=2.0))
    assert read_progress(grid).eta_seconds == 30.0 - START_SECONDS - 2.0
    grid.write_process(replace(this_process(), reached=1.0, worked_seconds=30.0))
    assert read_progress(grid).eta_seconds is None, "longer than was expected"
    grid.write_process(replace(this_process(), reached=20.0, worked_seconds=40.0))
    assert read_progress(grid).eta_seconds == 40.0, "by what was answered"


def test_answers_under_way_count_as_the_share_of_their_tokens(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, make_request(["prompt"] * 20))
    grid.write_process(replace(this_process(), reached=1.0, worked_seconds=1.0))
    assert read_progress(grid).eta_seconds is None, "one of forty carries no estimate"
    grid.add_cell(replace(CELL, worked_seconds=2.0))
    grid.write_process(replace(this_process(), reached=5.0, worked_seconds=3.0))
    way = read_progress(grid)
    assert (way.done, way.reached, way.fraction) == (1, 5.0, 5 / 40)
    assert way.eta_seconds == pytest.approx(3 / 5 * 35)


def test_cells_that_came_after_the_last_word_count_at_once(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, make_request(["a"], panes=("base",), labels=(), methods=()))
    grid.write_process(replace(this_process(), reached=0.9, worked_seconds=2.0))
    grid.add_cell(replace(CELL, prompt=0, worked_seconds=2.5))
    way = read_progress(grid)
    assert (way.fraction, way.eta_seconds) == (1.0, 0.0)


def test_progress_says_what_is_waited_for_until_the_grid_has_ended(tmp_path: Path) -> None:
    grid = make_grid(tmp_path)
    assert read_progress(grid).waiting == "Starting …"
    grid.write_process(this_process("Waiting for a training run or a prompt."))
    assert read_progress(grid).waiting == "Waiting for a training run or a prompt."
    grid.write_result(GridResult("cancelled"))
    way = read_progress(grid)
    assert (way.waiting, way.eta_seconds) == ("", 0.0)
