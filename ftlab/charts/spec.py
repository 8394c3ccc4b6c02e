"""Defines what a chart of a sweep is, and lists all charts.

A chart is one module of this package that ends with `CHARTS`. The Compare tab, the report and the
tests loop over `charts()`, so a new chart needs only a new module.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab import charts as package
from ftlab.basics.words import plural
from ftlab.charts.drawing import HEIGHT
from ftlab.charts.facts import left_out, left_out_line
from ftlab.records.comparability import comparability_of_rows
from ftlab.records.store import SweepData


@dataclass(frozen=True)
class Facts:
    """The input of a chart.

    `table` has the columns `ROW_KEYS` and the runs of one sweep. `read` is the result of the
    chart's own `read` function. `chosen` has the user's values by the id of the choice; missing ids
    use the default. `height` is the least height of the figure in pixels.
    """

    table: pd.DataFrame
    read: Any = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    height: int = HEIGHT


@dataclass(frozen=True)
class Drawn:
    """The rows of the table that a chart draws, and a sentence on the rows that it leaves out."""

    rows: pd.DataFrame
    left_out: str

    @property
    def unlike(self) -> str:
        """As in "Not a fair comparison: steps (30, 60)."; empty if the rows are comparable."""
        return comparability_of_rows(self.rows).sentence


def measured(table: pd.DataFrame, *keys: str) -> Drawn:
    """The runs that are done and have all those measures."""
    return Drawn(left_out(table, *keys)[0], left_out_line(table, *keys))


def recorded(table: pd.DataFrame, run_ids: Sequence[str], lack: str) -> Drawn:
    """The runs with those ids; `lack` is what the others lack, as in "no loss recorded"."""
    rows = table[table["run_id"].isin(run_ids)]
    count = len(table) - len(rows)
    return Drawn(rows, f"{plural(count, 'run')} left out: {lack}." if count else "")


@dataclass(frozen=True)
class Choice:
    """Several (name, value) options, from which the user selects one for a chart.

    `options` returns those that the runs of a table have. The default is the first available value
    of `usual`; it is used if nothing was selected, or an unknown option. `is_menu`: shown as a
    dropdown menu with the options of the sweep; else all options are shown side by side.
    """

    id: str
    label: str
    options: Callable[[pd.DataFrame], Sequence[tuple[str, str]]]
    usual: tuple[str, ...]
    is_menu: bool = False

    def value(self, given: Any, table: pd.DataFrame) -> str:
        """Returns the selected option if it is available, else the default."""
        known = [value for _, value in self.options(table)]
        wanted = [value for value in (given, *self.usual, *known) if value in known]
        return str(wanted[0]) if wanted else self.usual[0]


@dataclass(frozen=True)
class Amount:
    """A whole number from 1 to `most` that the user sets for a chart."""

    id: str
    label: str
    most: int

    def value(self, given: Any, table: pd.DataFrame) -> int:
        """The nearest allowed number; 1 if gradio passes typed text that is not a number."""
        try:
            return max(1, min(self.most, round(float(given))))
        except (TypeError, ValueError, OverflowError):
            return 1


@dataclass(frozen=True)
class Place:
    """The position of a chart on the Compare tab: charts of one `row` are side by side.

    `height` is the least height of the figure in pixels.
    """

    row: int
    column: int = 1
    height: int = 348


Text = str | Callable[[Facts], str]
"""A text, or a function that returns it for a sweep."""


@dataclass(frozen=True)
class ChartSpec:
    """One chart of a sweep: its data, its figure, its texts, and where it is shown.

    `name` states what is plotted against what. `finding` states what the numbers show; it is the
    title. `reading`, below the title on the page, explains the chart. `legend` is HTML below the
    figure.

    `drawn` returns the runs that have the data of the chart. If there are none, the Compare tab
    shows an empty figure with the reason, or nothing if the chart `hides`; the report has a
    sentence, or nothing if the chart `is_extra`.

    `read` reads data of the runs that the table does not have; its result is cached to draw the
    chart again. `file` is the file name of an image; default: the id.

    `compare` and `report` are the places on the Compare tab and among the figures of the report;
    `None` hides the chart there. An `is_bar` chart is one of the small charts in one group.
    """

    id: str
    name: Text
    drawn: Callable[[Facts], Drawn]
    finding: Callable[[Facts], str]
    figure: Callable[[Facts], go.Figure]
    reading: Text = ""
    legend: str = ""
    read: Callable[[SweepData], Any] | None = None
    choices: tuple[Choice | Amount, ...] = ()
    file: Text = ""
    compare: Place | None = None
    report: int | None = None
    is_bar: bool = False
    is_extra: bool = False
    hides: bool = False


def worded(text: Text, facts: Facts) -> str:
    """The text for that sweep."""
    return text if isinstance(text, str) else text(facts)


def charts() -> list[ChartSpec]:
    """All charts of a sweep, module by module."""
    return [
        chart
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        for chart in getattr(importlib.import_module(module.name), "CHARTS", ())
    ]
