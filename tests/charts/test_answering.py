"""The chart of what answering costs, and the columns that are there only if it was measured."""

from __future__ import annotations

import io
from pathlib import Path

from ftlab.charts.answering import answering_figure, answering_finding
from ftlab.charts.spec import Facts
from ftlab.commands.tables import PlainConsole, print_table
from ftlab.methods.registry import look_of
from ftlab.records.metrics import OPTIONAL
from ftlab.records.store import RunStore, sweep_data
from ftlab.share.report import sweep_report
from ftlab.tabs.results.columns import usual_columns
from tests.charts.whole_sweep import table_of, texts
from tests.fakes import SWEEP

KEYS = (
    "answer_adapter_tokens_per_second", "answer_adapter_net_peak_bytes",
    "answer_merged_tokens_per_second", "answer_merged_net_peak_bytes",
)  # fmt: skip


def facts(folder: Path) -> Facts:
    lora = [(9.0, 410_000_000, 20.0, 380_000_000), (11.0, 410_000_000, 22.0, 380_000_000)]
    full = (None, None, 21.5, 380_000_000)
    return Facts(table_of(folder, *KEYS, lora=lora, full=full, qlora=(None,) * 4))


def test_each_way_is_a_bar_of_speed_and_one_of_memory_in_the_colour_of_the_method(
    tmp_path: Path,
) -> None:
    figure = answering_figure(facts(tmp_path))
    bars = {
        trace.name: dict(zip(trace.marker.color or (), trace.x, strict=True))
        for trace in figure.data
    }
    lora, full = look_of("lora").colour, look_of("full").colour
    assert bars["answering speed, adapter on its base"] == {lora: 10.0}
    assert bars["answering speed, merged into the base"] == {lora: 21.0, full: 21.5}
    memory = {lora: 380_000_000, full: 380_000_000}
    assert bars["memory while answering, merged into the base"] == memory
    assert bars["answering speed, on a 4-bit base"] == {}
    labels = [text for trace in figure.data for text in trace.text or ()]
    assert "adapter 10.0" in labels
    assert "merged 380 MB" in labels
    places = [place for trace in figure.data for place in trace.y or ()]
    assert len(places) == len(set(places)), "no bar lies on another"


def test_the_finding_says_the_range_of_each_way(tmp_path: Path) -> None:
    assert answering_finding(facts(tmp_path)) == (
        "Answers in tokens a second: adapter 10.0, merged 21.0 to 21.5; memory: adapter 410 MB, "
        "merged 380 MB"
    )


def test_where_nobody_measured_it_the_chart_says_how_to_and_the_tables_have_no_column(
    tmp_path: Path,
) -> None:
    table = table_of(tmp_path, "adapter_bytes", lora=(5_000_000,))
    figure = answering_figure(Facts(table))
    assert texts(figure) == ["not measured"]
    assert "--measure-answering" in answering_finding(Facts(table))
    assert not {*OPTIONAL} & {*usual_columns(table)}
    report = sweep_report(sweep_data(RunStore(tmp_path), SWEEP))
    assert "4-bit tok/s" not in report


def test_where_a_run_has_it_the_tables_and_the_report_have_its_columns(tmp_path: Path) -> None:
    table = facts(tmp_path).table
    assert {*OPTIONAL} & {*usual_columns(table)} == {*KEYS}
    console = PlainConsole(file=io.StringIO(), width=400)
    print_table(RunStore(tmp_path).runs(), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    report = sweep_report(sweep_data(RunStore(tmp_path), SWEEP))
    for text in (printed, report):
        assert "Merged tok/s" in text
        assert "4-bit tok/s" not in text
    assert "What answering costs" in report
