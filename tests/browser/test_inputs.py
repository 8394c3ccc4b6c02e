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
from tests.browser.conftest import served, visit
from tests.tabs.page_fakes import page_context
from tests.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]
GONE = "The Hub has no model 'owner/gone' (or it is private: set HF_TOKEN)."


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def url(runs: Path) -> Iterator[str]:
    models = ModelReach(lambda model: GONE if model == "owner/gone" else "")
    with served(ui.build_page(replace(page_context(runs), models=models)), runs) as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str, capfd: pytest.CaptureFixture[str]) -> Iterator[Page]:
    """A fresh visitor; neither the page nor the server behind it may end in a traceback."""
    with visit(browser, url) as page:
        expect(page.locator("#go")).to_have_text("Launch 4 runs")
        yield page
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


def test_a_typed_id_stays_and_one_that_cannot_be_had_keeps_launch_from_being_pressed(
    page: Page, runs: Path
) -> None:
    before = run_directories(runs)
    for key in ("Enter", "Tab"):
        base_model(page).fill("owner/gone")
        base_model(page).press(key)
        refused(page, GONE)
        expect(base_model(page)).to_have_value("owner/gone")
        base_model(page).fill("owner/there")
        base_model(page).press(key)
        expect(page.locator("#go")).to_be_enabled()
        expect(page.locator(".ft-rail .wrong")).to_have_count(0)
    assert run_directories(runs) == before


@pytest.mark.parametrize("key", ["Enter", "Tab"])
def test_a_typed_model_is_launched_and_a_second_press_at_once_queues_nothing(
    page: Page, runs: Path, tiny_model: Path, key: str
) -> None:
    before = {directory.run_id for directory in run_directories(runs)}
    base_model(page).fill(str(tiny_model))
    base_model(page).press(key)
    expect(page.locator(".untuned")).to_contain_text("not on this model")
    expect(page.locator(".ft-rail")).to_contain_text("llama, 2 layers, context 2,048")
    page.locator("#go").dblclick()
    wait_until(lambda: len(run_directories(runs)) > len(before))
    base_model(page).fill("owner/gone")
    base_model(page).press("Enter")
    refused(page, GONE)  # so the second press was answered as well
    new = [run for run in RunStore(runs).runs() if run.run_id not in before]
    assert {run.spec.model for run in new} == {str(tiny_model)}
    assert len({run.spec.sweep_id for run in new}) == 1
    expect(page.locator(".queue li")).to_have_count(len(new))


def test_what_is_typed_counts_even_where_launch_is_pressed_at_once(page: Page, runs: Path) -> None:
    before = run_directories(runs)
    base_model(page).fill("owner/gone")
    page.locator("#go").click()
    refused(page, GONE)
    assert run_directories(runs) == before


def test_what_names_no_model_is_refused_beside_the_field(page: Page) -> None:
    for typed in ("no model", "/nowhere/at/all", "../x"):
        base_model(page).fill(typed)
        base_model(page).press("Tab")
        expect(page.locator(".ft-rail .wrong").first).to_be_visible()
        expect(page.locator("#go")).to_be_disabled()
        base_model(page).click()
        page.get_by_role("option", name="SmolLM2").click()
        expect(page.locator("#go")).to_be_enabled()


WRONG_NUMBERS = [
    ("steps", "0", "Steps is 0; it must lie between 1 and"),
    ("steps", "", "Steps"),
    ("batch-size", "-3", "Batch size is -3"),
    ("max-length", "2", "Maximum length is 2"),
    ("eval-examples", "1.5", "Test examples"),
]


def test_a_wrong_number_is_said_beside_its_field_and_nothing_is_launched(
    page: Page, runs: Path
) -> None:
    before = run_directories(runs)
    for name, value, sentence in WRONG_NUMBERS:
        field = page.locator(f"#f-settings-{name} input")
        right = field.input_value()
        field.fill(value)
        field.blur()
        expect(page.locator(".ft-rail").get_by_text(sentence).first).to_be_visible()
        expect(page.locator("#go")).to_be_disabled()
        expect(page.locator("#launch [role=alert]")).to_contain_text(sentence.split(" is ")[0])
        field.fill(right)
        field.blur()
        expect(page.locator("#go")).to_be_enabled()
    assert run_directories(runs) == before


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
    expect(said(page)).to_contain_text("6 test examples scored")
    why = "6 examples are scored: the file has 6 test examples, not 64."
    expect(page.locator(".ft-rail").get_by_text(why)).to_be_visible()
    page.locator("#f-settings-eval-examples input").fill("6")
    expect(page.locator(".ft-rail").get_by_text(why)).to_have_count(0)
    choose_task(page, "SQL")
    page.locator("#f-settings-eval-examples input").fill("5000")
    expect(said(page)).to_contain_text("1,000 test examples scored")


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
