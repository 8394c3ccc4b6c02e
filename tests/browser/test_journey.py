"""The main journey in a real browser, on the bundled model and real runs."""

from __future__ import annotations

import hashlib
import re
import time

import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.records.store import Run, RunStore
from tests.browser.conftest import form_is_ready, visit, wired
from tests.processes import App

pytestmark = [pytest.mark.browser, pytest.mark.model]
MINUTES = 60_000
"""Of patience: without bf16 in hardware a machine needs ten times as long as with it."""


def launch(page: Page, *methods: str, steps: int) -> None:
    """Launches a sweep of exactly these methods and of their base."""
    form_is_ready(page)
    for box in page.locator(".pick input[type=checkbox]").all():
        box.set_checked(box.get_attribute("value") in methods)
    for name, value in (("steps", steps), ("batch-size", 1), ("eval-examples", 1)):
        field = page.locator(f"#f-settings-{name} input")
        field.fill(str(value))
        field.blur()
    runs = "run" if len(methods) == 1 else "runs"
    expect(page.locator("#go")).to_have_text(f"Launch {len(methods)} {runs}")
    page.locator("#go").click()
    expect(page.locator(".queue li")).to_have_count(len(methods) + 1)


def newest(app: App) -> list[Run]:
    """The runs of the newest sweep."""
    runs = RunStore(app.runs).runs()
    return [run for run in runs if run.spec.sweep_id == runs[-1].spec.sweep_id]


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def test_two_methods_are_launched_watched_read_compared_and_asked_side_by_side(
    page: Page, app: App
) -> None:
    launch(page, "lora", "prompt_tuning", steps=2)
    expect(page.locator(".queue [role=progressbar]")).to_have_count(3)
    expect(page.locator(".queue .chip.done")).to_have_count(3, timeout=15 * MINUTES)
    expect(page.locator(".js-plotly-plot").first).to_be_visible()
    runs = [run for run in newest(app) if not run.spec.is_base]

    open_tab(page, "Results")
    own = page.locator("#runs tr[data-run]")  # the recorded ones are folded
    expect(own).to_have_count(2)
    lora_row, prompt_row = own.filter(has_text="LoRA"), own.filter(has_text="Prompt tuning")
    for row, numbers in ((lora_row, ("2.4 M", "9.8 MB", "1.78 %")), (prompt_row, ("11.5 k",))):
        for shown in numbers:
            expect(row).to_contain_text(shown)
    expect(own.first).not_to_contain_text("134.5 M")
    lora_row.get_by_role("button", name="LoRA").click()
    (lora,) = [run for run in runs if run.spec.method == "lora"]
    expect(page.get_by_text(lora.run_id).first).to_be_visible()

    open_tab(page, "Compare")
    said = page.get_by_text(re.compile("full fine-tuning run", re.I)).locator("visible=true")
    expect(said.first).to_be_visible()
    expect(page.locator(".js-plotly-plot:visible").first).to_be_visible()

    open_tab(page, "Playground")
    base, *adapters = (page.locator(f"#pg-answer-{number}") for number in (1, 2, 3))
    for pane, run in zip(adapters, runs, strict=True):
        expect(pane.locator(".who")).to_have_text(run.spec.label)  # no longer what ships
    page.get_by_text(re.compile("^Base in 16 bits")).click()
    page.get_by_label("New tokens at most").fill("8")
    page.get_by_label("New tokens at most").blur()
    expect(page.get_by_text(", 8 new tokens")).to_be_visible()
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


@pytest.mark.slow
@pytest.mark.fault("page reloaded while a sweep runs")
@pytest.mark.fault("browser closed while a sweep runs")
@pytest.mark.fault("app killed with SIGKILL while a run goes")
@pytest.mark.fault("two browsers at once")
def test_a_sweep_survives_a_reload_and_the_death_of_the_app_and_a_second_browser_shows_it(
    page: Page, browser: Browser, app: App
) -> None:
    launch(page, "lora", steps=8)
    expect(page.locator(".queue .chip.running")).to_have_count(1)
    page.reload()
    expect(page.locator(".queue li")).to_have_count(2)
    expect(page.locator(".queue [role=progressbar]")).to_have_count(2)

    running = [run for run in newest(app) if run.status == "running"]
    assert all(run.spec.settings.checkpoint_every is None for run in running)  # left to the steps
    app.kill()
    assert {run.directory.status() for run in running} <= {"running", "done"}
    app.start()
    page.goto("about:blank")  # a page whose server comes back may load anew at any time by itself
    page.goto(app.url)
    wired(page)
    expect(page.locator(".queue li")).to_have_count(2)
    expect(page.locator(".queue .chip.done")).to_have_count(2, timeout=15 * MINUTES)
    assert len(newest(app)) == 2  # nothing was started twice
    expect(page.locator(".js-plotly-plot").first).to_be_visible()

    rows = page.locator(".queue li").all_inner_texts()
    with visit(browser, f"{app.url}?tab=experiment") as other:
        expect(other.locator(".queue .chip.done")).to_have_count(2)
        assert other.locator(".queue li").all_inner_texts() == rows


@pytest.mark.slow
@pytest.mark.fault("cancel while it trains")
def test_a_running_sweep_is_cancelled_from_the_page_within_ten_seconds(
    page: Page, app: App
) -> None:
    launch(page, "lora", steps=5000)
    cancel = page.locator('.queue [data-run*="lora"]')
    expect(page.locator(".queue li").last).to_contain_text("/5000")
    expect(page.locator(".queue .chip.running", has_text="training")).to_be_visible(
        timeout=10 * MINUTES
    )
    began = time.monotonic()
    cancel.click()
    expect(page.locator(".queue .chip.cancelled")).to_have_count(1, timeout=12_000)
    assert time.monotonic() - began < 12
    last = newest(app)[-1]
    assert last.status == "cancelled"
    assert last.result is not None
    assert (last.result.memory_at_end["before"] or 0) > 300_000_000
    assert last.result.memory_at_end["after"] == 0
