"""The page of a running sweep is still between two answers: what moves is painted at each frame."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from ftlab.tabs.app import build_page
from tests.browser.conftest import served, visit
from tests.fakes import make_run, make_sweep
from tests.tabs.page_fakes import page_context

pytestmark = pytest.mark.browser
_RUNNING = """document.getAnimations().filter((one) => one.playState === 'running')
  .map((one) => one.animationName ?? one.transitionProperty)"""


def test_nothing_moves_on_the_page_of_a_running_sweep(browser: Browser, tmp_path: Path) -> None:
    make_sweep(tmp_path, ["full"])
    make_run(tmp_path, "lora", "running")
    with served(build_page(page_context(tmp_path)), tmp_path) as url, visit(browser, url) as page:
        expect(page.locator("#top .pill.run")).to_contain_text("1 running")
        expect(page.locator(".ft-queue .prog.running i")).to_be_visible()
        expect(page.locator(".ft-watch .js-plotly-plot")).to_be_visible()
        page.wait_for_function(f"{_RUNNING}.length === 0")
        page.evaluate("document.querySelector('.ft-queue .prog.running i').style.width = '90%'")
        assert page.evaluate(_RUNNING) == [], "a bar is at its new width at once"


_COUNT = """const asked = window.requestAnimationFrame.bind(window);
window.frames_asked = [];
window.requestAnimationFrame = (call) => {
  frames_asked.push(String(call));
  return asked(call);
};"""
_HAS_COME_TO_REST = "() => frames_asked.splice(0).length === 0"


def test_a_page_at_rest_asks_for_no_frame(browser: Browser, tmp_path: Path) -> None:
    """A single script that asks for every frame keeps a tenth of a core busy without a GPU."""
    make_sweep(tmp_path, ["full"])
    make_run(tmp_path, "lora", "running")
    with served(build_page(page_context(tmp_path)), tmp_path) as url:
        context = browser.new_context()
        context.add_init_script(_COUNT)
        page = context.new_page()
        page.goto(f"{url}?tab=experiment")
        expect(page.locator(".ft-watch .js-plotly-plot")).to_be_visible()
        page.wait_for_function(_HAS_COME_TO_REST, polling=1000)
        page.wait_for_timeout(1500)
        assert page.evaluate("frames_asked") == []
        context.close()
