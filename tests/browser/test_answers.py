"""Answers as a file, and a link to the panes and the prompt, with a worker that has no model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.playground.client import PlaygroundClient
from ftlab.tabs import app as ui
from tests.browser.conftest import served, visit
from tests.fakes import make_sweep
from tests.playground.test_client import FAKE
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]
SWEEP = "20261130-093000-ef56"
FULL, LORA, QLORA = (f"{SWEEP}-{name}" for name in ("02-full", "03-lora", "04-qlora"))
PROMPT = "Où est “it”? 100 % & more\n#2"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("runs")
    make_sweep(folder, ("full", "lora", "qlora"), sweep_id=SWEEP)
    client = PlaygroundClient(folder, FAKE)
    context = replace(page_context(folder), playground=client)
    with served(ui.build_page(context), folder) as address:
        yield address
    client.close()


def expect_panes(page: Page, *names: str) -> None:
    """Waits for the panes and for the address that names them."""
    for number, name in enumerate(names, 1):
        expect(page.locator(f"#pg-answer-{number}")).to_contain_text(name or "Choose who answers")
    expect(page.locator(f"#pg-answer-{len(names) + 1}")).to_be_hidden()


def expect_address(page: Page, value: str) -> None:
    """Waits for an address that names the panes, and nothing else."""
    told = "JSON.stringify([...new URLSearchParams(location.search)]) + location.hash"
    wanted = json.dumps([["tab", "playground"], ["panes", value]], separators=(",", ":"))
    page.wait_for_function(f"wanted => {told} === wanted", arg=wanted)


def prompt_of(page: Page) -> str:
    return page.locator("#pg-prompt textarea").input_value()


def test_answers_are_sent_as_a_file_and_a_link_opens_panes_and_prompt_without_asking(
    browser: Browser, url: str, tmp_path: Path
) -> None:
    panes = f"base,{LORA},shipped:sql"
    with visit(browser, f"{url}?tab=playground&panes={panes}") as page:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        expect_panes(page, "Base", "LoRA", "SQL specialist")
        file, reason = page.locator("#pg-file"), page.locator("#pg-file-reason")
        expect(file).to_be_disabled()
        expect(reason).to_contain_text("once a prompt is answered")
        page.locator("#pg-prompt textarea").fill(PROMPT)
        page.locator("#pg-send").click()
        expect(page.locator("#pg-answer-3")).to_contain_text("tok/s")
        expect(file).to_be_enabled()
        expect_address(page, panes)
        with page.expect_download() as download:
            file.click()
        kept = tmp_path / download.value.suggested_filename
        download.value.save_as(kept)
        page.locator("#pg-link").click()
        expect(page.locator("#pg-link")).to_have_text("Copied")
        link = page.evaluate("navigator.clipboard.readText()")
        assert link.startswith(f"{url}?tab=playground&panes=base%2C{LORA}%2Cshipped%3Asql#prompt=")
        expect_address(page, panes)  # what is typed enters no address
        page.locator("#pg-prompt textarea").fill("ü" * 1_000)
        page.locator("#pg-link").click()
        expect(page.locator("#pg-link-note")).to_contain_text("names the panes alone")
        assert "#" not in page.evaluate("navigator.clipboard.readText()")

    with visit(browser, link) as page:
        expect_panes(page, "Base", "LoRA", "SQL specialist")
        expect(page.locator("#pg-prompt textarea")).to_have_value(PROMPT)
        expect_address(page, panes)
        expect(page.locator("#pg-answer-1")).to_contain_text("nothing asked yet")
        page.reload()
        expect_panes(page, "Base", "LoRA", "SQL specialist")
        assert prompt_of(page) == ""

    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(kept.as_uri())
    expect(page.locator("h1")).to_contain_text("3 answers to “Où est “it”? 100 % & more #2”")
    expect(page.locator("article")).to_have_count(5)  # three answers, two with their differences
    expect(page.locator(".question")).to_have_text(PROMPT)
    for width in (1440, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    context.close()


def test_the_address_follows_the_panes_and_back_and_a_wrong_link_lead_to_what_is_there(
    browser: Browser, url: str
) -> None:
    with visit(browser, url) as page:
        page.get_by_role("tab", name="Playground").click()
        expect_panes(page, "Base", "Full fine-tuning", "LoRA", "QLoRA")
        first = f"base,{FULL},{LORA},{QLORA}"
        expect_address(page, first)
        page.wait_for_timeout(2_100)  # what comes sooner counts as the same step
        page.locator("#pg-count").get_by_text("2", exact=True).click()
        expect_address(page, f"base,{FULL}")
        page.go_back()
        expect_panes(page, "Base", "Full fine-tuning", "LoRA", "QLoRA")
        expect_address(page, first)
    with visit(browser, f"{url}?tab=playground&panes={LORA},gone,adapter:mine,base") as page:
        expect_panes(page, "LoRA", "", "", "Base")
