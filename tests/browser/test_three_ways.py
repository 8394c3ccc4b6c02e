"""Three ways through the app from an empty browser, and the clicks that each takes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.basics.files import recorded_folder
from ftlab.tabs import app as ui
from tests.browser.conftest import served, visit
from tests.fakes import SWEEP, make_sweep
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]
COUNT = """window.presses = 0;
window.addEventListener('pointerdown', () => window.presses += 1, true);"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("runs")
    return folder


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    context = page_context(folder, recorded=recorded_folder())
    with served(ui.build_page(context), folder) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The first page of a browser that was never here."""
    with visit(browser, url, script=COUNT) as page:
        page.set_default_timeout(90_000)  # a busy machine draws the figures first
        expect(page.locator(".ft-compare .savings")).to_be_visible()
        yield page


def presses(page: Page) -> int:
    count: int = page.evaluate("window.presses")
    return count


def test_a_card_to_show_takes_two_clicks_at_most_and_the_link_to_it_one_more(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    with page.expect_download() as card:
        page.locator("#compare-card").click()
    assert card.value.suggested_filename.endswith(".png")
    assert presses(page) <= 2
    before = presses(page)
    page.locator("#compare-link").click()
    expect(page.locator("#compare-link")).to_have_text("Copied")
    assert presses(page) == before + 1


def test_a_file_of_ones_own_is_a_launched_run_after_six_clicks_at_most(
    page: Page, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("question,answer\n" + "".join(f"q{i},a{i}\n" for i in range(40)))
    page.get_by_role("tab", name="Experiment").click()
    page.locator("#f-task").get_by_text("File", exact=True).click()
    with page.expect_file_chooser() as chooser:
        page.locator("#f-task-id button").first.click()
    chooser.value.set_files(file)
    expect(page.locator(".examples").first).to_contain_text("q1")
    expect(page.locator("#go")).to_be_enabled()
    page.locator("#go").click()
    expect(page.locator(".queue li").first).to_be_visible()
    assert presses(page) <= 6


def test_a_finished_sweep_is_a_report_in_hand_after_two_clicks_at_most(
    browser: Browser, tmp_path: Path
) -> None:
    make_sweep(tmp_path)
    with (
        served(ui.build_page(page_context(tmp_path)), tmp_path) as address,
        visit(browser, f"{address}?tab=experiment", script=COUNT) as page,
    ):
        page.set_default_timeout(90_000)
        with page.expect_download() as report:
            page.locator("#queue-html").click()
        assert SWEEP in Path(report.value.path()).read_text(encoding="utf-8")
        assert presses(page) <= 2
        page.locator("#queue-ask").click()
        expect(page.get_by_role("tab", name="Playground")).to_have_attribute(
            "aria-selected", "true"
        )
        expect(page.locator("#pg-pane-2 input")).to_be_visible()
