"""Find the best in a browser: started from the form, watched live, stopped, and gone on with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.methods.registry import CORE
from ftlab.race.record import RaceResult, list_races
from ftlab.tabs import app as ui
from ftlab.tabs.experiment import race as experiment_race
from tests.browser.conftest import served, visit
from tests.tabs.page_fakes import page_context
from tests.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def page(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Page, Path]]:
    """The page, whose races have no process: the test says what happens in them."""
    runs = tmp_path / "runs"
    runs.mkdir()
    monkeypatch.setattr("ftlab.race.start.start_detached", lambda *given: None)
    monkeypatch.setattr(experiment_race, "check_inputs", lambda request, models: None)
    with (
        served(ui.build_page(page_context(runs)), runs) as address,
        visit(browser, address) as page,
    ):
        expect(page.locator("#go")).to_have_text("Launch 4 runs")
        page.get_by_role("button", name="Find the best").click()
        expect(page.locator(".ft-race")).to_contain_text("No race yet.")
        yield page, runs


def test_a_race_is_started_watched_stopped_and_gone_on_with(page: tuple[Page, Path]) -> None:
    tab, runs = page
    panel = tab.locator(".ft-race")
    tab.locator("#f-minutes input").fill("0.1")
    tab.locator("#race-go").click()
    expect(panel.get_by_role("alert")).to_contain_text("Minutes is 0.1; it must lie between 0.5")
    tab.locator("#f-minutes input").fill("15")
    tab.get_by_label("The ticked ones").check()
    tab.locator("#race-go").click()
    expect(panel).to_contain_text("18 candidates, starting; 15 min 00 s left of 15 min 00 s")
    (race,) = list_races(runs)
    request = race.request()
    assert [request.request.variants[place].method for place in request.defaults] == list(CORE)
    assert request.request.seeds == (0, 1, 2)

    assert race.begin()
    race.report({"event": "rung", "step": 5, "candidates": 18})
    race.report({"event": "reading", "label": "LoRA", "step": 5, "loss": 1.25, "reason": "",
                 "elapsed": 60.0})  # fmt: skip
    first = panel.locator(".race li").first
    expect(first).to_contain_text("LoRA")
    expect(first).to_contain_text("1.25")
    expect(panel).to_contain_text("training to step 5; 13 min")

    race.write_result(RaceResult("cancelled", "Cancelled by the person.", "LoRA so far."))
    expect(panel).to_contain_text("LoRA so far.")
    panel.get_by_role("button", name="Go on").click()
    wait_until(lambda: not race.result_file.exists())
    expect(panel.get_by_role("button", name="Stop, and answer")).to_be_visible()
    panel.get_by_role("button", name="Stop, and answer").click()
    wait_until(lambda: race.status() == "cancelled")
    expect(panel.get_by_role("button", name="Go on")).to_be_visible()
