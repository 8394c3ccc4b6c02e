"""A table of what the parts of a run took (`pytest --parts`): tests, and seconds of both cores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest


def add_option(parser: pytest.Parser) -> None:
    parser.addoption("--parts", action="store_true", help="print what each folder of tests took")


def part_of(nodeid: str) -> str:
    """The folder below tests/ of a test, or the file that lies there itself."""
    return nodeid.partition("::")[0].removeprefix("tests/").partition("/")[0]


def table(reports: list[pytest.TestReport]) -> Iterator[str]:
    """A line for each part, the longest first, and one for all."""
    tests: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for report in reports:
        part = part_of(report.nodeid)
        tests[part] += report.when == "setup"  # each test has one, also a skipped one
        seconds[part] += report.duration
    yield f"{'part':<28}{'tests':>7}{'seconds':>9}"
    for part, taken in seconds.most_common():
        yield f"{part:<28}{tests[part]:>7,}{taken:>9,.0f}"
    yield f"{'all':<28}{tests.total():>7,}{sum(seconds.values()):>9,.0f}"


def write_table(reporter: pytest.TerminalReporter) -> None:
    if not reporter.config.getoption("--parts"):
        return
    reporter.section("parts")
    known = [one for some in reporter.stats.values() for one in some]
    for line in table([one for one in known if isinstance(one, pytest.TestReport)]):
        reporter.write_line(line)
