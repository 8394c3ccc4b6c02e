"""Every view has an address: it follows the clicks, and a link, back and reload open it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.tabs import app as ui
from tests.browser.conftest import HAS_LAUNCHED, served, visit
from tests.fakes import make_sweep
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OLDER, NEWER = "20261101-093000-cd34", "20261130-093000-ef56"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("runs")
    make_sweep(folder, ("full", "lora"), sweep_id=OLDER)
    make_sweep(folder, ("full", "lora"), sweep_id=NEWER)
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with served(ui.build_page(page_context(folder)), folder) as address:
        yield address


def press_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def expect_view(page: Page, query: str) -> None:
    """Waits for an address that ends so, and for the view that it names."""
    expect(page).to_have_url(re.compile(re.escape(query) + "$"))
    asked = dict(part.split("=") for part in query.split("&"))
    selected = page.get_by_role("tab", selected=True)
    expect(selected.first).to_have_text(asked["tab"].capitalize())
    if "sweep" in asked:
        expect(page.locator(f'.savings[data-address="sweep={asked["sweep"]}"]')).to_be_visible()
    if asked["tab"] == "results":
        opened = page.locator("#run-top [data-address]")
        expect(opened).to_have_count(1 if "run" in asked else 0)
    if "lesson" in asked:
        expect(page.locator(f'[data-address="lesson={asked["lesson"]}"]')).to_have_count(1)
        expect(selected.nth(1)).to_have_text(re.compile(asked["lesson"], re.I))


def test_the_address_follows_the_clicks_and_back_forward_and_reload_follow_the_address(
    browser: Browser, url: str
) -> None:
    with visit(browser, url) as page:
        expect(page.locator("#go")).to_be_visible()
        expect(page).to_have_url(url)
        steps = []

        def step(query: str) -> None:
            expect_view(page, query)
            steps.append(query)
            page.wait_for_timeout(2_100)  # what comes sooner counts as the same step

        press_tab(page, "Compare")
        step(f"tab=compare&sweep={NEWER}")
        page.locator("#compare-sweep input").click()
        page.get_by_role("option").filter(has_text="cd34").click()
        step(f"tab=compare&sweep={OLDER}")
        press_tab(page, "Results")
        step("tab=results")
        page.locator("#runs tr[data-run] button").first.click()
        expect(page.locator("#run-top [data-address]")).to_have_count(1)
        run = page.locator("#run-top [data-address]").get_attribute("data-address")
        step(f"tab=results&{run}")
        press_tab(page, "Learn")
        step("tab=learn&lesson=lora")
        press_tab(page, "Merging")
        step("tab=learn&lesson=merging")
        for query in steps[-2::-1]:
            page.go_back()
            expect_view(page, query)
        page.go_forward()
        expect_view(page, steps[1])
        page.reload()
        expect_view(page, steps[1])


def test_a_way_into_a_tab_that_was_open_before_shows_what_was_asked_for(
    browser: Browser, url: str
) -> None:
    """The tab's own handler runs at the same time, with what the page held before."""
    with visit(browser, f"{url}?tab=compare&sweep={NEWER}") as page:
        expect_view(page, f"tab=compare&sweep={NEWER}")
        press_tab(page, "Playground")
        expect(page.locator("#pg-answer-1")).to_be_visible()
        press_tab(page, "Results")
        row = page.locator(f'#runs tr[data-run^="{OLDER}"][data-run$="lora"]')
        run = row.get_attribute("data-run")
        row.locator("button").first.click()
        expect_view(page, f"tab=results&run={run}")
        page.get_by_role("button", name="Compare its sweep").click()
        expect_view(page, f"tab=compare&sweep={OLDER}")
        page.wait_for_timeout(2_000)  # until a late answer would have come
        expect(page.locator("#compare-sweep input")).to_have_value(re.compile(OLDER[-4:]))
        expect_view(page, f"tab=compare&sweep={OLDER}")
        expect(page.get_by_role("heading", name="Show it to others")).to_be_visible()
        page.go_back()
        expect_view(page, f"tab=results&run={run}")
        page.get_by_role("button", name="Ask it").click()
        expect(page.locator("#pg-answer-2")).to_contain_text("LoRA")
        page.wait_for_timeout(2_000)
        expect(page.locator("#pg-answer-2")).to_contain_text("LoRA")
        expect(page).to_have_url(re.compile(f"panes=base(,|%2C){run}"))


_PRESSED_AT_ONCE = """
new MutationObserver((changes, observer) => {
  const tab = document.getElementById('tab-compare-button');
  if (!tab) return;
  observer.disconnect();
  tab.click();
}).observe(document, { subtree: true, childList: true });
"""
_SLOW_ANSWERS = """
const { fetch } = window;
window.fetch = async (url, ...others) => {
  if (`${url}`.includes('queue/join')) await new Promise((resolve) => setTimeout(resolve, 1500));
  return fetch(url, ...others);
};
"""


@pytest.mark.parametrize("script", [_PRESSED_AT_ONCE, _SLOW_ANSWERS], ids=["at once", "slow"])
def test_a_tab_that_is_pressed_while_an_address_is_opened_stays(
    browser: Browser, url: str, script: str
) -> None:
    with visit(browser, f"{url}?tab=results", script=HAS_LAUNCHED + script) as page:
        if script == _SLOW_ANSWERS:
            press_tab(page, "Compare")
        page.wait_for_timeout(4_000)  # until a late answer would have come
        expect_view(page, f"tab=compare&sweep={NEWER}")
        press_tab(page, "Results")
        expect_view(page, "tab=results")


def test_a_link_opens_its_view_or_says_that_it_is_not_there(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}?tab=compare&sweep={OLDER}") as page:
        expect_view(page, f"tab=compare&sweep={OLDER}")
        expect(page.locator(".js-plotly-plot:visible").first).to_be_visible()
        expect(page.get_by_role("heading", name="Show it to others")).to_be_visible()  # below
    with visit(browser, f"{url}?tab=results&search=lora") as page:
        expect(page.locator("#results-text :is(input, textarea)")).to_have_value("lora")
        expect(page.locator("#runs")).not_to_contain_text("Full fine-tuning")
        expect_view(page, "tab=results&search=lora")
    with visit(browser, f"{url}?tab=compare&sweep=gone") as page:
        expect(page.locator(f'.savings[data-address="sweep={NEWER}"]')).to_be_visible()
        steps = page.evaluate("history.length")
        page.keyboard.press("Shift")  # whoever goes on has seen it: Back leads past the dead link
        expect_view(page, f"tab=compare&sweep={NEWER}")
        assert page.evaluate("history.length") == steps
    with visit(browser, f"{url}?tab=results&search={'w' * 301}") as page:
        expect(page.get_by_text("has 301 characters")).to_be_visible()
        expect(page.locator("#results-text :is(input, textarea)")).to_have_value("")
    with visit(browser, f"{url}?tab=<b>gone</b>") as page:
        expect(page.get_by_text("There is no tab '<b>gone</b>'")).to_be_visible()
        expect(page.locator("#go")).to_be_visible()


def test_copy_link_copies_the_address_of_the_view(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}?__theme=dark&tab=compare&sweep={OLDER}") as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        expect_view(page, f"tab=compare&sweep={OLDER}")
        button = page.locator("#share-link")
        button.click()
        expect(button).to_have_text("Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == f"{url}?tab=compare&sweep={OLDER}"
        expect(button).to_have_text("Copy link")
