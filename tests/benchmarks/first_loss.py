"""From Launch to the first loss on the page, and what the time in between goes to.

Run as: python -m tests.benchmarks.first_loss [--methods lora] [--model FOLDER] [--when new again]
        [--settle 6] [--json FILE]

The app is a process of its own that keeps nothing yet, and a headless Chromium opens its page. When
the process that forks workers is ready, the sweep of these methods is launched with the settings of
the form: "new". It is cancelled once its first loss is drawn, and launched again: "again".

Exits with 1 if a loss comes later than the bar for a machine of this product rate.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from ftlab.jobs import ready
from ftlab.records.run import RunDirectory, run_directories
from ftlab.records.store import RunStore
from tests.benchmarks.product_rate import product_rate, write_figures
from tests.browser.conftest import HAS_LAUNCHED, find_chromium, form_is_ready
from tests.processes import App
from tests.waiting import wait_until

MOST = {"new": (8.0, 13.0), "again": (5.0, 10.0)}
"""Seconds at `FAST` products a second and more, and at fewer."""

FAST = 600.0  # GFLOP/s, between the two machines that the bars name: 870 and 300

DRAWN = """() => [...document.querySelectorAll('.ft-watch .js-plotly-plot')].some(
  figure => figure.offsetParent && figure.data.some(trace => trace.y?.length)
)"""


@dataclass(frozen=True)
class Waited:
    """Seconds from the press of Launch until each of these."""

    started: float  # the worker's first line
    loading: float  # data and tokenizer are there
    training: float  # the model is loaded
    stepped: float  # the first step is done
    drawn: float  # its loss is on the page

    def __str__(self) -> str:
        return (
            f"first loss drawn after {self.drawn:.1f} s: worker {self.started:.1f}, loading "
            f"{self.loading:.1f}, training {self.training:.1f}, first step {self.stepped:.1f} s"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--methods", nargs="+", default=["lora"], metavar="ID")
    parser.add_argument("--model", type=Path, help="a folder instead of the bundled model")
    parser.add_argument("--when", nargs="+", choices=MOST, default=list(MOST))
    parser.add_argument(
        "--settle",
        type=float,
        default=6,
        metavar="SECONDS",
        help="from the changed form to the press: what it asks of the predictor is answered then",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    print(rate := product_rate(), flush=True)
    waited: dict[str, Waited] = {}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        for name in ("locks", "kept", "runs"):
            (Path(folder) / name).mkdir()
        patch.setenv("FTLAB_LOCKS", str(Path(folder) / "locks"))
        patch.setenv("FTLAB_KEPT", str(Path(folder) / "kept"))
        app = App(Path(folder) / "runs")
        app.start()
        try:
            with sync_playwright() as driver:
                browser = driver.chromium.launch(
                    executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
                )
                page = browser.new_page(viewport={"width": 1440, "height": 900})
                page.add_init_script(HAS_LAUNCHED)
                page.goto(f"{app.url}?tab=experiment")
                fill_in(page, options.methods, options.model)
                for name in options.when:
                    waited[name] = launch(page, app.runs, options.settle)
                    print(f"{name}: {waited[name]}", flush=True)
                browser.close()
        finally:
            app.stop()
    if options.json:
        write_figures(options.json, {name: asdict(one) for name, one in waited.items()}, rate)
    slow = rate.gflops < FAST
    return 0 if all(one.drawn <= MOST[name][slow] for name, one in waited.items()) else 1


def fill_in(page: Page, methods: Sequence[str], model: Path | None) -> None:
    form_is_ready(page)
    page.get_by_role("button", name="Tick none").click()
    expect(page.locator("#go")).to_be_disabled(timeout=60_000)
    for method in methods:
        page.locator(f'.pick tbody[data-method="{method}"]').get_by_role("checkbox").check()
    if model is not None:
        page.locator("#f-model input").fill(str(model))
        page.locator("#f-model input").press("Enter")
    expect(page.locator("#go")).to_be_enabled(timeout=60_000)


def launch(page: Page, runs: Path, settle: float) -> Waited:
    """Presses Launch, waits for the first loss, and cancels the sweep."""
    before = set(run_directories(runs))
    if ready.idle_seconds():
        file = ready.lock_file(ready.identity())
        wait_until(lambda: file.exists() and not file.stat().st_size, 120)
    page.wait_for_timeout(1000 * settle)
    pressed = time.time()
    page.locator("#go").click()
    page.wait_for_function("() => !document.querySelector('#go')?.disabled")
    wait_until(lambda: any(map(trained, set(run_directories(runs)) - before)), 300)
    page.wait_for_function(DRAWN, timeout=60_000)
    drawn = time.time() - pressed
    [run] = filter(trained, set(run_directories(runs)) - before)
    at = {
        str(event.get("phase") or event["event"]): event["at"] for event in reversed(run.metrics())
    }
    page.get_by_role("button", name="Cancel all").click()
    wait_until(lambda: not any(one.is_open for one in RunStore(runs).runs()), 120)
    found = [at[name] - pressed for name in ("start", "load", "train", "step")]
    return Waited(*found, drawn)


def trained(run: RunDirectory) -> bool:
    return any(event.get("event") == "step" for event in run.metrics())


if __name__ == "__main__":
    sys.exit(main())
