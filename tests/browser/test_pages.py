"""Every tab, wide and narrow, light and dark: it opens without an error and fits the screen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from ftlab.basics.files import recorded_folder
from ftlab.tabs import app as ui
from tests.browser.conftest import painted, served, visit
from tests.fakes import make_sweep
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]
TABS = ("Experiment", "Results", "Compare", "Playground", "Plan", "Learn")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("runs")
    make_sweep(folder)
    context = page_context(folder, recorded=recorded_folder())
    with served(ui.build_page(context), folder) as address:
        yield address


@pytest.mark.parametrize(("mode", "width"), [("light", 1440), ("dark", 390)])
def test_every_tab_opens_without_error_and_never_scrolls_sideways(
    browser: Browser, url: str, mode: str, width: int
) -> None:
    with visit(browser, f"{url}?__theme={mode}", width) as page:
        for name in TABS:
            page.get_by_role("tab", name=name).click()
            expect(page.get_by_role("tabpanel").locator("visible=true").first).to_be_visible()
            painted(page)
            overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
            assert overflow <= 0, f"{name} is {overflow} px too wide"
        assert page.evaluate("document.body.classList.contains('dark')") == (mode == "dark")


def test_the_theme_that_was_switched_to_is_there_after_a_reload(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        dark = page.locator("body.dark")
        before = dark.count()
        page.get_by_role("button", name="Switch light and dark").click()
        expect(dark).to_have_count(1 - before)
        page.reload()
        expect(page.locator("#top .pill").first).to_be_visible()
        expect(dark).to_have_count(1 - before)


def test_the_page_comes_compressed_and_gradio_reads_its_events_without_proxies(
    browser: Browser, url: str
) -> None:
    with visit(browser, url) as page:
        answer = page.reload()
        assert answer is not None
        assert answer.headers["content-encoding"] == "gzip"
        expect(page.locator("#top .pill").first).to_be_visible()
        kind = "window.gradio_config.dependencies.constructor.name"
        assert page.evaluate(kind) == "Events"  # not "Array", of which Svelte makes proxies


_ALL_FIT = """() => {
  const width = (element) => element.getBoundingClientRect().width;
  const seen = [...document.querySelectorAll('.js-plotly-plot')].filter((one) => one.offsetParent);
  return seen.length >= 5
    && seen.every((one) => Math.abs(width(one.querySelector('.main-svg')) - width(one)) <= 2);
}"""


def test_figures_fit_after_a_tab_switch_and_a_resize(browser: Browser, url: str) -> None:
    with visit(browser, url) as page:
        page.get_by_role("tab", name="Compare").click()
        expect(page.locator(".js-plotly-plot:visible").first).to_be_visible()
        page.get_by_role("tab", name="Results").click()
        page.set_viewport_size({"width": 900, "height": 900})
        page.get_by_role("tab", name="Compare").click()
        expect(page.locator(".js-plotly-plot:visible").first).to_be_visible()
        page.wait_for_function(_ALL_FIT)
