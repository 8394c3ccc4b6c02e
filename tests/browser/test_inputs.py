"""What is typed on the Experiment tab is what runs, or is refused beside its field."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ftlab.models.resolve import ModelReach
from ftlab.records.run import run_directories
from ftlab.records.store import RunStore
from ftlab.tabs import app as ui
from ftlab.tabs.context import AppContext
from tests.browser.conftest import served
from tests.tabs.page_fakes import page_context

pytestmark = pytest.mark.browser
PATIENCE_MS = 30_000
GONE = "The Hub has no model 'owner/gone' (or it is private: set HF_TOKEN)."


@pytest.fixture
def context(tmp_path: Path) -> AppContext:
    runs = tmp_path / "runs"
    runs.mkdir()
    models = ModelReach(lambda model: GONE if model == "owner/gone" else "")
    return replace(page_context(runs), models=models)


@pytest.fixture
def page(
    browser: Browser, context: AppContext, capfd: pytest.CaptureFixture[str]
) -> Iterator[Page]:
    """A fresh visitor; neither the page nor the server behind it may end in a traceback."""
    errors: list[str] = []
    with served(ui.build_page(context), context.runs_folder) as address:
        page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        expect(page.locator("#go")).to_have_text("Launch 4 runs", timeout=PATIENCE_MS)
        yield page
        page.context.close()
    assert errors == []
    out, err = capfd.readouterr()
    assert "Traceback" not in out + err


def base_model(page: Page) -> Locator:
    return page.locator("#f-model input")


def choose_task(page: Page, name: str) -> None:
    page.locator("#f-task").get_by_text(name, exact=True).click()


def upload(page: Page, path: Path) -> None:
    page.locator("#f-task-id input[type=file]").set_input_files(path)


def said(page: Page) -> Locator:
    return page.locator("#launch .sum")


def refused(page: Page, sentence: str | re.Pattern[str]) -> None:
    """The sentence stands beside the field and in the bar, and Launch cannot be pressed."""
    expect(page.locator(".ft-rail .wrong").get_by_text(sentence).first).to_be_visible()
    expect(page.locator("#launch [role=alert]")).to_contain_text(sentence)
    expect(page.locator("#go")).to_be_disabled()


def write(path: Path, head: str, *rows: str) -> Path:
    path.write_text("\n".join([head, *rows]) + "\n")
    return path


@pytest.mark.parametrize("key", ["Enter", "Tab"])
def test_a_typed_id_stays_and_one_that_cannot_be_had_keeps_launch_from_being_pressed(
    page: Page, context: AppContext, key: str
) -> None:
    base_model(page).fill("owner/gone")
    base_model(page).press(key)
    refused(page, GONE)
    expect(base_model(page)).to_have_value("owner/gone")
    assert run_directories(context.runs_folder) == []
    base_model(page).fill("owner/there")
    base_model(page).press(key)
    expect(page.locator("#go")).to_be_enabled()
    expect(page.locator(".ft-rail .wrong")).to_have_count(0)


@pytest.mark.parametrize("key", ["Enter", "Tab"])
def test_a_typed_model_is_the_one_that_is_launched(
    page: Page, context: AppContext, tiny_model: Path, key: str
) -> None:
    base_model(page).fill(str(tiny_model))
    base_model(page).press(key)
    expect(page.locator(".untuned")).to_contain_text("not on this model")
    page.locator("#go").click()
    expect(page.locator(".queue li").first).to_be_visible()
    models = {run.spec.model for run in RunStore(context.runs_folder).runs()}
    assert models == {str(tiny_model)}


def test_what_is_typed_counts_even_where_launch_is_pressed_at_once(
    page: Page, context: AppContext
) -> None:
    base_model(page).fill("owner/gone")
    page.locator("#go").click()
    refused(page, GONE)
    assert run_directories(context.runs_folder) == []


@pytest.mark.parametrize("typed", ["no model", "/nowhere/at/all", "../x"])
def test_what_names_no_model_is_refused_beside_the_field(page: Page, typed: str) -> None:
    base_model(page).fill(typed)
    base_model(page).press("Tab")
    expect(page.locator(".ft-rail .wrong").first).to_be_visible()
    expect(page.locator("#go")).to_be_disabled()
    base_model(page).click()
    page.get_by_role("option", name="SmolLM2").click()
    expect(page.locator("#go")).to_be_enabled()


def test_a_model_named_in_its_own_field_is_asked_about_when_the_field_is_left(page: Page) -> None:
    base_model(page).click()
    page.get_by_role("option", name="Hub id").click()
    name = page.locator("#f-model-name").locator("input, textarea").first
    name.fill("owner/gone")
    name.press("Enter")
    refused(page, GONE)


def test_a_file_of_one_row_keeps_launch_from_being_pressed(page: Page, tmp_path: Path) -> None:
    choose_task(page, "File")
    upload(page, write(tmp_path / "one.csv", "prompt,completion", "a,b"))
    refused(page, "The data have only 1 row; at least 3 are needed")


def test_a_column_that_the_file_does_not_have_is_refused(page: Page, tmp_path: Path) -> None:
    choose_task(page, "File")
    upload(page, write(tmp_path / "mine.csv", "q,a", *(f"q{i},a{i}" for i in range(9))))
    refused(page, "No column is set for the prompt")
    for name, column in (("prompt", "question"), ("completion", "a")):
        page.locator(f"#f-map-{name} input").fill(column)
        page.locator(f"#f-map-{name} input").press("Tab")
    refused(page, "task file has no column 'question'; columns: q, a.")
    page.locator("#f-map-prompt input").fill("q")
    page.locator("#f-map-prompt input").press("Tab")
    expect(page.locator("#go")).to_be_enabled()


def test_the_bar_counts_what_the_file_has_and_the_field_says_why(
    page: Page, tmp_path: Path
) -> None:
    rows = [f"question {i},answer {i}" for i in range(60)]
    choose_task(page, "File")
    upload(page, write(tmp_path / "sixty.csv", "prompt,completion", *rows))
    expect(said(page)).to_contain_text("6 held-out examples scored")
    why = "6 examples are scored: the file has 6 held-out examples, not 64."
    expect(page.locator(".ft-rail").get_by_text(why)).to_be_visible()
    page.locator("#f-settings-eval-examples input").fill("6")
    expect(page.locator(".ft-rail").get_by_text(why)).to_have_count(0)
    choose_task(page, "SQL")
    page.locator("#f-settings-eval-examples input").fill("5000")
    expect(said(page)).to_contain_text("200 held-out examples scored")


def test_files_that_are_changed_quickly_leave_no_error(page: Page, tmp_path: Path) -> None:
    files = [
        write(tmp_path / "a.csv", "question,answer", *(f"q{i},a{i}" for i in range(30))),
        write(tmp_path / "b.csv", "prompt,completion", *(f"q{i},a{i}" for i in range(30))),
        write(tmp_path / "c.csv", "left,right", *(f"q{i},a{i}" for i in range(30))),
    ]
    choose_task(page, "File")
    for file in (*files, *files):
        upload(page, file)
        page.locator("#f-task-id").get_by_label(re.compile("clear|remove", re.I)).first.click()
    upload(page, files[1])
    expect(page.locator("#f-map-prompt input")).to_have_value("prompt")
    expect(page.locator("#go")).to_be_enabled()
    expect(page.get_by_text("not in the list of choices")).to_have_count(0)
