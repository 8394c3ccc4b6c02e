"""Counts what the tests injected: faults by name, hostile inputs by area (`make promises`).

A test says what it injects with a marker, and counts only where it passes:

    @pytest.mark.fault("worker killed with SIGKILL")
    @pytest.mark.hostile("adapter zips")            # one hostile input for each test of that name
    def test_...(record_property):
        record_property("hostile inputs", 40)       # instead, where one test tries many
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

_MANY = "hostile inputs"


class Counter:
    """Collects from the reports of passed tests; under xdist in the process that is asked."""

    def __init__(self) -> None:
        self.faults: set[str] = set()
        self.hostile: dict[str, int] = defaultdict(int)
        self.failed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed += report.failed
        if report.when != "call" or not report.passed:
            return
        properties = report.user_properties
        self.faults |= {str(value) for name, value in properties if name == "fault"}
        many = sum(int(str(value)) for name, value in properties if name == _MANY)
        for name, value in properties:
            if name == "hostile":
                self.hostile[str(value)] += many or 1

    def write(self, path: Path) -> None:
        found = {
            "faults": sorted(self.faults),
            "hostile": dict(sorted(self.hostile.items())),
            "failed": self.failed,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def add_option(parser: pytest.Parser) -> None:
    parser.addoption("--promises", type=Path, help="write the counts of this run to that file")


def start(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        return
    config.pluginmanager.register(Counter(), "ftlab-promises")


def finish(config: pytest.Config) -> None:
    counter = config.pluginmanager.get_plugin("ftlab-promises")
    path = config.getoption("--promises")
    if counter is not None and path is not None:
        counter.write(path)


def note_markers(item: pytest.Item) -> None:
    """Puts the markers of a test into its report, which is what crosses processes."""
    for kind in ("fault", "hostile"):
        for marker in item.iter_markers(kind):
            item.user_properties.append((kind, marker.args[0]))
