"""The app as a real process, and the system's Chromium."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ftlab.jobs.control import dispatcher_lock
from ftlab.tabs import app as ui
from ftlab.tabs.serve import Serving
from tests.processes import App, close_at_once, free_port

PATIENCE_MS = 120_000
"""A busy machine takes its time; what is right comes in the end."""

expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def served(page: gr.Blocks, runs: Path) -> Iterator[str]:
    """A page in this process, by its address, as if a dispatcher were at work: none is started, so
    what is launched stays in the queue."""
    page.queue(default_concurrency_limit=8)
    busy = dispatcher_lock(runs)
    assert busy.try_acquire()
    served = Serving(port=free_port())
    served.launch(page, **ui.launch_options())
    try:
        yield f"http://127.0.0.1:{served.port}/"
    finally:
        close_at_once(page)
        busy.release()


def find_chromium() -> str | None:
    """The system's Chromium; `None` where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def path_of_chromium() -> str:
    """The system's Chromium; without one the test is skipped, or fails where CI should have it."""
    path = find_chromium()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have Chromium; .ci/run installs it from Debian's packages")
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return path


@pytest.fixture(scope="session")
def chromium() -> str:
    return path_of_chromium()


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """One a file: while Playwright is open, asyncio has a loop that runs in the main thread."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    app = App(tmp_path_factory.mktemp("runs"))
    app.start()
    yield app
    app.stop()


HAS_LAUNCHED = "try { localStorage.setItem('ftlab.launched', true); } catch {}"
"""JavaScript: this browser has launched something, so a bare page is no first look."""


HIDE = """() => {
  Object.defineProperty(document, 'visibilityState', { get: () => 'hidden', configurable: true });
  Object.defineProperty(document, 'hidden', { get: () => true, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}"""
"""JavaScript: the page is told that it is hidden; headless Chromium itself always shows all."""


_WIRED = """() => document.querySelector('main.contain')
  && [...document.querySelectorAll('[data-testid=status-tracker]')]
    .every((one) => one.closest('main'))
"""
"""JavaScript: gradio shows "Loading…" beside the page until all that is shown at first listens."""


def wired(page: Page) -> None:
    """Waits until the page that was opened or loaded anew answers to presses."""
    page.wait_for_function(_WIRED, timeout=PATIENCE_MS)


def form_is_ready(page: Page) -> None:
    """Waits until the form of Experiment, as it is at first, has been read by the server."""
    wired(page)
    expect(page.locator("#go")).to_have_text(re.compile(r"Launch \d+ runs?"), timeout=PATIENCE_MS)


def painted(page: Page) -> None:
    """Waits until no event of gradio is under way, and what it brought has been painted."""
    expect(page.locator("[data-testid=status-tracker].generating:visible")).to_have_count(0)
    page.evaluate(
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )


@contextmanager
def visit(
    browser: Browser, url: str, width: int = 1440, script: str = HAS_LAUNCHED
) -> Iterator[Page]:
    """A visitor's page, on Experiment if the address names no tab, once it answers to presses; a
    script error fails the test.

    `script` runs before those of the page.
    """
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.add_init_script(script)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(PATIENCE_MS)
    page.goto(url)
    wired(page)
    try:
        yield page
    finally:
        context.close()
    assert errors == []


@pytest.fixture
def page(browser: Browser, app: App) -> Iterator[Page]:
    with visit(browser, app.url) as page:
        yield page
