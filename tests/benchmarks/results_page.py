"""The Results tab on many runs: seconds from a click or a key to painted rows, in Chromium.

Run as: python -m tests.benchmarks.results_page [--runs N] [--repeats N]

Each repeat is a new app and a new visitor. "first" is the first press on the tab once the page has
loaded, with no run read yet: they are moved into the runs folder just before. "again" is the tab
opened a second time, by another visitor of the same app, so that it is drawn anew; "filter" a word
typed into the search field. Exits with 1 if a median is above 1.0 s (first, again) or 0.3 s
(filter); with 10,000 runs or more above 2.0 s or 0.5 s.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from ftlab.records.run import run_directories
from tests.benchmarks.many_runs import RUNS_A_SWEEP, make_many
from tests.browser.conftest import App, find_chromium, free_port
from tests.fakes import make_run

LIMITS = {"first": 1.0, "again": 1.0, "filter": 0.3}
LIMITS_OF_MANY = {"first": 2.0, "again": 2.0, "filter": 0.5}
MANY = 10_000
FIRST_PAGE = 100
"""Rows that are painted at first, where there are so many runs."""

# Seconds from an action until the rows meet a condition and have been painted.
_TIMED = """([act, wait]) => new Promise((resolve, reject) => {
  const tab = (name) => [...document.querySelectorAll('[role=tab]')]
    .find((one) => one.textContent.trim() === name);
  const type = (text) => {
    const field = document.querySelector('#results-text :is(input, textarea)');
    field.value = text;
    field.dispatchEvent(new Event('input', {bubbles: true}));
  };
  const rows = () => [...document.querySelectorAll('#runs tbody tr')]
    .filter((row) => row.offsetParent);
  const done = Function('rows', 'return ' + wait);
  const began = performance.now();
  Function('tab', 'type', act)(tab, type);
  const look = () => {
    if (done(rows())) {
      return requestAnimationFrame(() => requestAnimationFrame(
        () => resolve((performance.now() - began) / 1000)));
    }
    if (performance.now() - began > 30000) return reject(Error('never painted: ' + wait));
    requestAnimationFrame(look);
  };
  look();
})"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        apart, served = Path(folder) / "made", Path(folder) / "served"
        served.mkdir()
        make_many(apart, options.runs - 1)
        make_run(apart, "lora", "failed", sweep_id="20260101-000000-ffff")
        print(f"{options.runs:,} runs", flush=True)
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        measured: dict[str, list[float]] = {name: [] for name in LIMITS}
        for _ in range(options.repeats):
            shown = options.runs - math.ceil(options.runs / RUNS_A_SWEEP)  # without base runs
            once = measure(browser, apart, served, min(shown, FIRST_PAGE))
            for name, seconds in once.items():
                measured[name].append(seconds)
            print(", ".join(f"{name} {s:.2f} s" for name, s in once.items()), flush=True)
        browser.close()
    medians = {name: statistics.median(seconds) for name, seconds in measured.items()}
    limits = LIMITS_OF_MANY if options.runs >= MANY else LIMITS
    for name, median in medians.items():
        worst = max(measured[name])
        print(f"{name}: median {median:.2f} s, worst {worst:.2f} s, limit {limits[name]} s")
    return int(any(medians[name] > limit for name, limit in limits.items()))


def measure(browser: Browser, apart: Path, served: Path, rows: int) -> dict[str, float]:
    """Two visits to a freshly started app; the runs lie `apart` until the first has loaded.

    The tab is open once that many rows are painted.
    """
    app = App(served, free_port())
    app.start()
    found = {}
    try:
        page = loaded(browser, app)
        move_runs(apart, served)
        found["first"] = timed(page, "tab('Results').click()", f"rows.length >= {rows}")
        page.close()
        page = loaded(browser, app)
        found["again"] = timed(page, "tab('Results').click()", f"rows.length >= {rows}")
        page.wait_for_timeout(500)
        found["filter"] = timed(page, "type('failed')", "rows.length === 1")
        page.close()
    finally:
        app.stop()
        move_runs(served, apart)
    return found


def loaded(browser: Browser, app: App) -> Page:
    """A visitor's page on which all tabs have had their first answers."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(f"{app.url}?tab=experiment")
    expect(page.locator("#go")).to_have_text(re.compile(r"Launch \d+ runs?"), timeout=30_000)
    page.wait_for_timeout(1500)
    return page


def move_runs(source: Path, target: Path) -> None:
    for directory in run_directories(source):
        directory.path.rename(target / directory.run_id)


def timed(page: Page, act: str, wait: str) -> float:
    return float(page.evaluate(_TIMED, [act, wait]))


if __name__ == "__main__":
    sys.exit(main())
