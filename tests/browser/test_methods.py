"""The table of methods in a browser: ticks, settings and search, and what Launch makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ftlab.methods.capabilities import why_not_offered
from ftlab.methods.registry import CORE, METHODS
from ftlab.models.dimensions import shape_of_model
from ftlab.records.run import run_directories
from ftlab.tabs import app as ui
from tests.browser.conftest import served, visit
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]
OFFERED = [method_id for method_id in METHODS if not why_not_offered(method_id)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def url(runs: Path) -> Iterator[str]:
    with served(ui.build_page(page_context(runs)), runs) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with visit(browser, url) as page:
        expect(page.locator("#go")).to_have_text(f"Launch {len(CORE)} runs")
        yield page


def row(page: Page, method: str) -> Locator:
    return page.locator(f'.pick tbody[data-method="{method}"]')


def test_several_are_ticked_at_once_and_a_family_says_how_many(page: Page) -> None:
    for which, count in (("All", len(OFFERED)), ("None", 0), ("The four", len(CORE))):
        page.get_by_role("button", name=f"Tick {which.lower()}", exact=True).click()
        expect(page.locator(".pick input:checked")).to_have_count(count)
    page.get_by_role("button", name="Tick all", exact=True).click()
    expect(page.locator(".family", has_text="Low rank").locator("summary")).to_contain_text(
        "6 methods, 6 ticked"
    )


def test_a_search_unfolds_what_it_finds_with_its_paper_and_hides_the_rest(page: Page) -> None:
    find = page.get_by_label("Find a method")
    find.fill("householder")
    expect(row(page, "hra").locator("tr").first).to_be_visible()
    paper = row(page, "hra").get_by_role("link")
    expect(paper).to_have_attribute("href", METHODS["hra"].paper.url)
    expect(paper).to_have_attribute("target", "_blank")
    expect(row(page, "lora")).to_be_hidden()
    find.fill("nothing has these words")
    expect(page.get_by_text("No method has these words.")).to_be_visible()
    find.fill("")
    expect(row(page, "lora").locator("tr").first).to_be_visible()
    expect(row(page, "hra").locator("tr").first).to_be_hidden()


def test_settings_are_launched_as_they_stand_when_launch_is_pressed(page: Page, runs: Path) -> None:
    page.get_by_role("button", name="Tick none").click()
    page.locator("summary", has_text="Low rank").click()
    row(page, "dora").get_by_role("checkbox").check()
    expect(row(page, "lora").get_by_role("button")).to_be_hidden()
    row(page, "dora").get_by_role("button", name="Settings of DoRA").click()
    rank = page.locator("#f-dora-r input")
    rank.fill("0")
    expect(page.locator("#launch .wrong")).to_contain_text("Rank r is 0")
    rank.fill("8")
    expect(page.locator("#go")).to_have_text("Launch 1 run")
    page.locator("#f-dora-targets select").select_option("attention")
    rank.fill("3")
    page.locator("#go").click()  # at once: what was typed last is still on its way
    expect(page.locator(".queue li").filter(has_text="DoRA")).to_have_count(1)
    expect(row(page, "dora").locator("[data-changed]")).to_have_text("r=3 targets=attention")
    variants = [spec.variant for run in run_directories(runs) if (spec := run.spec()).variant]
    assert [variant.label for variant in variants if variant] == ["DoRA r=3 targets=attention"]


@pytest.mark.model
def test_what_a_method_trains_and_why_one_cannot_stand_in_its_row(page: Page) -> None:
    assert shape_of_model("bundled") is not None
    expect(row(page, "lora").locator("[data-count]")).to_have_text("2.4 M")
    page.locator("summary", has_text="Part").click()
    expect(row(page, "bitfit").locator(".why:not([data-short], [data-reach])")).to_contain_text(
        "This model has no biases"
    )
    row(page, "bitfit").get_by_role("checkbox").check()
    expect(page.locator("#launch")).to_contain_text("1 not applicable here")
