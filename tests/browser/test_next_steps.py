"""From a finished sweep to the next step, by one click where it ended."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.tabs import app as ui
from tests.browser.conftest import served, visit
from tests.fakes import SWEEP, make_run, make_sweep
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OLDER, RECORDED = "20261101-093000-cd34", "20260101-120000-0001"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A finished sweep of three methods, one of which failed, an older one, and a recorded one."""
    folder, recorded = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("recorded")
    make_sweep(folder, ("full", "lora"), sweep_id=OLDER)
    make_sweep(folder, ("full", "lora"))
    make_run(folder, "qlora", "failed")
    make_sweep(recorded / "one", ("full", "lora"), sweep_id=RECORDED)
    with served(ui.build_page(page_context(folder, recorded=recorded)), folder) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with visit(browser, url) as page:
        expect(page.locator("#queue-compare")).to_be_visible()
        yield page


def download(page: Page, button: str) -> Path:
    """The file that one click on the button brings."""
    with page.expect_download() as found:
        page.locator(button).click()
    assert SWEEP in found.value.suggested_filename
    return Path(found.value.path())


def test_report_and_card_of_a_finished_sweep_are_in_hand_by_one_click(page: Page) -> None:
    assert "2 of 3 runs done; left out: QLoRA." in page.locator("#queue-next").inner_text()
    assert SWEEP in download(page, "#queue-html").read_text(encoding="utf-8")
    assert download(page, "#queue-png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_sweep_leads_to_compare_and_to_the_panes_of_the_playground(page: Page) -> None:
    page.locator("#sweep input").click()
    page.get_by_role("option").filter(has_text="cd34").click()
    expect(page.locator("#queue-next")).not_to_contain_text("left out")
    page.locator("#queue-compare").click()
    shown = page.locator(f'.savings[data-address="sweep={OLDER}"]')
    expect(shown).to_be_visible()
    page.get_by_role("tab", name="Experiment").click()
    page.locator("#queue-ask").click()
    expect(page.get_by_role("tab", name="Playground")).to_have_attribute("aria-selected", "true")
    for number, label in enumerate(("Base", "Full fine-tuning", "LoRA"), start=1):
        expect(page.locator(f"#pg-pane-{number} input")).to_have_value(re.compile(f"^{label}"))
    expect(page.locator("#pg-pane-4 input")).to_be_hidden()


def test_a_run_of_results_leads_on_and_runs_of_others_are_folded(page: Page) -> None:
    page.get_by_role("tab", name="Results").click()
    rows, fold = page.locator("#runs tr[data-run]"), page.locator("[data-fold=recorded]")
    expect(rows).to_have_count(5)
    fold.press("Enter")
    expect(rows).to_have_count(7)
    fold.click()
    expect(rows).to_have_count(5)
    rows.first.locator("[data-open]").click()
    assert SWEEP in download(page, "#run-html").read_text(encoding="utf-8")
    page.locator("#run-compare").click()
    expect(page.locator(f'.savings[data-address="sweep={SWEEP}"]')).to_be_visible()


def test_an_address_of_a_recorded_run_unfolds_its_rows(browser: Browser, url: str) -> None:
    with visit(browser, f"{url}?tab=results&run={RECORDED}-01-full") as page:
        expect(page.locator("#runs tr.open")).to_have_count(1)
        expect(page.locator("#runs tr[data-run]")).to_have_count(7)


def test_full_fine_tuning_that_was_left_out_is_added_by_one_click(page: Page) -> None:
    full = page.locator('.pick input[value="full"]')
    expect(page.locator("#launch .sum")).to_be_visible()
    expect(page.locator("#launch .lacks")).to_have_count(0)
    full.uncheck()
    expect(page.locator("#go")).to_have_text("Launch 3 runs")
    page.locator("#launch .lacks button").click()
    expect(page.locator("#go")).to_have_text("Launch 4 runs")
    expect(full).to_be_checked()
    expect(page.locator("#launch .lacks")).to_have_count(0)
