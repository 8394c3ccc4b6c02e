"""What the table shows: the rows that match, in order, grouped, with the columns chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from ftlab.errors import FtlabError
from ftlab.ui.results.columns import COLUMNS, MEASURES, Column, in_order, is_missing, usual_columns
from ftlab.ui.results.filter import Filters, apply_filters

Group = Literal["runs", "sweeps", "seeds"]
"""Each run by itself, runs below the heading of their sweep, or means over the seeds."""

PAGE = 100
"""Rows that are drawn at first, and further ones at each press."""

SPREAD, COUNT = "_sd", "_n"
_KEPT = (
    "run_id", "sweep_id", "origin", "model", "task", "method", "variant", "status", "disturbed",
    "peak_memory_kind",
)  # fmt: skip


@dataclass(frozen=True)
class Query:
    """What a visitor asks the table to show. No `columns`: the usual ones; no `sort`: as it is."""

    filters: Filters = field(default_factory=Filters)
    columns: tuple[str, ...] = ()
    sort: str = ""
    descending: bool = False
    group: Group = "runs"
    limit: int = PAGE


@dataclass(frozen=True)
class Shown:
    """The answer. `matched` has a row a run; `rows` is that, or a row for each group of seeds.

    Rows of a group hold means, with columns `KEY_sd` (sample standard deviation, NaN for a single
    value) and `KEY_n` (how many values) beside them, and `run_ids`. `of` counts all runs; `error`
    says why the conditions were left out.
    """

    rows: pd.DataFrame
    matched: pd.DataFrame
    columns: tuple[Column, ...]
    query: Query
    of: int
    error: str = ""


def show(table: pd.DataFrame, query: Query) -> Shown:
    """Filters, groups and sorts the store's table."""
    error = ""
    try:
        matched = apply_filters(table, query.filters)
    except FtlabError as wrong:
        error = str(wrong)
        matched = apply_filters(table, replace(query.filters, conditions=""))
    keys = in_order(query.columns) or usual_columns(table)
    rows = mean_over_seeds(matched, keys) if query.group == "seeds" else matched
    rows = sorted_rows(rows, query.sort, query.descending) if query.sort in keys else rows
    if query.group == "sweeps":
        rows = _by_sweep(rows, matched)
    columns = tuple(COLUMNS[key] for key in keys)
    return Shown(rows.reset_index(drop=True), matched, columns, query, len(table), error)


def sorted_rows(rows: pd.DataFrame, key: str, descending: bool) -> pd.DataFrame:
    """The rows by one column; rows without a value come last either way, equal ones stay."""
    if key == "run_ids" or key not in rows:
        return rows
    values = rows[key]
    if not pd.api.types.is_numeric_dtype(values):
        words = [None if is_missing(value) else _folded(value) for value in values.tolist()]
        values = pd.Series(words, index=rows.index, dtype=object)
    order = values.sort_values(ascending=not descending, na_position="last", kind="stable").index
    return rows.loc[order]


def first_direction(key: str) -> bool:
    """Whether a first press on the column's head sorts descending: the best comes first."""
    return COLUMNS[key].better == "more"


def mean_over_seeds(rows: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """One row for each variant of each sweep: means of the measures among `keys`, n and spread.

    What is the same for all runs of a group is kept; other values are listed.
    """
    measures = [column.key for column in MEASURES if column.key in keys]
    shared = [key for key in dict.fromkeys((*_KEPT, *keys)) if key not in measures]
    groups = rows.groupby(["sweep_id", "variant"], sort=False)
    members = [list(indices) for indices in groups.indices.values()]
    data: dict[str, list[Any]] = {}
    for key in shared:
        values = rows[key].tolist()
        data[key] = [_together(key, [values[i] for i in group]) for group in members]
    ids = rows["run_id"].tolist()
    data["run_ids"] = [tuple(ids[i] for i in group) for group in members]
    disturbed = rows["disturbed"].tolist()
    data["disturbed"] = [any(disturbed[i] is True for i in group) for group in members]
    grouped = pd.DataFrame(data)
    means, spreads = groups[measures].mean(), groups[measures].std(ddof=1)
    counts = groups[measures].count()
    for key in measures:
        grouped[key] = means[key].to_numpy()
        grouped[key + SPREAD] = spreads[key].to_numpy()
        grouped[key + COUNT] = counts[key].to_numpy()
    return grouped


def _folded(value: Any) -> Any:
    return value.casefold() if isinstance(value, str) else f"{value:020.4f}"


def _together(key: str, values: Sequence[Any]) -> Any:
    """The one value of a group, or all of them as people write them."""
    different = list(dict.fromkeys(values))
    if len(different) == 1:
        return different[0]
    column = COLUMNS.get(key)
    if key == "run_id":
        return ", ".join(different)  # whole, so that an export names each run
    written = [column.text(value) if column else str(value) for value in different]
    return ", ".join(written)


def _by_sweep(rows: pd.DataFrame, matched: pd.DataFrame) -> pd.DataFrame:
    """The rows sweep by sweep, in the order of the store; within one as they were."""
    rank = {sweep: i for i, sweep in enumerate(dict.fromkeys(matched["sweep_id"].tolist()))}
    order = rows["sweep_id"].map(rank).sort_values(kind="stable").index
    return rows.loc[order]
