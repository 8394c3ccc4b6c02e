"""A grid's cells for other programs: CSV for a spreadsheet, plain values for JSON. No torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ftlab.playground.grid.record import Cell, GridDirectory
from ftlab.playground.grid.table import headline, pane_labels, summary
from ftlab.runs.directory import write_atomically
from ftlab.spreadsheets import inert

CSV_COLUMNS = (
    "grid", "number", "prompt", "pane", "label",
    *(field.name for field in fields(Cell) if field.name not in ("prompt", "pane")),
)  # fmt: skip
"""`number` is the prompt's place from 1; `pane` the name asked for: "base", a run id, …"""


def write_csv(grid: GridDirectory, path: Path) -> None:
    """Writes one row a cell with the columns of `CSV_COLUMNS`, UTF-8, by atomic rename.

    A text that begins with =, +, -, @, a tab or a line end (after spaces or not) gets an apostrophe
    before it, so that no answer of a model runs as a formula where the file is opened. Raises
    `FtlabError` for a grid that cannot be read, `OSError` for a path that cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS)  # its line end \r\n also quotes a lone \r
    writer.writeheader()
    for row in _rows(grid):
        writer.writerow({key: inert(value) for key, value in row.items()})
    write_atomically(path, text.getvalue().encode())


def as_record(grid: GridDirectory) -> dict[str, Any]:
    """The grid as JSON takes it: status, headline, panes and cells with raw numbers."""
    result = grid.result()
    return {
        "grid": grid.grid_id,
        "status": grid.status(),
        "reason": result.reason if result else "",
        "headline": headline(grid),
        "panes": [asdict(pane) for pane in summary(grid)],
        "cells": list(_rows(grid)),
    }


def _rows(grid: GridDirectory) -> Iterator[dict[str, Any]]:
    request = grid.request()
    labels = pane_labels(request)
    for cell in sorted(grid.cells(), key=lambda cell: (cell.prompt, cell.pane)):
        yield asdict(cell) | {
            "grid": grid.grid_id,
            "number": cell.prompt + 1,
            "prompt": request.prompts[cell.prompt],
            "pane": request.panes[cell.pane],
            "label": labels[cell.pane],
        }
