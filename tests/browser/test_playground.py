"""The Playground in a real browser, on the bundled model and the adapters that ship with ftlab."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from ftlab.playground.panes import CONFIG_FILE, WEIGHTS_FILE, shipped_folder, uploaded_sources
from ftlab.playground.votes import read_votes
from tests.processes import App
from tests.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.model]
LONG = 60_000
STORY = "Write a long story about the sea."


@pytest.fixture(autouse=True)
def in_the_playground(page: Page) -> None:
    open_playground(page)


def open_playground(page: Page) -> None:
    page.get_by_role("tab", name="Playground").click()
    expect(page.locator("#pg-answer-2")).to_contain_text("SQL specialist")


def fill(page: Page, label: str, value: str) -> None:
    field = page.get_by_label(label)
    if not field.is_visible():
        page.get_by_text(re.compile("^Base in 16 bits")).click()
    field.fill(value)
    field.blur()


def ask(page: Page, prompt: str, tokens: int = 6) -> None:
    fill(page, "New tokens at most", str(tokens))
    expect(page.get_by_text(f", {tokens:,} new tokens")).to_be_visible()
    page.locator("#pg-prompt textarea").fill(prompt)
    page.locator("#pg-send").click()


def only_two_panes(page: Page) -> None:
    page.locator("#pg-count").get_by_text("2", exact=True).click()
    expect(pane(page, 3)).to_be_hidden()


def pane(page: Page, number: int) -> Locator:
    return page.locator(f"#pg-answer-{number}")


def text(page: Page, number: int) -> str:
    """The answer so far."""
    return pane(page, number).locator(".answer").inner_text()


def is_answering(page: Page) -> None:
    """Waits until the base has said a few words of a long answer."""
    answer = "document.querySelector('#pg-answer-1 .answer:has(.caret)')"
    page.wait_for_function(f"{answer}?.innerText.length > 30", timeout=LONG)


def is_answered(page: Page, *numbers: int) -> None:
    for number in numbers:
        expect(pane(page, number)).to_contain_text("tok/s", timeout=LONG)


def fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0, f"{overflow} px too wide"


def test_the_first_start_answers_an_example_with_the_base_and_three_specialists(
    page: Page,
) -> None:
    for number, name in enumerate(("Base", "SQL", "Shakespeare", "Medical summary"), 1):
        expect(pane(page, number)).to_contain_text(name)
    page.get_by_role("button", name=re.compile("^SQL: ")).click()
    expect(page.locator("#pg-prompt textarea")).to_have_value(re.compile("^Table "))
    fill(page, "New tokens at most", "24")
    page.locator("#pg-send").click()
    is_answered(page, 1, 2, 3, 4)
    expect(pane(page, 1)).to_contain_text("no adapter: weights as shipped")
    for number in (2, 3, 4):
        expect(pane(page, number)).to_contain_text(re.compile(r"sha \w{4}…\w{4}begins .* the base"))
    assert text(page, 2).startswith("SELECT ")
    expect(pane(page, 2)).to_contain_text("runs, equal")
    expect(pane(page, 2).locator("table.rows")).to_be_visible()
    expect(pane(page, 1).locator(".score")).not_to_contain_text("equal")
    fits_a_phone(page)


def test_another_tab_opens_while_an_answer_streams_and_stop_keeps_the_text(page: Page) -> None:
    ask(page, STORY, 1000)
    is_answering(page)
    page.get_by_role("tab", name="Results").click()
    expect(page.locator("#runs tbody tr").first).to_be_visible()  # the recorded sweep
    before = text(page, 1)
    page.get_by_role("tab", name="Playground").click()
    expect(pane(page, 1)).to_contain_text("answering")
    page.wait_for_timeout(400)
    assert len(text(page, 1)) > len(before)
    page.locator("#pg-stop").click()
    expect(pane(page, 1)).to_contain_text("stopped")
    kept = text(page, 1)
    assert kept.startswith(before)
    page.wait_for_timeout(700)
    assert text(page, 1) == kept, "it went on after Stop"
    ask(page, "Name three colours.")
    is_answered(page, 1, 2)
    assert not text(page, 1).startswith(before[:20])


def test_a_pane_that_is_changed_takes_over_nothing_of_the_answer_under_way(page: Page) -> None:
    ask(page, STORY, 1000)
    is_answering(page)
    page.locator("#pg-pane-1 input").click()
    page.get_by_role("option", name="Shakespeare").click()
    expect(pane(page, 1)).to_contain_text("Shakespeare specialist")
    expect(pane(page, 1)).to_contain_text("nothing asked yet")
    page.wait_for_timeout(700)
    assert text(page, 1) == ""
    expect(page.locator("#pg-pane-1 input")).to_have_value(re.compile("^Shakespeare"))


def test_a_blind_vote_by_key_is_recorded_and_tells_who_is_who(page: Page, app: App) -> None:
    only_two_panes(page)
    page.get_by_label("Blind vote").check()
    expect(page.locator("#pg-pane-1")).to_be_hidden()
    ask(page, "Name three colours.")
    expect(page.locator("#pg-vote-2")).to_be_visible(timeout=LONG)
    for number, letter in ((1, "A"), (2, "B")):
        expect(pane(page, number).locator(".who")).to_have_text(letter)
        for secret in ("specialist", "Base", "sha", "KL", "tok/s"):
            expect(pane(page, number)).not_to_contain_text(secret)
    answers = text(page, 1), text(page, 2)
    page.keyboard.press("2")
    expect(page.locator("#pg-vote")).to_contain_text("wins 1 of 1")
    (vote,) = read_votes(app.runs, [])
    assert vote.winner == 1
    assert vote.answers == answers
    assert (text(page, 1), text(page, 2)) == answers, "the panes changed their places"
    for number, label in enumerate(vote.labels, 1):
        expect(pane(page, number).locator(".who")).to_have_text(label)
    page.keyboard.press("1")
    page.wait_for_timeout(300)
    assert len(read_votes(app.runs, [])) == 1
    page.get_by_label("Blind vote").uncheck()
    expect(page.locator("#pg-pane-1 input")).to_have_value("Base")
    expect(pane(page, 1).locator(".who")).to_have_text("Base")


def test_an_engine_that_is_killed_or_unloaded_is_started_again_by_the_next_prompt(
    page: Page, app: App
) -> None:
    only_two_panes(page)
    ask(page, STORY, 1000)
    is_answering(page)
    before = text(page, 1)
    (engine,) = app.children("ftlab.playground.worker")
    engine.kill()
    expect(pane(page, 1)).to_contain_text("ended before it had answered (killed")
    assert text(page, 1).startswith(before), "the text went with the process"
    ask(page, "Name three colours.")
    is_answered(page, 1, 2)
    unload = page.get_by_role("button", name="Unload")
    unload.click()
    expect(unload).to_be_hidden()
    wait_until(lambda: app.children("ftlab.playground.worker") == [])


def test_an_adapter_that_is_brought_takes_a_pane_and_is_forgotten_again(
    page: Page, app: App
) -> None:
    forget = page.get_by_role("button", name="Forget it")
    expect(forget).to_be_hidden()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload an adapter").click()
    files = (shipped_folder() / "sql" / name for name in (CONFIG_FILE, WEIGHTS_FILE))
    chooser.value.set_files([str(file) for file in files])
    expect(pane(page, 5)).to_contain_text("Uploaded adapter")
    assert len(uploaded_sources(app.runs)) == 1
    forget.click()
    expect(pane(page, 5)).to_contain_text("Choose who answers here")
    expect(forget).to_be_hidden()
    assert uploaded_sources(app.runs) == []


def bring(page: Page, *files: Path) -> None:
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Upload an adapter").click()
    chooser.value.set_files([str(file) for file in files])


def copy_of_sql(folder: Path, **changes: object) -> Path:
    """The SQL specialist as a zip that has the folder's name, its configuration changed."""
    shutil.copytree(shipped_folder() / "sql", folder)
    config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")) | changes
    (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    return Path(shutil.make_archive(str(folder), "zip", folder))


def test_one_click_vouches_for_a_base_of_another_name_and_a_person_makes_room(
    page: Page, app: App, tmp_path: Path
) -> None:
    bring(page, copy_of_sql(tmp_path / "theirs", base_model_name_or_path="/data/my-base"))
    expect(pane(page, 5)).to_contain_text("names my-base as its base; its 420 tensors fit")
    ask(page, "Name three colours.")
    expect(pane(page, 5)).to_contain_text("If that is its base, confirm it")
    is_answered(page, 1)
    page.locator("#pg-vouch-5").click()
    expect(pane(page, 5)).to_contain_text("base vouched for by you")
    expect(page.locator("#pg-vouch-5")).to_be_hidden()
    ask(page, "Name three colours.")
    is_answered(page, 1, 5)
    expect(pane(page, 5)).to_contain_text("base vouched for by you")

    bring(page, copy_of_sql(tmp_path / "sixth", lora_alpha=1))
    expect(pane(page, 6)).to_contain_text("sixth")
    room = page.locator("#pg-room")
    expect(room).to_be_hidden()
    bring(page, copy_of_sql(tmp_path / "seventh", lora_alpha=2))
    expect(room).to_contain_text("Six panes are taken. Who makes room for seventh?")
    fits_a_phone(page)
    room.get_by_text("3: Shakespeare specialist").click()
    expect(pane(page, 3)).to_contain_text("seventh")
    expect(room).to_be_hidden()
    expect(pane(page, 6)).to_contain_text("sixth")
    page.get_by_role("button", name="Forget it").click()
    expect(pane(page, 6)).to_contain_text("Choose who answers here")
    assert uploaded_sources(app.runs) == []


def test_an_adapter_that_does_not_fit_is_refused_as_it_is_brought(
    page: Page, app: App, tmp_path: Path
) -> None:
    bring(page, copy_of_sql(tmp_path / "wrong", target_modules=["q_porj", "v_proj"]))
    expect(page.get_by_text("name 'q_porj', and no layer has that name (did you")).to_be_visible()
    expect(pane(page, 5)).to_be_hidden()
    assert uploaded_sources(app.runs) == []


def test_wrong_numbers_are_said_and_nothing_is_asked(page: Page) -> None:
    fill(page, "Temperature (0: greedy)", "9")
    ask(page, "Name three colours.", 0)
    expect(page.get_by_text("New tokens is 0; it must lie between 1")).to_be_visible()
    expect(page.get_by_text("Temperature is 9; it must lie between 0 and 2")).to_be_visible()
    expect(pane(page, 1)).to_contain_text("nothing asked yet")
    page.locator("#pg-prompt textarea").fill("")
    page.locator("#pg-prompt textarea").press("Shift+Enter")  # sends it, as the button does
    expect(page.get_by_text("The prompt is empty")).to_be_visible()


def test_a_grid_outlives_a_reload_and_comes_as_csv(page: Page) -> None:
    only_two_panes(page)
    fill(page, "New tokens at most", "24")
    grid = page.locator("#pg-grid")
    grid.get_by_role("spinbutton", name="Examples").fill("2")
    expect(grid).to_contain_text("2 prompts in 2 panes")
    page.locator("#pg-grid-run").click()
    expect(grid).to_contain_text("of 4 answers")
    page.reload()
    open_playground(page)
    expect(grid.locator("table.answers")).to_be_visible(timeout=LONG)
    expect(grid).to_contain_text("SQL specialist answers 2 of 2 test questions")
    with page.expect_download() as download:
        grid.get_by_role("button", name="CSV").click()
    with open(download.value.path(), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["number"], row["pane"]) for row in rows] == [
        ("1", "base"), ("1", "shipped:sql"), ("2", "base"), ("2", "shipped:sql"),
    ]  # fmt: skip
    assert [row["verdict"] for row in rows][1::2] == ["runs, equal"] * 2
    fits_a_phone(page)
