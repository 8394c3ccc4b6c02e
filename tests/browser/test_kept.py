"""The form of Experiment is there again after a reload and a restart, until it is reset."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import visit
from tests.processes import App

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    runs = tmp_path / "runs"
    runs.mkdir()
    app = App(runs)
    app.start()
    yield app
    app.stop()


def expect_filled(page: Page) -> None:
    expect(page.locator("#f-settings-steps input")).to_have_value("7")
    expect(page.locator("#f-map-prompt input")).to_have_value("question")
    expect(page.locator("#f-map-completion input")).to_have_value("reply")
    expect(page.get_by_text("Task file: mine.csv")).to_be_visible()
    expect(page.locator(".pick input[value=qlora]")).not_to_be_checked()
    expect(page.locator(".pick tbody[data-method=lora] [data-changed]")).to_have_text("r=4")
    expect(page.locator(".examples").first).to_contain_text("q1r1")
    expect(page.locator("#go")).to_have_text("Launch 3 runs")


def expect_defaults(page: Page) -> None:
    expect(page.locator("#go")).to_have_text("Launch 4 runs")
    expect(page.locator("#f-settings-steps input")).to_have_value("30")
    expect(page.get_by_label("SQL", exact=True)).to_be_checked()
    expect(page.locator(".ft-kept button")).to_have_count(0)


def test_the_form_is_there_after_a_reload_and_a_restart_until_it_is_reset(
    browser: Browser, app: App, tmp_path: Path
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("question,answer,reply\n" + "".join(f"q{i},a{i},r{i}\n" for i in range(20)))
    with visit(browser, app.url) as page:
        expect_defaults(page)
        page.locator("#f-task").get_by_text("File", exact=True).click()
        page.locator("#f-task-id input[type=file]").set_input_files(file)
        page.locator("#f-map-completion input").click()
        page.get_by_role("option", name="reply").click()
        page.locator(".pick input[value=qlora]").uncheck()
        page.get_by_role("button", name="Settings of LoRA", exact=True).click()
        page.locator('[data-name="lora.r"]').fill("4")
        page.locator("#f-settings-steps input").fill("7")
        kept = page.locator(".ft-kept [data-kept]")
        for said in ("mine.csv", '"settings.steps": 7', '"lora.r": "4"', '"reply"', '"prompt_tun'):
            expect(kept).to_have_attribute("data-values", re.compile(re.escape(said)))
        assert str(tmp_path) not in page.evaluate("JSON.stringify(localStorage)")
        page.reload()
        expect_filled(page)
        app.stop()
        app.start()
        page.goto(app.url)
        expect_filled(page)
        page.get_by_role("button", name="Start from the defaults").click()
        expect_defaults(page)
        assert page.evaluate("localStorage.getItem('ftlab.form')") is None
        page.reload()
        expect_defaults(page)
        page.evaluate("localStorage.setItem('ftlab.form', '{\"version\": 99, \"values\": {}}')")
        page.reload()
        expect(page.get_by_text("from another version of ftlab")).to_be_visible()
        expect_defaults(page)


def test_a_browser_that_keeps_nothing_says_so_and_loses_nothing_else(
    browser: Browser, app: App
) -> None:
    context = browser.new_context()
    context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new Error('denied'); }})"
    )
    page = context.new_page()
    page.goto(f"{app.url}?tab=experiment")
    expect_defaults(page)
    page.locator("#f-settings-steps input").fill("7")
    expect(page.get_by_role("button", name="Start from the defaults")).to_be_visible()
    expect(page.get_by_text("This browser keeps these inputs")).to_be_hidden()
    page.get_by_role("button", name="Start from the defaults").click()
    expect_defaults(page)
    context.close()
