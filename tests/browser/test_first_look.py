"""Where the page opens for a browser that has launched nothing, and for one that has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.basics.errors import FtlabError
from ftlab.basics.files import recorded_folder
from ftlab.tabs import app as ui
from ftlab.tabs.experiment import tab as experiment
from tests.browser.conftest import HAS_LAUNCHED, served, visit
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]
KEEPS_NOTHING = """Object.defineProperty(window, 'localStorage', {
  get() { throw new DOMException('no', 'SecurityError'); },
});"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("runs")
    context = page_context(folder, recorded=recorded_folder())
    with served(ui.build_page(context), folder) as address:
        yield address


def expect_tab(page: Page, name: str) -> None:
    expect(page.get_by_role("tab", selected=True).first).to_have_text(name)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).locator("visible=true").first.click()


def test_a_new_browser_opens_on_a_recorded_sweep_with_a_tour_that_is_closed_for_good(
    browser: Browser, url: str
) -> None:
    with visit(browser, url, script="") as page:
        tour = page.get_by_role("region", name="Tour")
        expect(page).to_have_url(re.compile("tab=compare&sweep=2026"))
        expect(page.locator(".ft-compare .savings")).to_contain_text("recorded")
        expect(tour).to_contain_text("1 of 3")
        assert page.evaluate("history.length") == 2  # with the empty page before it
        for _ in range(2):
            press(page, "Next")
        expect(tour.get_by_role("heading", name="Try it with your own data")).to_be_focused()
        press(page, "Open Experiment")
        expect_tab(page, "Experiment")
        page.goto(url)
        press(page, "Close for good")
        expect_tab(page, "Compare")
        expect(tour).to_be_hidden()
        page.goto(url)
        expect(page.locator(".ft-compare .savings")).to_be_visible()
        expect(tour).to_be_hidden()
        press(page, "Show the tour")
        expect(tour).to_be_visible()


def test_a_card_is_one_click_away_and_a_link_to_it_one_more(browser: Browser, url: str) -> None:
    with visit(browser, url, script="") as page:
        page.set_default_timeout(90_000)  # a busy machine draws the figures first
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        expect(page.locator(".ft-compare .savings")).to_be_visible()
        for name, file in (("Card", r"ftlab-card-.*\.png"), ("Report", r"ftlab-report-.*\.html")):
            with page.expect_download(timeout=90_000) as download:
                page.locator(f"#compare-{name.lower()}").click()
            assert re.fullmatch(file, download.value.suggested_filename)
        page.locator("#compare-link").click()
        expect(page.locator("#compare-link")).to_have_text("Copied")
        assert "?tab=compare&sweep=2026" in page.evaluate("navigator.clipboard.readText()")


def test_after_a_launch_the_page_opens_on_the_last_tab_and_an_address_comes_first(
    browser: Browser, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise FtlabError("The disk is full.")

    with visit(browser, f"{url}?tab=experiment", script="") as page:
        launched = "localStorage.getItem('ftlab.launched')"
        with monkeypatch.context() as patched:
            patched.setattr(experiment, "enqueue_sweep", refuse)
            page.locator("#go").click()
            expect(page.get_by_text("The disk is full.").first).to_be_visible()
        assert page.evaluate(launched) is None
        page.locator("#go").click()
        expect(page.locator(".queue li").first).to_be_visible()
        page.wait_for_function(f"{launched} === 'true'")
        page.goto(url)
        expect_tab(page, "Experiment")
        page.get_by_role("tab", name="Results").click()
        expect(page).to_have_url(f"{url}?tab=results")
        page.goto(url)
        expect_tab(page, "Results")
        page.goto(f"{url}?tab=learn")
        expect_tab(page, "Learn")
        page.get_by_role("tab", name="Compare").click()
        expect(page.locator(".ft-compare .ft-choose")).to_be_visible()
        expect(page.get_by_role("region", name="Tour")).to_be_hidden()


@pytest.mark.parametrize("kept", [KEEPS_NOTHING, f"{HAS_LAUNCHED} localStorage['ftlab.tab'] = '['"])
def test_a_browser_that_keeps_nothing_or_nonsense_has_a_whole_page(
    browser: Browser, url: str, kept: str
) -> None:
    with visit(browser, url, script=kept) as page:
        page.set_default_timeout(90_000)  # a busy machine draws the figures first
        expect_tab(page, "Compare" if kept == KEEPS_NOTHING else "Experiment")
        page.get_by_role("button", name="Switch light and dark").click()
        page.get_by_role("tab", name="Results").click()
        expect_tab(page, "Results")
