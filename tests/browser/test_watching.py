"""The page of a running sweep: it shows what is new, is still between two answers, and asks for
nothing that nobody sees."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.records.run import RunDirectory
from ftlab.tabs.app import build_page
from tests.browser.conftest import HIDE, served, visit
from tests.fakes import make_run, make_sweep
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@dataclass
class Sweep:
    """A sweep of which full fine-tuning is done and LoRA trains, as in `folder`."""

    folder: Path
    url: str
    run: RunDirectory

    def log_step(self, step: int, loss: float) -> None:
        event = {"event": "step", "step": step, "loss": loss, "seconds": 0.5, "elapsed": 9.0}
        with self.run.metrics_file.open("a") as file:
            file.write(json.dumps(event) + "\n")

    def end(self, losses: list[float]) -> None:
        """As a worker ends: the result is written last."""
        with tempfile.TemporaryDirectory() as folder:
            ended = make_run(Path(folder), "lora", losses=losses, run_id=self.run.run_id)
            for file in (ended.metrics_file, ended.result_file):
                os.replace(shutil.copy(file, self.folder), self.run.path / file.name)


LOSSES = [3.0, 2.5, 2.0]


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    make_sweep(tmp_path, ["full"])
    run = make_run(tmp_path, "lora", "running", losses=LOSSES)
    with served(build_page(page_context(tmp_path)), tmp_path) as url:
        yield Sweep(tmp_path, url, run)


FIGURE = "document.querySelector('.ft-watch .js-plotly-plot')"
_LORA = f"{FIGURE}.data.find(({{ name }}) => name === 'LoRA')"
_DRAWN = f"{FIGURE}.calcdata.find(([{{ trace }}]) => trace.name === 'LoRA').length"


def watched(page: Page) -> None:
    """Waits until the page shows the sweep and its curves."""
    expect(page.locator("#top .pill.run")).to_contain_text("1 running")
    expect(page.locator(".ft-queue .prog.running i")).to_be_visible()
    expect(page.locator(".ft-watch .js-plotly-plot")).to_be_visible()
    page.wait_for_function(f"{FIGURE}?.calcdata?.length > 1")


def wait_for_points(page: Page, count: int) -> None:
    page.wait_for_function(f"{_LORA}.y.length === {count}")


_RUNNING = """document.getAnimations().filter((one) => one.playState === 'running')
  .map((one) => one.animationName ?? one.transitionProperty)"""


def test_nothing_moves_on_the_page_of_a_running_sweep(browser: Browser, sweep: Sweep) -> None:
    """What moves is painted at each frame."""
    with visit(browser, sweep.url) as page:
        watched(page)
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


def test_a_page_at_rest_asks_for_no_frame(browser: Browser, sweep: Sweep) -> None:
    """A single script that asks for every frame keeps a tenth of a core busy without a GPU."""
    with visit(browser, f"{sweep.url}?tab=experiment", script=_COUNT) as page:
        watched(page)
        page.wait_for_function(_HAS_COME_TO_REST, polling=1000)
        page.wait_for_timeout(1500)
        assert page.evaluate("frames_asked") == []


def test_what_draws_a_curve_is_loaded_before_there_is_one(browser: Browser, tmp_path: Path) -> None:
    """It takes a second of the browser, which a first loss would else share with timed steps."""
    with served(build_page(page_context(tmp_path)), tmp_path) as url, visit(browser, url) as page:
        expect(page.locator(".ft-watch")).to_contain_text("No curve yet.")
        page.wait_for_function("window.Plotly")
        expect(page.locator(".ft-watch .js-plotly-plot")).to_have_count(0)


def test_a_curve_grows_and_plotly_draws_it_when_the_pointer_comes(
    browser: Browser, sweep: Sweep
) -> None:
    with visit(browser, sweep.url) as page:
        watched(page)
        path = f"{FIGURE}.querySelector(`.trace${{{FIGURE}._fullData.at(-1).uid}} .js-line`)"
        page.mouse.move(5, 5)
        before = page.evaluate(f"{path}.getAttribute('d')")
        sweep.log_step(4, 2.1)
        wait_for_points(page, 4)
        assert page.evaluate(f"{path}.getAttribute('d')").startswith(before + "L")
        assert page.evaluate(_DRAWN) == 3, "plotly has not drawn the figure for it"
        expect(page.locator(".ft-watch .annotation", has_text="LoRA")).to_have_text("■ LoRA 2.10")
        grown = page.evaluate(f"{path}.getBoundingClientRect().width")
        page.locator(".ft-watch .js-plotly-plot").hover()
        page.wait_for_function(f"{_DRAWN} === 4")
        assert page.evaluate(f"{path}.getBoundingClientRect().width") == pytest.approx(grown, abs=1)


def test_a_point_outside_of_the_axes_makes_them_longer(browser: Browser, sweep: Sweep) -> None:
    with visit(browser, sweep.url) as page:
        watched(page)
        page.mouse.move(5, 5)
        sweep.log_step(4, 0.1)
        page.wait_for_function(f"{_DRAWN} === 4 && {FIGURE}._fullLayout.yaxis.range[0] < 0.1")


def test_the_end_of_a_sweep_is_shown_whole(browser: Browser, sweep: Sweep) -> None:
    """The last step and the end come between two polls."""
    with visit(browser, sweep.url) as page:
        watched(page)
        sweep.end([*LOSSES, 1.9, 1.8, 1.7])
        expect(page.locator(".ft-queue h3")).to_have_text("Queue: all runs have ended")
        expect(page.get_by_role("button", name="Compare these")).to_be_visible()
        expect(page.locator("#top .pill.idle")).to_have_text("nothing running")
        wait_for_points(page, 6)
        assert page.evaluate(f"{_LORA}.y.at(-1)") == 1.7
        expect(page.locator(".ft-watch .annotation", has_text="LoRA")).to_have_text("■ LoRA 1.70")
        page.reload()
        expect(page.locator(".ft-queue h3")).to_have_text("Queue: all runs have ended")
        page.wait_for_function(f"{FIGURE}?.calcdata?.length > 1")
        wait_for_points(page, 6)


def test_a_hidden_page_asks_for_nothing_and_catches_up_at_once(
    browser: Browser, sweep: Sweep
) -> None:
    asked: list[str] = []
    with visit(browser, sweep.url) as page:
        watched(page)
        page.on("request", lambda request: asked.append(request.url))
        page.evaluate(HIDE)
        is_at_rest = False
        while not is_at_rest:  # until what was asked for before is answered
            asked.clear()
            page.wait_for_timeout(_SECOND_POLL_MS)
            is_at_rest = not asked
        sweep.log_step(4, 2.2)
        page.wait_for_timeout(_SECOND_POLL_MS)
        assert asked == []
        page.evaluate(_SHOW)
        wait_for_points(page, 4)
        expect(page.locator(".ft-queue .st b").last).to_have_text("4")


_SECOND_POLL_MS = 2500
"""By then a page that is seen has asked at least once more."""

_SHOW = """() => {
  delete document.visibilityState;
  delete document.hidden;
  document.dispatchEvent(new Event('visibilitychange'));
}"""


def test_only_the_bar_at_the_top_is_asked_for_in_another_tab(
    browser: Browser, sweep: Sweep
) -> None:
    with visit(browser, sweep.url) as page:
        watched(page)
        page.locator("#tab-learn-button").click()
        about_the_sweep = True
        while about_the_sweep:  # until what was asked for before is answered
            with page.expect_request("**/watch?*") as asked:
                pass
            about_the_sweep = "sweep=" in asked.value.url
        sweep.log_step(4, 2.2)
        page.locator("#tab-experiment-button").click()
        wait_for_points(page, 4)


def test_a_button_keeps_the_focus_while_its_run_goes_on(browser: Browser, sweep: Sweep) -> None:
    with visit(browser, sweep.url) as page:
        watched(page)
        page.get_by_role("button", name="Cancel LoRA").focus()
        sweep.log_step(4, 2.2)
        expect(page.locator(".ft-queue .st b").last).to_have_text("4")
        expect(page.get_by_role("button", name="Cancel LoRA")).to_be_focused()
