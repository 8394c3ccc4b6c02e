"""The table of runs in a real browser: what Python cannot see, ticks, focus, downloads, cards."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ftlab.records.store import RunStore
from ftlab.tabs import app as ui
from tests.browser.conftest import served, visit
from tests.fakes import make_sweep
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("runs")
    make_sweep(folder, seeds=(0, 1))
    with served(ui.build_page(page_context(folder)), folder) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """The Results tab on eight runs of one's own; nothing is recorded."""
    with visit(browser, url) as page:
        page.get_by_role("tab", name="Results").click()
        expect(rows(page)).to_have_count(8)
        yield page


def rows(page: Page) -> Locator:
    return page.locator("#runs tbody tr")


def search(page: Page, text: str) -> None:
    page.get_by_label("Search runs").fill(text)


def ticked(page: Page) -> list[str]:
    return page.locator("#runs tbody input:checked").evaluate_all("all => all.map(b => b.value)")


def test_a_tick_stays_with_its_run_however_rows_are_sorted(page: Page) -> None:
    box = rows(page).nth(1).get_by_role("checkbox")
    box.check()
    run_id = box.get_attribute("value")
    page.locator("[data-sort=train_seconds]").click()
    expect(page.locator("#runs th[aria-sort=ascending]")).to_have_count(1)
    assert ticked(page) == [run_id]
    expect(rows(page).nth(1).get_by_role("checkbox")).not_to_be_checked()


def test_a_run_that_is_no_longer_shown_is_no_longer_ticked(page: Page) -> None:
    page.get_by_label("Tick all rows that are drawn").check()
    expect(page.locator("#ticked")).to_contain_text("8 runs ticked")
    search(page, "qlora")
    expect(page.locator("#ticked")).to_contain_text("2 runs ticked")
    search(page, "")
    expect(rows(page)).to_have_count(8)
    assert len(ticked(page)) == 2


def test_a_name_opens_its_run_by_keyboard_and_close_gives_the_focus_back(page: Page) -> None:
    name = rows(page).nth(2).locator("[data-open]")
    name.press("Enter")
    expect(page.locator("#run-top h3")).to_be_focused()
    expect(page.locator("#runs tr.open")).to_have_count(1)
    page.locator("#run-panel").get_by_role("button", name="Close").click()
    expect(page.locator("#run-panel")).to_be_hidden()
    expect(name).to_be_focused()
    expect(page.locator("#runs tr.open")).to_have_count(0)


def test_the_download_has_the_rows_and_columns_shown(page: Page) -> None:
    search(page, "prompt")
    expect(rows(page)).to_have_count(2)
    page.locator(".ft-folds").get_by_text("Columns", exact=True).click()
    page.locator("#results-columns").get_by_label("tok/s", exact=True).uncheck()
    expect(page.locator("[data-sort=tokens_per_second]")).to_have_count(0)
    for _ in range(2):  # a second press saves a second time
        with page.expect_download() as download:
            page.locator("#results-csv").click()
    found = list(
        csv.DictReader(io.StringIO(Path(download.value.path()).read_text(encoding="utf-8")))
    )
    assert [row["variant"] for row in found] == ["Prompt tuning"] * 2
    shown = page.locator("#runs [data-sort]").evaluate_all("all => all.map(b => b.dataset.sort)")
    ends = {f"{key}{end}" for key in shown for end in ("_low", "_high")}  # of its interval
    assert [name for name in found[0] if name not in ends] == shown
    assert {"score_gain_low", "score_gain_high"} <= set(found[0])
    page.locator("#results-usual").click()
    expect(page.locator("[data-sort=tokens_per_second]")).to_have_count(1)
    page.locator(".ft-folds").get_by_text(re.compile("^Filters")).click()
    page.locator("#results-clear").click()
    expect(rows(page)).to_have_count(8)
    expect(page.get_by_label("Search runs")).to_have_value("")


def test_a_run_is_cloned_into_the_form_of_experiment(page: Page) -> None:
    rows(page).filter(has_text="QLoRA").first.locator("[data-open]").click()
    page.locator("#run-clone").click()
    expect(page.locator("#go")).to_have_text("Launch 1 run")
    expect(page.locator(".pick input:checked")).to_have_value("qlora")


def test_a_claim_of_learn_fills_the_form_of_experiment(page: Page) -> None:
    page.get_by_role("tab", name="Learn").click()
    page.get_by_role("tab", name="Claims of papers").click()
    page.get_by_label("LoRA learns less and forgets less").check()
    page.get_by_role("button", name="Run it on my model").click()
    expect(page.locator("#go")).to_have_text("Launch 6 runs")
    checked = page.locator(".pick input:checked").evaluate_all("all => all.map(box => box.value)")
    assert checked == ["full", "lora"]


def test_on_a_phone_each_row_is_a_card_that_fits(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    width = rows(page).first.evaluate("row => row.getBoundingClientRect().width")
    assert 300 < width <= 390
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_label("Sort").select_option(label="Score")
    expect(rows(page).first).to_contain_text("0.73")


def test_ticked_runs_are_deleted_only_after_yes(browser: Browser, tmp_path: Path) -> None:
    make_sweep(tmp_path, seeds=(0, 1))
    blocks = ui.build_page(page_context(tmp_path))
    with served(blocks, tmp_path) as address, visit(browser, address) as page:
        page.get_by_role("tab", name="Results").click()
        expect(rows(page)).to_have_count(8)
        search(page, "qlora")
        expect(rows(page)).to_have_count(2)
        page.get_by_label("Tick all rows that are drawn").check()
        page.locator("#ticked-delete").click()
        question = page.locator("#results-question")
        expect(question).to_contain_text(
            re.compile(r"Delete 2 runs \(.+\)\? Their adapters go with them")
        )
        expect(page.locator("#results-keep")).to_be_focused()
        page.keyboard.press("Escape")
        expect(question).to_be_hidden()
        assert len(RunStore(tmp_path).table()) == 8
        page.locator("#ticked-delete").click()
        page.locator("#results-delete").click()
        expect(page.locator("#results-said")).to_contain_text("2 runs deleted")
        assert len(RunStore(tmp_path).table()) == 6
        expect(page.locator("#ticked")).to_be_hidden()
