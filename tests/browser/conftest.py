"""The app as a real process, and the system's Chromium."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ftlab.jobs.control import dispatcher_lock
from ftlab.tabs import app as ui
from ftlab.tabs.serve import Serving
from tests.processes import free_port, start_app

expect.set_options(timeout=30_000)  # a busy machine takes its time; what is right comes in the end


@dataclass
class App:
    """`python app.py` on a folder of runs; can be killed and started again on the same port."""

    runs: Path
    port: int
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> float:
        """Starts the app; returns the seconds from the command to the page's first byte."""
        began = time.monotonic()
        with (self.runs / "app.log").open("ab") as log:
            self.process = start_app(
                *("--port", str(self.port), "--runs-dir", str(self.runs)), stdout=log, stderr=log
            )
        while time.monotonic() - began < 60:
            try:
                with urllib.request.urlopen(self.url, timeout=5) as answer:
                    answer.read(1)
                    return time.monotonic() - began
            except OSError:
                time.sleep(0.05)
        raise TimeoutError((self.runs / "app.log").read_text())

    def kill(self) -> None:
        """SIGKILL: the app has no time to say good-bye."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()


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
        page.close(verbose=False)
        busy.release()


def find_chromium() -> str | None:
    """The system's Chromium; `None` where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def chromium() -> str:
    path = find_chromium()
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have Chromium; .ci/run installs it from Debian's packages")
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return path


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
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
    app = App(tmp_path_factory.mktemp("runs"), free_port())
    app.start()
    yield app
    app.stop()


@pytest.fixture
def page(browser: Browser, app: App) -> Iterator[Page]:
    """A fresh visitor; a script error on the page fails the test."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.set_default_timeout(30_000)
    page.goto(app.url)
    yield page
    context.close()
    assert errors == []
