"""A new metric is one new file: every surface has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.package_copy import ask, copy_package

NEW_METRIC = """
from ftlab.records.metrics.spec import MetricSpec


def _words(value):
    return f"{value:.0f} µs"


def _microseconds(result):
    seconds = result.measures.train_seconds
    return None if seconds is None else seconds * 1e6


METRICS = (
    MetricSpec(
        "microseconds", "Microseconds", "µs", "less", "the training time, a million times", _words,
        read=_microseconds,
    ),
)
"""
SURFACES = """
import io, json, sys
from pathlib import Path
from ftlab.commands.tables import PlainConsole, print_table, rows_json
from ftlab.records.store import RunStore, sweep_data
from ftlab.share.report import sweep_report
from ftlab.tabs.results.columns import COLUMNS, usual_columns
from ftlab.charts.spec import charts
from tests.fakes import SWEEP, make_sweep

runs = Path(sys.argv[1])
make_sweep(runs)
store = RunStore(runs)
row = store.table().dropna(subset="train_seconds").iloc[0]
report = sweep_report(sweep_data(store, SWEEP))
console = PlainConsole(file=io.StringIO(), width=400)
print_table(store.runs(), console)
printed = console.file.getvalue()
pareto = next(chart for chart in charts() if chart.id == "pareto")
print(json.dumps({
    "table": bool(row["microseconds"] == row["train_seconds"] * 1e6),
    "page": "microseconds" in usual_columns(store.table()),
    "as text": COLUMNS["microseconds"].format(3.0),
    "printed": "Microseconds" in printed and f"{row['microseconds']:.0f} µs" in printed,
    "command line": "microseconds" in json.loads(rows_json(store.runs()))[0],
    "report": "Microseconds" in report and "the training time, a million times" in report,
    "chart": "microseconds" in [key for _, key in pareto.choices[0].options(store.table())],
}))
"""


@pytest.mark.slow
def test_a_new_file_is_a_metric_of_every_surface(tmp_path: Path) -> None:
    """In a copy of ftlab with one more metric."""
    file = copy_package(tmp_path) / "records" / "metrics" / "microseconds.py"
    file.write_text(NEW_METRIC, encoding="utf-8")
    found = dict(ask(tmp_path, SURFACES, str(tmp_path / "runs")))
    assert found.pop("as text") == "3 µs"
    assert found == dict.fromkeys(
        ("table", "page", "printed", "command line", "report", "chart"), True
    )
