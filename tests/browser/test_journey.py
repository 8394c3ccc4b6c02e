"""The main journey in a real browser, on the bundled model and real runs.

Launch a sweep of two methods, reload half-way, kill the app half-way and start it again, watch the
sweep finish, read the table and the charts, answer a prompt with base and adapter.
"""

from __future__ import annotations

import hashlib
import re
import time

import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.records.store import RunStore
from tests.processes import App

pytestmark = [pytest.mark.browser, pytest.mark.model]
MINUTES = 60_000
"""Of patience: without bf16 in hardware a machine needs ten times as long as with it."""


def tick(page: Page, *methods: str) -> None:
    """Ticks exactly these methods."""
    expect(page.locator("#go")).to_have_text(re.compile(r"Launch \d+ runs?"))  # the page is ready
    boxes = page.locator(".pick input[type=checkbox]")
    for box in boxes.all():
        box.set_checked(box.get_attribute("value") in methods)


def fill(page: Page, name: str, value: str) -> None:
    field = page.locator(f"#f-settings-{name} input")
    field.fill(value)
    field.blur()


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def rows(page: Page) -> list[str]:
    return page.locator(".queue li").all_inner_texts()


def wait_for_status(app: App, *statuses: str, seconds: float = 600) -> None:
    """Waits until every run of the newest sweep has one of the statuses."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = {run.status for run in RunStore(app.runs).runs()}
        if found and found <= set(statuses):
            return
        time.sleep(0.5)
    raise AssertionError({run.run_id: run.status for run in RunStore(app.runs).runs()})


@pytest.mark.fault("page reloaded while a sweep runs")
@pytest.mark.fault("browser closed while a sweep runs")
@pytest.mark.fault("app killed with SIGKILL while a run goes")
def test_a_sweep_survives_a_reload_and_the_death_of_the_app(page: Page, app: App) -> None:
    tick(page, "lora", "prompt_tuning")
    fill(page, "steps", "8")
    fill(page, "batch-size", "2")
    fill(page, "eval-examples", "4")
    button = page.locator("#go")
    expect(button).to_have_text("Launch 2 runs")
    button.click()
    expect(page.locator(".queue li")).to_have_count(3)
    expect(page.locator(".queue .chip.running")).to_have_count(1, timeout=30_000)

    page.reload()
    expect(page.locator(".queue li")).to_have_count(3)
    expect(page.locator(".queue [role=progressbar]")).to_have_count(3)

    running = [run for run in RunStore(app.runs).runs() if run.status == "running"]
    assert all(run.spec.settings.checkpoint_every is None for run in running)  # left to the steps
    app.kill()
    assert [run.directory.status() for run in running] <= ["running", "done"]
    app.start()
    page.goto("about:blank")  # a page whose server comes back may load anew at any time by itself
    page.goto(app.url)
    expect(page.locator(".queue li")).to_have_count(3)
    expect(page.locator(".queue .chip.done")).to_have_count(3, timeout=15 * MINUTES)
    assert len(RunStore(app.runs).runs()) == 3  # nothing was started twice
    expect(page.locator(".js-plotly-plot").first).to_be_visible()


@pytest.mark.fault("two browsers at once")
def test_a_second_browser_shows_the_same_sweep(page: Page, browser: Browser, app: App) -> None:
    expect(page.locator(".queue .chip.done")).to_have_count(3)
    other = browser.new_context().new_page()
    other.goto(f"{app.url}?tab=experiment")
    expect(other.locator(".queue .chip.done")).to_have_count(3)
    assert rows(other) == rows(page)
    other.context.close()


def test_the_table_holds_the_numbers_of_the_store_and_a_row_opens_its_run(
    page: Page, app: App
) -> None:
    open_tab(page, "Results")
    own = page.locator("#runs tr[data-run]")  # the recorded ones are folded
    expect(own).to_have_count(2)
    lora_row, prompt_row = own.filter(has_text="LoRA"), own.filter(has_text="Prompt tuning")
    for row, numbers in ((lora_row, ("2.4 M", "9.8 MB", "1.78 %")), (prompt_row, ("11.5 k",))):
        for shown in numbers:
            expect(row).to_contain_text(shown)
    expect(own.first).not_to_contain_text("134.5 M")
    lora_row.get_by_role("button", name="LoRA").click()
    (lora,) = [run for run in RunStore(app.runs).runs() if run.spec.method == "lora"]
    expect(page.get_by_text(lora.run_id).first).to_be_visible()


def test_the_charts_say_what_is_missing_for_a_comparison(page: Page) -> None:
    open_tab(page, "Compare")
    said = page.get_by_text(re.compile("full fine-tuning run", re.I)).locator("visible=true")
    expect(said.first).to_be_visible()
    expect(page.locator(".js-plotly-plot:visible").first).to_be_visible()


def test_base_and_runs_answer_one_prompt_side_by_side(page: Page, app: App) -> None:
    open_tab(page, "Playground")
    base, *adapters = (page.locator(f"#pg-answer-{number}") for number in (1, 2, 3))
    runs = [run for run in RunStore(app.runs).runs() if not run.spec.is_base]
    for pane, run in zip(adapters, runs, strict=True):
        expect(pane.locator(".who")).to_have_text(run.spec.label)  # no longer what ships
    prompt = page.locator("#pg-prompt textarea")
    prompt.fill("Table singers(id, name, age). How many singers are over 30?")
    page.locator("#pg-send").click()
    for pane in (base, *adapters):
        expect(pane).to_contain_text("tok/s", timeout=10 * MINUTES)
        assert pane.locator(".answer").inner_text().strip()
    expect(base).to_contain_text("no adapter: weights as shipped")
    expect(base).not_to_contain_text("sha")
    for pane, run in zip(adapters, runs, strict=True):
        weights = (run.directory.adapter / "adapter_model.safetensors").read_bytes()
        expect(pane.locator(".who")).to_have_text(run.spec.label)
        expect(pane.get_by_title(hashlib.sha256(weights).hexdigest())).to_be_visible()
        expect(pane).to_contain_text(re.compile(r"begins .* the base"))


@pytest.mark.fault("cancel while it trains")
def test_a_running_sweep_is_cancelled_from_the_page_within_ten_seconds(
    page: Page, app: App
) -> None:
    tick(page, "lora")
    fill(page, "steps", "5000")
    fill(page, "eval-examples", "4")
    page.locator("#go").click()
    expect(page.locator(".queue li")).to_have_count(2)
    cancel = page.locator('.queue [data-run*="lora"]')
    expect(page.locator(".queue li").last).to_contain_text("/5000")
    expect(page.locator(".queue .chip.running", has_text="training")).to_be_visible(
        timeout=10 * MINUTES
    )
    began = time.monotonic()
    cancel.click()
    expect(page.locator(".queue .chip.cancelled")).to_have_count(1, timeout=12_000)
    assert time.monotonic() - began < 12
    newest = RunStore(app.runs).runs()[-1]
    assert newest.status == "cancelled"
    assert newest.result is not None
    assert (newest.result.memory_at_end["before"] or 0) > 300_000_000
    assert newest.result.memory_at_end["after"] == 0
