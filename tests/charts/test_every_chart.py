"""What holds for every chart of a sweep, and how a new one is found."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from ftlab import charts as package
from ftlab.charts.spec import ChartSpec, Facts, charts, worded
from ftlab.records.store import RunStore, SweepData, sweep_data
from ftlab.records.table import to_table
from ftlab.share.report import sweep_report
from ftlab.tabs.context import Asked
from tests.charts.whole_sweep import whole_sweep
from tests.fakes import SWEEP, make_sweep
from tests.tabs.compare.test_tab import Tab

Make = Callable[..., SweepData]
HOSTILE = "<img src=x><script>%{x}"
NEW_CHART = """
from ftlab.charts.drawing import empty_figure
from ftlab.charts.spec import ChartSpec, Place, measured


def drawn(facts):
    return measured(facts.table, "train_seconds")


def finding(facts):
    return "The new chart finds something"


def figure(facts):
    return empty_figure("drawn by the new chart")


CHARTS = (
    ChartSpec(
        id="new-chart", name="Something new", drawn=drawn, finding=finding, figure=figure,
        compare=Place(row=9), report=99,
    ),
)
"""

each_chart = pytest.mark.parametrize("chart", charts(), ids=lambda chart: chart.id)


def facts_of(chart: ChartSpec, data: SweepData) -> Facts:
    return Facts(data.table, chart.read(data) if chart.read else None)


def notes(chart: ChartSpec, facts: Facts, name: str) -> list[str]:
    """The texts of that name that are drawn into the figure."""
    return [note.text for note in chart.figure(facts).layout.annotations if note.name == name]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Makes each kind of sweep once."""

    @cache
    def make(**options: Any) -> SweepData:
        return whole_sweep(tmp_path_factory.mktemp("sweep"), **options)

    return make


@each_chart
def test_a_name_from_a_record_is_no_markup_in_the_figure(chart: ChartSpec, sweep: Make) -> None:
    figure = chart.figure(facts_of(chart, sweep(targets=HOSTILE)))
    assert figure.data
    shown = figure.to_json().replace("\\u003c", "<")
    assert "&lt;img" in shown, "the name is drawn"
    assert "<img" not in shown
    assert "<script" not in shown
    assert "%&#123;x}" in shown


@each_chart
def test_the_origin_of_the_numbers_is_drawn_into_the_figure(chart: ChartSpec, sweep: Make) -> None:
    for origin in ("measured", "recorded", "imported"):
        date = "" if origin == "imported" else " 25 Nov 2026"
        facts = facts_of(chart, sweep(origin=origin))
        assert notes(chart, facts, "origin") == [f"{origin}{date}"]


@each_chart
def test_runs_that_do_not_compare_are_named_below_the_figure_and_in_it(
    chart: ChartSpec, sweep: Make
) -> None:
    unlike, like = (facts_of(chart, sweep(steps=steps)) for steps in (60, 30))
    assert chart.drawn(unlike).unlike == "Not a fair comparison: steps (30, 60)."
    assert notes(chart, unlike, "unlike") == ["Not a fair comparison: steps"]
    assert chart.drawn(like).unlike == ""
    assert notes(chart, like, "unlike") == []


@each_chart
def test_without_a_run_the_figure_says_why_it_is_empty(chart: ChartSpec) -> None:
    facts = facts_of(chart, SweepData(SWEEP, "measured", to_table([])))
    assert chart.drawn(facts).rows.empty
    assert chart.finding(facts)
    figure = chart.figure(facts)
    assert not figure.data
    assert [bool(note.text) for note in figure.layout.annotations] == [True]


@each_chart
def test_a_chart_says_what_it_draws_and_how_to_read_it(chart: ChartSpec, sweep: Make) -> None:
    facts = facts_of(chart, sweep())
    assert worded(chart.name, facts)
    assert worded(chart.reading, facts) or chart.is_bar
    assert not chart.drawn(facts).rows.empty
    layout = chart.figure(facts).layout
    assert "is better" in f"{layout.xaxis.title.text} {layout.yaxis.title.text}"


@pytest.mark.parametrize(
    "chart", [chart for chart in charts() if chart.compare], ids=lambda chart: chart.id
)
def test_every_run_can_be_opened_from_the_figure_and_tells_its_settings(
    chart: ChartSpec, sweep: Make
) -> None:
    facts = facts_of(chart, sweep())
    opened: set[str] = set()
    hovers = ""
    for trace in chart.figure(facts).data:
        known = [*(trace.customdata or ()), (trace.meta or {}).get("runs", "")]
        opened.update(" ".join(known).split())
        hovers += f"{trace.hovertext} {trace.hovertemplate}"
    assert opened == set(facts.table["run_id"])
    assert "learning rate 1e-4, 30 steps" in hovers
    assert "learning rate 3e-4, 30 steps" in hovers


def test_no_two_charts_share_an_id_a_choice_or_a_place() -> None:
    found = charts()
    places = [chart.compare for chart in found if chart.compare and not chart.is_bar]
    shared = Counter(
        [chart.id for chart in found]
        + [choice.id for chart in found for choice in chart.choices]
        + [(place.row, place.column) for place in places]
        + [("report", chart.report) for chart in found if chart.report is not None]
    )
    assert [name for name, count in shared.items() if count > 1] == []


@pytest.fixture
def new_chart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A further file among the charts."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "new_chart.py").write_text(NEW_CHART)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield
    del package.new_chart, sys.modules["ftlab.charts.new_chart"]


@pytest.mark.slow
@pytest.mark.usefixtures("new_chart")
def test_a_new_file_is_a_chart_of_the_compare_tab_and_of_the_report(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    make_sweep(runs)
    tab = Tab(runs)
    filled = tab.call("fill", Asked(SWEEP), *tab.values())
    assert any("The new chart finds something" in str(update) for _, update in filled)
    assert any("drawn by the new chart" in str(update) for _, update in filled)
    report = sweep_report(sweep_data(RunStore(runs), SWEEP))
    assert "The new chart finds something" in report
    assert "Something new" in report
    assert "drawn by the new chart" in report
