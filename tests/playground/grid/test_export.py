"""A grid for other programs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from ftlab.playground.grid import Cell, GridDirectory
from ftlab.playground.grid_table import CSV_COLUMNS, as_record, write_csv
from tests.playground.grid.fakes import RUN, make_grid, make_request, scored_grid


def rows_of(grid: GridDirectory, path: Path) -> list[dict[str, str]]:
    write_csv(grid, path)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_is_a_cell_in_the_order_of_prompts_and_panes(tmp_path: Path) -> None:
    cells = [
        Cell(1, 1, "ünï, “x”\nnext", tokens=7, kl_nats=0.25, top1_changed=True),
        Cell(0, 0, error="no"),
    ]
    grid = make_grid(tmp_path, cells=cells)
    first, second = rows_of(grid, tmp_path / "grid.csv")
    assert tuple(first) == CSV_COLUMNS
    assert (first["number"], first["pane"], first["error"]) == ("1", "base", "no")
    assert (second["grid"], second["number"], second["prompt"]) == (grid.grid_id, "2", "two")
    assert (second["pane"], second["label"], second["answer"]) == (RUN, "LoRA", cells[0].answer)
    assert (second["tokens"], second["kl_nats"], second["score"]) == ("7", "0.25", "")


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =HYPERLINK(1)"]
)
def test_a_text_that_a_spreadsheet_would_run_is_defused(text: str, tmp_path: Path) -> None:
    request = make_request([text, "two"], labels=(text, "LoRA"))
    grid = make_grid(tmp_path, request, [Cell(0, 0, text, verdict=text)])
    (row,) = rows_of(grid, tmp_path / "grid.csv")
    assert {row["answer"], row["prompt"], row["label"], row["verdict"]} == {f"'{text}"}


def test_texts_and_numbers_that_run_nothing_stay_as_they_are(tmp_path: Path) -> None:
    grid = make_grid(tmp_path, cells=[Cell(0, 0, "a = b", score=-0.5)])
    (row,) = rows_of(grid, tmp_path / "grid.csv")
    assert (row["answer"], row["score"]) == ("a = b", "-0.5")


def test_pandas_reads_the_file_back(tmp_path: Path) -> None:
    write_csv(scored_grid(tmp_path, [[0.0, 1.0], [1.0, 1.0]]), tmp_path / "grid.csv")
    table = pd.read_csv(tmp_path / "grid.csv")
    assert table.groupby("label")["score"].mean().to_dict() == {"Base": 0.5, "LoRA": 1.0}


def test_the_record_is_json_with_headline_panes_and_cells(tmp_path: Path) -> None:
    grid = scored_grid(tmp_path, [[0.0, 1.0], [1.0, 1.0]])
    record = json.loads(json.dumps(as_record(grid), allow_nan=False))
    assert record["status"] == "done"
    assert record["headline"].startswith("LoRA answers 2 of 2")
    assert [pane["score"] for pane in record["panes"]] == [0.5, 1.0]
    assert record["panes"][1]["gain"]["mean"] == 0.5
    assert len(record["cells"]) == 4
    assert record["cells"][0]["prompt"] == "question 0"
