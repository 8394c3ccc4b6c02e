"""Compare and Learn in a real browser, as the first visitor of an empty folder finds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ftlab.basics.files import recorded_folder
from ftlab.records.recommendation import CRITERIA, recommend
from ftlab.records.store import RunStore, sweep_data
from ftlab.tabs import app as ui
from ftlab.tabs.compare.view import default_sweep
from tests.browser.conftest import served, visit
from tests.fakes import make_sweep
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]
RECORDED = default_sweep(RunStore(Path("none"), recorded_folder()).table())
FIGURES = 10  # four bars, the front, loss, score against time, memory by phase, serving and served


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    runs = tmp_path_factory.mktemp("runs")
    with served(ui.build_page(page_context(runs, recorded=recorded_folder())), runs) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with visit(browser, url) as page:
        yield page


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def figures(page: Page) -> Locator:
    return page.locator(".ft-compare .js-plotly-plot:visible")


def open_compare(page: Page) -> None:
    open_tab(page, "Compare")
    expect(page.locator(".ft-compare .card-picture:visible svg")).to_be_visible()
    expect(figures(page)).to_have_count(FIGURES)


def test_the_first_start_shows_a_recorded_sweep_marked_as_recorded_on_every_figure(
    page: Page,
) -> None:
    open_compare(page)
    expect(page.locator(".ft-compare h2").first).to_contain_text("less memory than full")
    for figure in figures(page).all():
        expect(figure).to_contain_text("recorded")


def test_what_is_preferred_changes_which_one_to_use(page: Page) -> None:
    open_compare(page)
    title = page.locator(".ft-compare h3", has_text="Which one to use")
    expect(title).to_have_count(1)
    data = sweep_data(RunStore(Path("none"), recorded_folder()), str(RECORDED))
    for prefer in reversed(CRITERIA):
        page.get_by_role("radio", name=CRITERIA[prefer].words, exact=True).check()
        found = recommend(data.table, prefer)
        expect(title).to_have_text(found.title)
        expect(title.locator("xpath=..").locator("p")).to_have_text(found.sentence)


def test_a_click_on_a_point_opens_its_run(page: Page) -> None:
    open_compare(page)
    point = page.locator(".ft-compare .scatterlayer .point:visible").first
    point.hover(force=True)
    point.click(force=True)
    expect(page.get_by_role("tab", name="Results", exact=True)).to_have_attribute(
        "aria-selected", "true"
    )
    expect(page.locator(".ft-run .id:visible")).to_contain_text(str(RECORDED))
    expect(page.locator(".ft-run .chip.recorded:visible").first).to_be_visible()


def test_a_figure_is_kept_as_an_image_that_names_figure_and_sweep(
    page: Page, tmp_path: Path
) -> None:
    open_compare(page)
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<svg")):
        with page.expect_download() as download:
            page.locator(f".ft-compare [data-image={kind}]").first.click()
        file = download.value
        assert file.suggested_filename.endswith(f"-{RECORDED}.{kind}")
        file.save_as(tmp_path / kind)
        assert (tmp_path / kind).read_bytes().startswith(start)


def test_an_image_names_all_that_differs_between_its_runs_on_as_many_lines_as_it_takes(
    page: Page,
) -> None:
    page.wait_for_function("Boolean(window.ft?.sayUnlike)")
    text, more, nothing = page.evaluate(
        """() => {
          const note = { name: 'unlike', text: 'short', hovertext: 'steps (30, 60), '.repeat(20),
            font: { size: 11 } };
          const more = ft.sayUnlike({ annotations: [{ name: 'origin' }, note] }, 920, 'Arial');
          return [note.text, more, ft.sayUnlike({}, 920, 'Arial')];
        }"""
    )
    assert text.replace("<br>", " ").count("steps (30, 60)") == 20, "wherever a line ends"
    assert (text.count("<br>") * 11 * 1.3, nothing) == (pytest.approx(more), 0)
    assert more > 0


def test_the_card_is_downloaded_and_leaves_no_button_behind(page: Page) -> None:
    open_compare(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Card as SVG").click()
    assert download.value.suggested_filename.endswith(".svg")
    open_tab(page, "Results")
    open_tab(page, "Compare")
    expect(page.locator(".ft-carrier").first).to_be_attached()
    expect(page.locator(".ft-carrier:visible")).to_have_count(0)


def test_a_sweep_with_nothing_done_can_be_looked_at_and_left_again(
    browser: Browser, tmp_path: Path
) -> None:
    make_sweep(tmp_path, ("full", "lora"), sweep_id="20261124-120000-cccc", status="failed")
    blocks = ui.build_page(page_context(tmp_path, recorded=recorded_folder()))
    with served(blocks, tmp_path) as address, visit(browser, address) as page:
        open_tab(page, "Compare")
        headline = page.locator(".ft-compare h2").first
        picture = page.locator(".ft-compare .card-picture:visible")
        for option, words, said in (
            ("cccc", "got to its end", "compare with yet"),
            ("Recorded", "less memory than full fine-tuning", "Saves memory"),
            ("cccc", "got to its end", "compare with yet"),
        ):
            page.locator("#compare-sweep input").click()
            page.get_by_role("option").filter(has_text=option).first.click()
            expect(headline).to_contain_text(words)
            expect(picture).to_contain_text(said)


def test_the_rank_slider_changes_what_is_stored_and_what_is_missed(page: Page) -> None:
    open_tab(page, "Learn")
    stored = page.get_by_text("8,192", exact=True)
    expect(stored).to_be_visible()
    slider = page.get_by_role("slider", name="Rank r").first
    slider.focus()
    slider.press("ArrowRight")
    expect(page.get_by_text("9,216", exact=True)).to_be_visible()
    expect(stored).to_have_count(0)
