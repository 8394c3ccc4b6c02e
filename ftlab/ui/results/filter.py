"""Which runs of the table are shown: by what they are, by text, and by conditions on numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from ftlab.methods.registry import label_of
from ftlab.models.reference import model_label
from ftlab.runs.result import status_label
from ftlab.ui.html import plural
from ftlab.ui.results.names import run_name, sweep_label, sweep_name
from ftlab.ui.results.ranges import matches, parse_conditions

ALL_SWEEPS = ""
FACETS: dict[str, str] = {
    "origin": "Origin",
    "status": "Status",
    "method": "Method",
    "task": "Task",
    "model": "Model",
    "tags": "Tag",
}
"""The columns that are filtered by ticking values, and what each is called."""

_SEARCHED = (
    "variant", "method", "hyperparameters", "task", "device", "machine", "origin", "sweep_id",
    "run_id", "tags", "note", "reason",
)  # fmt: skip
_LABELLED: dict[str, Callable[[str], str]] = {
    "status": status_label,
    "method": label_of,
    "model": model_label,
    "run_id": run_name,
    "sweep_id": sweep_name,
}


@dataclass(frozen=True)
class Filters:
    """What a row has to meet. `facets` maps a column to the values of which it has to have one.

    `text`: words that are all somewhere in a row's names, tags or note; `conditions`: text as
    `parse_conditions` reads it; `archived`: whether runs that were put away are shown too.
    """

    sweep: str = ALL_SWEEPS
    text: str = ""
    facets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    conditions: str = ""
    archived: bool = False

    @property
    def folded(self) -> int:
        """How many filters are at work in the fold, where they may be out of sight."""
        ticked = sum(bool(values) for values in self.facets.values())
        return ticked + bool(self.conditions.strip()) + self.archived


def apply_filters(table: pd.DataFrame, filters: Filters) -> pd.DataFrame:
    """The rows that meet all filters, in their order; raises `FtlabError` for wrong conditions."""
    found = matches(table, parse_conditions(filters.conditions))
    if not filters.archived:
        found &= table["archived"] != True  # noqa: E712 (an imported row may hold None)
    if filters.sweep != ALL_SWEEPS:
        found &= table["sweep_id"] == filters.sweep
    for key, wanted in filters.facets.items():
        if wanted and key == "tags":
            found &= table[key].map(lambda tags, wanted=wanted: bool({*tags_of(tags)} & {*wanted}))
        elif wanted and key == "model":
            found &= table[key].map(model_label).isin(wanted)
        elif wanted:
            found &= table[key].isin(wanted)
    words = filters.text.lower().split()
    if words and len(table):
        found &= pd.Series(
            [all(word in line for word in words) for line in _searchable(table)], table.index
        )
    return table[found.astype(bool)].reset_index(drop=True)


def tags_of(tags: Any) -> list[str]:
    """ "demo, for Ada" as the table holds it -> ["demo", "for Ada"]."""
    return [tag for tag in str(tags or "").split(", ") if tag]


def facet_values(table: pd.DataFrame, key: str) -> list[tuple[str, str, int]]:
    """(value, label, how many rows have it) of a facet, in the order of first appearance."""
    values = [str(value) for value in table[key].tolist() if value]
    if key == "tags":
        values = [tag for text in values for tag in tags_of(text)]
    if key == "model":  # the bundled one has two names
        values = [model_label(value) for value in values]
    counts = Counter(values)
    label = _LABELLED.get(key, str)
    return [(value, str(label(value)), count) for value, count in counts.items()]


def sweep_choices(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(label, value) of the dropdown: all, then the sweeps in the table's order."""
    sweeps = [str(sweep) for sweep in table["sweep_id"].tolist()]
    counts = Counter(sweeps)
    first: dict[str, tuple[str, str]] = {}
    for sweep, task, origin in zip(
        sweeps, table["task"].tolist(), table["origin"].tolist(), strict=True
    ):
        first.setdefault(sweep, (str(task), str(origin)))
    named = []
    for sweep, (task, origin) in first.items():
        more = [plural(counts[sweep], "run"), *([] if origin == "measured" else [origin])]
        named.append((sweep_label(sweep, task, *more), sweep))
    return [("All sweeps", ALL_SWEEPS), *named]


def known_facets(given: Any) -> dict[str, tuple[str, ...]]:
    """What a browser says is ticked, by facet; anything else in it is left out."""
    if not isinstance(given, Mapping):
        return {}
    return {
        key: tuple(str(value) for value in given[key])
        for key in FACETS
        if isinstance(given.get(key), Sequence) and not isinstance(given[key], str) and given[key]
    }


def _searchable(table: pd.DataFrame) -> list[str]:
    """One line of lower-case text a row."""
    columns: list[list[str]] = []
    for key in _SEARCHED:
        columns.append([str(value or "") for value in table[key].tolist()])
    for key, label in _LABELLED.items():
        known: dict[Any, str] = {}
        for value in table[key].tolist():
            if value not in known:
                known[value] = str(label(value))
        columns.append([known[value] for value in table[key].tolist()])
    return [" ".join(parts).lower() for parts in zip(*columns, strict=True)]
