"""The table of runs as programs and spreadsheets read it: rows, CSV and JSON. Raw values only."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ftlab.models.reference import model_label
from ftlab.spreadsheets import inert
from ftlab.ui.results.filter import ALL_SWEEPS, Filters, apply_filters
from ftlab.ui.results.rows import COUNT, SPREAD, Shown

_NOT_EXPORTED = ("run_dir",)  # a path on the server is nobody's business

Row = Mapping[str, Any]


def filtered(table: pd.DataFrame, sweep: str = ALL_SWEEPS, text: str = "") -> pd.DataFrame:
    """The rows of a sweep (all: "") that hold every word of the text, archived ones too."""
    return apply_filters(table, Filters(sweep=sweep, text=text, archived=True))


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON takes them: raw numbers, `None` where there is none."""
    return _records(rows, [key for key in rows.columns if key not in _NOT_EXPORTED])


def export_keys(shown: Shown) -> list[str]:
    """The columns of an export: those shown; a mean is followed by its spread and its count.

    A run's own difference is followed by the ends of its interval.
    """
    keys: list[str] = []
    for column in shown.columns:
        keys.append(column.key)
        if column.key + SPREAD in shown.rows:
            keys += [column.key + SPREAD, column.key + COUNT]
        else:
            keys += column.interval_keys
    return keys


def shown_records(shown: Shown) -> list[dict[str, Any]]:
    """Every row that matches, in the order of the table, with exactly the columns shown."""
    return _records(shown.rows, export_keys(shown))


def to_json(rows: Sequence[Row]) -> str:
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(rows: Sequence[Row], keys: Sequence[str]) -> str:
    """Raw numbers; a text that a spreadsheet would run as a formula begins with an apostrophe."""
    safe = [{key: inert(value) for key, value in row.items()} for row in rows]
    table = pd.DataFrame(safe, columns=list(keys), dtype=object)
    # A lone \r begins a new row for a spreadsheet; with this line end it is quoted too.
    return str(table.to_csv(index=False, lineterminator="\r\n"))


def write_export(shown: Shown, kind: str, folder: Path) -> str:
    """Writes "csv" or "json" into a folder of its own below `folder`; gives the file's path."""
    rows = shown_records(shown)
    text = to_csv(rows, export_keys(shown)) if kind == "csv" else to_json(rows)
    path = folder / secrets.token_hex(8) / f"ftlab-results.{kind}"
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def _records(rows: pd.DataFrame, keys: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {key: _plain(key, value) for key, value in row.items()}
        for row in rows[list(keys)].to_dict(orient="records")
    ]


def _plain(key: Any, value: Any) -> Any:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if key == "model" and str(value).startswith("/"):
        return model_label(str(value))  # a folder of the server
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value.item() if hasattr(value, "item") else value
