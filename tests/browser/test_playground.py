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
from tests.browser.conftest import wired
from tests.processes import App
from tests.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.model, pytest.mark.slow]
STORY = "Write a long story about the sea."


@pytest.fixture(autouse=True)
def in_the_playground(page: Page) -> None:
    open_playground(page)


def open_playground(page: Page) -> None:
    wired(page)
    page.get_by_role("tab", name="Playground").click()
    expect(page.locator("#pg-answer-2")).to_contain_text("SQL specialist")


def fill(page: Page, label: str, value: str) -> None:
    field = page.get_by_label(label)
    if not field.is_visible():
        page.get_by_text(re.compile("^Base in 16 bits")).click()
    field.fill(value)
    field.blur()


def tokens_at_most(page: Page, tokens: int) -> None:
    fill(page, "New tokens at most", str(tokens))
    expect(page.get_by_text(f", {tokens:,} new tokens")).to_be_visible()


def ask(page: Page, prompt: str, tokens: int = 4) -> None:
    tokens_at_most(page, tokens)
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


def is_answering(page: Page, more_than: int = 30) -> None:
    """Waits until the base has said so many characters of a long answer, and has not ended."""
    answer = "document.querySelector('#pg-answer-1 .answer:has(.caret)')"
    page.wait_for_function(f"least => {answer}?.innerText.length > least", arg=more_than)


def is_answered(page: Page, *numbers: int) -> None:
    for number in numbers:
        expect(pane(page, number)).to_contain_text("tok/s")


def fits_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    overflow = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert overflow <= 0, f"{overflow} px too wide"


def test_the_first_start_answers_an_example_with_base_and_specialists_but_no_wrong_number(
    page: Page,
) -> None:
    for number, name in enumerate(("Base", "SQL", "Shakespeare", "Medical summary"), 1):
        expect(pane(page, number)).to_contain_text(name)
    prompt = page.locator("#pg-prompt textarea")
    fill(page, "Temperature (0: greedy)", "9")
    ask(page, "Name three colours.", 0)
    expect(page.get_by_text("New tokens is 0; it must lie between 1")).to_be_visible()
    expect(page.get_by_text("Temperature is 9; it must lie between 0 and 2")).to_be_visible()
    expect(pane(page, 1)).to_contain_text("nothing asked yet")
    prompt.fill("")
    prompt.press("Shift+Enter")  # sends it, as the button does
    expect(page.get_by_text("The prompt is empty")).to_be_visible()

    fill(page, "Temperature (0: greedy)", "0")
    tokens_at_most(page, 24)
    page.get_by_role("button", name=re.compile("^SQL: ")).click()
    expect(prompt).to_have_value(re.compile("^Table "))
    prompt.press("Shift+Enter")
    is_answered(page, 1, 2, 3, 4)
    expect(pane(page, 1)).to_contain_text("no adapter: weights as shipped")
    for number in (2, 3, 4):
        expect(pane(page, number)).to_contain_text(re.compile(r"sha \w{4}…\w{4}begins .* the base"))
    assert text(page, 2).startswith("SELECT ")
    expect(pane(page, 2)).to_contain_text("runs, equal")
    expect(pane(page, 2).locator("table.rows")).to_be_visible()
    expect(pane(page, 1).locator(".score")).not_to_contain_text("equal")
    fits_a_phone(page)


def test_an_answer_streams_while_tabs_and_panes_change_and_stop_keeps_its_text(page: Page) -> None:
    ask(page, STORY, 1000)
    is_answering(page)
    page.get_by_role("tab", name="Results").click()
    expect(page.locator("#runs tbody tr").first).to_be_visible()  # the recorded sweep
    before = text(page, 1)
    page.get_by_role("tab", name="Playground").click()
    expect(pane(page, 1)).to_contain_text("answering")
    is_answering(page, len(before))

    page.locator("#pg-stop").click()
    expect(pane(page, 1)).to_contain_text("stopped")
    kept = text(page, 1)
    assert kept.startswith(before)
    tokens_at_most(page, 4)
    assert text(page, 1) == kept, "it went on after Stop"
    ask(page, "Name three colours.")
    is_answered(page, 1, 2)
    assert not text(page, 1).startswith(before[:20])

    ask(page, STORY, 1000)
    is_answering(page)
    page.locator("#pg-pane-1 input").click()
    page.get_by_role("option", name="Shakespeare").click()
    expect(pane(page, 1)).to_contain_text("Shakespeare specialist")
    expect(pane(page, 1)).to_contain_text("nothing asked yet")
    tokens_at_most(page, 4)
    assert text(page, 1) == "", "it took over an answer that is not its own"
    expect(page.locator("#pg-pane-1 input")).to_have_value(re.compile("^Shakespeare"))


def test_a_blind_vote_by_key_is_recorded_and_tells_who_is_who(page: Page, app: App) -> None:
    only_two_panes(page)
    page.get_by_label("Blind vote").check()
    expect(page.locator("#pg-pane-1")).to_be_hidden()
    ask(page, "Name three colours.")
    expect(page.locator("#pg-vote-2")).to_be_visible()
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
    page.get_by_label("Blind vote").uncheck()
    expect(page.locator("#pg-pane-1 input")).to_have_value("Base")
    expect(pane(page, 1).locator(".who")).to_have_text("Base")
    assert len(read_votes(app.runs, [])) == 1


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


def test_adapters_are_brought_refused_vouched_for_make_room_and_are_forgotten(
    page: Page, app: App, tmp_path: Path
) -> None:
    forget = page.get_by_role("button", name="Forget it")
    expect(forget).to_be_hidden()
    bring(page, copy_of_sql(tmp_path / "wrong", target_modules=["q_porj", "v_proj"]))
    expect(page.get_by_text("name 'q_porj', and no layer has that name (did you")).to_be_visible()
    expect(pane(page, 5)).to_be_hidden()
    assert uploaded_sources(app.runs) == []

    bring(page, *(shipped_folder() / "sql" / name for name in (CONFIG_FILE, WEIGHTS_FILE)))
    expect(pane(page, 5)).to_contain_text("Uploaded adapter")
    assert len(uploaded_sources(app.runs)) == 1
    bring(page, copy_of_sql(tmp_path / "theirs", base_model_name_or_path="/data/my-base"))
    expect(pane(page, 6)).to_contain_text("names my-base as its base; its 420 tensors fit")
    ask(page, "Name three colours.", 1)
    expect(pane(page, 6)).to_contain_text("If that is its base, confirm it")
    is_answered(page, 1, 5)
    page.locator("#pg-vouch-6").click()
    expect(pane(page, 6)).to_contain_text("base vouched for by you")
    expect(page.locator("#pg-vouch-6")).to_be_hidden()
    ask(page, "Name three colours.", 2)
    is_answered(page, 1, 6)
    expect(pane(page, 6)).to_contain_text("base vouched for by you")

    room = page.locator("#pg-room")
    expect(room).to_be_hidden()
    bring(page, copy_of_sql(tmp_path / "seventh", lora_alpha=2))
    expect(room).to_contain_text("Six panes are taken. Who makes room for seventh?")
    fits_a_phone(page)
    room.get_by_text("3: Shakespeare specialist").click()
    expect(pane(page, 3)).to_contain_text("seventh")
    expect(room).to_be_hidden()
    expect(pane(page, 6)).to_contain_text("theirs")
    forget.click()
    expect(pane(page, 6)).to_contain_text("Choose who answers here")
    expect(forget).to_be_hidden()
    assert uploaded_sources(app.runs) == []


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
    expect(grid.locator("table.answers")).to_be_visible()
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
