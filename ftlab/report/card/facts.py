"""Where the numbers of a card come from, in two lines."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from ftlab.models.reference import model_label
from ftlab.runs.sweep_data import SweepData
from ftlab.words import shorten

_MOST_NAMED = 2
_FACT_LENGTH = 48


def facts_of(data: SweepData) -> tuple[str, str]:
    """Two lines: on what it was measured, and how."""
    rows = data.table[data.table["status"] == "done"]
    where = [
        _named(rows["machine"].where(rows["machine"] != "", rows["device"]), "machines"),
        _named((model_label(str(name)) for name in rows["model"]), "models"),
        _named(rows["task"], "tasks"),
        _prefixed("dtype policy ", _named(rows["dtype_policy"], "dtype policies")),
        _steps(rows),
    ]
    how = [
        _seeds(rows),
        _prefixed("memory: ", _named(rows["peak_memory_kind"], "kinds of memory")),
        _disturbed(rows),
        "measured by others" if data.origin == "imported" else "",
        f"sweep {data.sweep_id}",
    ]
    return _joined(where), _joined(how)


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and 0 < value < 1e11


def _named(values: Iterable[object], several: str) -> str:
    """The value all share, or a few of them, or how many there are."""
    names = list(dict.fromkeys(str(value) for value in values if isinstance(value, str) and value))
    if len(names) > _MOST_NAMED:
        return f"{len(names)} {several}"
    return " / ".join(shorten(name, _FACT_LENGTH) for name in names)


def _prefixed(prefix: str, text: str) -> str:
    return f"{prefix}{text}" if text else ""


def _steps(rows: pd.DataFrame) -> str:
    steps = sorted({int(value) for value in rows["steps"] if _is_time(value)})
    return f"{' / '.join(f'{count:,}' for count in steps)} steps" if 0 < len(steps) <= 2 else ""


def _seeds(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    if rows.groupby("variant")["seed"].agg(frozenset).nunique() > 1:
        return "seeds differ by variant"
    runs = int(rows.groupby("variant").size().max())
    seeds = int(rows.groupby("variant")["seed"].nunique().max())
    if runs == 1:
        return "one seed: no spread is known"
    return f"means of {seeds} seeds" if seeds == runs else f"means of {runs} runs"


def _disturbed(rows: pd.DataFrame) -> str:
    count = sum(value is True or value == 1 for value in rows["disturbed"])
    if not count:
        return ""
    return f"{count} run{'s' if count > 1 else ''} disturbed: times too long"


def _joined(parts: Iterable[str]) -> str:
    return " · ".join(filter(None, parts))
