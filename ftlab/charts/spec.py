"""What a chart of a sweep is, and which there are.

A chart is one file of this package, which ends with `CHARTS`. The Compare tab, the report and the
tests loop over `charts()`, so that a further file is all that a further chart takes.
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
    """What a chart is drawn from.

    `table` has the columns `ROW_KEYS` and one sweep's runs, `read` is what the chart's own `read`
    found in them. `chosen` holds what a visitor chose by the id of the choice; a chart draws the
    usual where it holds nothing. `height` is the least height of the figure in pixels.
    """

    table: pd.DataFrame
    read: Any = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    height: int = HEIGHT


@dataclass(frozen=True)
class Drawn:
    """The rows of the table that a chart draws, and the sentence on those that it leaves out."""

    rows: pd.DataFrame
    left_out: str

    @property
    def unlike(self) -> str:
        """As in "Not like for like: steps (30, 60)."; empty where the rows compare."""
        return comparability_of_rows(self.rows).sentence


def measured(table: pd.DataFrame, *keys: str) -> Drawn:
    """The runs that are done and have all those measures."""
    return Drawn(left_out(table, *keys)[0], left_out_line(table, *keys))


def recorded(table: pd.DataFrame, run_ids: Sequence[str], lack: str) -> Drawn:
    """The runs of those ids; `lack` is what the others lack, as in "no loss recorded"."""
    rows = table[table["run_id"].isin(run_ids)]
    count = len(table) - len(rows)
    return Drawn(rows, f"{plural(count, 'run')} left out: {lack}." if count else "")


@dataclass(frozen=True)
class Choice:
    """One of several (name, value) options, by which a visitor changes a chart.

    `options` gives those that the runs of a table have. What stands first in `usual` is taken where
    nothing was chosen, or something that is no option. `is_menu`: shown as a menu, which names the
    options of the sweep; else all of them are beside each other.
    """

    id: str
    label: str
    options: Callable[[pd.DataFrame], Sequence[tuple[str, str]]]
    usual: tuple[str, ...]
    is_menu: bool = False

    def value(self, given: Any, table: pd.DataFrame) -> str:
        """The option that was given, as far as there is such a one."""
        known = [value for _, value in self.options(table)]
        wanted = [value for value in (given, *self.usual, *known) if value in known]
        return str(wanted[0]) if wanted else self.usual[0]


@dataclass(frozen=True)
class Amount:
    """A whole number from 1 to `most`, by which a visitor changes a chart."""

    id: str
    label: str
    most: int

    def value(self, given: Any, table: pd.DataFrame) -> int:
        """The number nearest to what was given; gradio sends what was typed, also no number."""
        try:
            return max(1, min(self.most, round(float(given))))
        except (TypeError, ValueError, OverflowError):
            return 1


@dataclass(frozen=True)
class Place:
    """Where a chart stands on the Compare tab: those of one `row` are beside each other.

    `height` is the least height of the figure in pixels.
    """

    row: int
    column: int = 1
    height: int = 348


Text = str | Callable[[Facts], str]
"""A text, or the function that words it for a sweep."""


@dataclass(frozen=True)
class ChartSpec:
    """One chart of a sweep: what it needs, draws, finds and says, and where it is shown.

    `name` says what is drawn over what, `finding` what the numbers show: the chart's title.
    `reading` is how to read it, below the title on the page; `legend` is HTML below the figure
    there.

    `drawn` says which runs have what the chart needs. Where none has it, the Compare tab shows the
    figure, which says so, or nothing if the chart `hides`; the report has a sentence, or nothing if
    the chart `is_extra`.

    `read` finds in the runs what the table does not hold; its result is kept to draw the chart
    anew. `file` names the file of an image; it is the id where it is empty.

    `compare` and `report` are the places on the Compare tab and among the figures of the report;
    with `None` it is not there. An `is_bar` chart is one of the small ones that stand together.
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
    """Every chart of a sweep, file by file."""
    return [
        chart
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        for chart in getattr(importlib.import_module(module.name), "CHARTS", ())
    ]
