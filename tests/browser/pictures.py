"""Takes the documents' pictures: Experiment, Compare, Playground, Plan, Learn's study of what
carries over from a small run, and the form of the tutorial with one's own CSV, in light and dark.

Run as: python -m tests.browser.pictures [--folder docs/images] [--tabs plan,...] [--modes dark,...]
(or `make pictures`)

An app of its own on an empty folder of runs: Compare shows the sweep that comes recorded, the
Playground really answers with the base and the adapters that ship with ftlab.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from ftlab.models.bundled import ensure_bundled
from tests.browser.conftest import find_chromium
from tests.processes import ROOT, App
from tests.tutorial import CSV_TUTORIAL, blocks

WIDTH, HEIGHT = 1440, 900
_MODES = ("light", "dark")
_PATIENCE = 120_000


def experiment(page: Page) -> None:
    page.get_by_role("tab", name="Experiment").click()
    expect(page.locator("#go")).to_contain_text("Launch")
    expect(page.locator("#launch [data-most]")).to_be_visible(timeout=_PATIENCE)  # all is priced


def compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    expect(page.locator(".js-plotly-plot .main-svg:visible").first).to_be_visible()


def playground(page: Page) -> None:
    page.get_by_role("tab", name="Playground").click()
    expect(page.locator("#pg-answer-2")).to_contain_text("SQL specialist")
    page.locator("#pg-prompt textarea").fill(
        "Table singers(name, age, country). List the name of singers whose age is above 30."
    )
    page.locator("#pg-send").click()
    for pane in range(1, 5):
        expect(page.locator(f"#pg-answer-{pane}")).to_contain_text("tok/s", timeout=_PATIENCE)


def plan(page: Page) -> None:
    page.get_by_role("tab", name="Plan", exact=True).click()
    expect(page.locator("#plan-verdict .gauge")).to_be_visible(timeout=_PATIENCE)
    page.locator("#plan-draw").click()
    expect(page.locator(".js-plotly-plot .main-svg:visible").first).to_be_visible(timeout=_PATIENCE)
    expect(page.get_by_text("of 20 predictions")).to_have_count(0, timeout=_PATIENCE)


def small_and_large(page: Page) -> None:
    page.get_by_role("tab", name="Learn").click()
    page.get_by_role("tab", name="Small and large").click()
    expect(page.locator(".js-plotly-plot .main-svg:visible").first).to_be_visible(timeout=_PATIENCE)


def csv(page: Page) -> None:
    """The left column of Experiment with the tutorial's file, which its first script makes."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-c", blocks(CSV_TUTORIAL.read_text(encoding="utf-8"))[0].text],
            cwd=folder,
            check=True,
        )
        page.get_by_role("tab", name="Experiment").click()
        page.locator("#f-task").get_by_text("File", exact=True).click()
        page.locator("#f-task-id input[type=file]").set_input_files(Path(folder) / "tickets.csv")
        expect(page.locator("#launch")).to_contain_text("40 test examples")
    page.get_by_label("Scored with").first.click()
    page.get_by_role("option", name="Exact match").click()
    expect(page.locator(".ft-rail")).to_contain_text("Scored with Exact match")
    expect(page.locator(".ft-rail")).to_contain_text("tokens", timeout=_PATIENCE)


PARTS = {"csv": {"x": 0, "y": 44, "width": 356, "height": 792}}
"""What of the window a picture shows, where it is not all of it."""

TABS: dict[str, Callable[[Page], None]] = {
    "experiment": experiment,
    "compare": compare,
    "playground": playground,
    "plan": plan,
    "small-and-large": small_and_large,
    "csv": csv,  # last: the file stays in the form
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "images")
    parser.add_argument("--tabs", default=",".join(TABS), help="only these (all)")
    parser.add_argument("--modes", default=",".join(_MODES), help="only these (both)")
    options = parser.parse_args(arguments)
    chromium = find_chromium()
    if chromium is None:
        print("Chromium is missing (Debian: apt-get install chromium).", file=sys.stderr)
        return 2
    ensure_bundled(print)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ftlab-pictures-") as runs, sync_playwright() as driver:
        app = App(Path(runs))
        app.start()
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            for mode in options.modes.split(","):
                _take(browser, app.url, mode, options.tabs.split(","), options.folder)
        finally:
            browser.close()
            app.stop()
    return 0


def _take(browser: Browser, url: str, mode: str, tabs: Sequence[str], folder: Path) -> None:
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{url}?__theme={mode}&tab=experiment")
    for name in tabs:
        TABS[name](page)
        page.mouse.move(0, 0)
        page.wait_for_timeout(1_500)  # fonts, and figures that fit their width
        path = folder / f"{name}-{mode}.png"
        page.screenshot(path=path, clip=PARTS.get(name))  # type: ignore[arg-type]
        print(path)
    context.close()


if __name__ == "__main__":
    sys.exit(main())
