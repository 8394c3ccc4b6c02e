"""The time of a sweep before its launch in a browser: when it comes, what it counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.jobs import sweep_costs
from ftlab.prediction import client
from ftlab.prediction.client import Predictor
from ftlab.prediction.duration import Rates
from ftlab.prediction.question import Prediction, Question
from ftlab.records.expected import Expected, read_expected, write_expected
from ftlab.records.result import RunResult
from ftlab.records.run import run_directories
from ftlab.tabs import app as ui
from ftlab.tabs.experiment import costs, queue
from ftlab.tabs.experiment import tab as experiment
from tests.browser.conftest import served, visit
from tests.fakes import make_run
from tests.prediction.fakes import SizedPredictor, TimedPredictor
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]
RATES = Rates(1e13, 1, 1, 1, overlaps=False)
OTHER_SWEEP = "20260101-000000-aaaa"


@pytest.fixture(autouse=True)
def no_dispatcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is launched stays in the queue, also after the test."""
    monkeypatch.setattr(experiment, "start_dispatcher", lambda folder: None)
    monkeypatch.setattr(queue, "ensure_dispatcher", lambda folder: None)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> list[Rates]:
    """The rates of the CPU; it cannot be measured here. Pages poll every second."""
    rates: list[Rates] = []
    monkeypatch.setattr(sweep_costs, "kept_rates", lambda device: rates[0] if rates else None)
    monkeypatch.setattr(costs, "rates_here", lambda device: rates[0] if rates else None)
    monkeypatch.setattr(queue, "_BUSY_SECONDS", 1)
    monkeypatch.setattr(queue, "_IDLE_SECONDS", 1)
    return rates


def timed(runs: Path) -> Any:
    return ui.build_page(page_context(runs, TimedPredictor(lambda question: 1)))


def test_the_time_comes_by_itself_when_the_run_that_had_the_device_has_ended(
    browser: Browser, tmp_path: Path, kept: list[Rates]
) -> None:
    run = make_run(tmp_path, "lora", "running")
    with served(timed(tmp_path), tmp_path) as url, visit(browser, url) as page:
        time = page.locator("#launch [data-time]")
        expect(time).to_have_text("time not known yet")
        expect(time).to_have_attribute("title", costs._not_measured(
            page_context(tmp_path).store.runs(), costs.resolve_device("cpu")
        ))  # fmt: skip
        kept.append(RATES)
        run.write_result(RunResult("cancelled"))
        expect(time).to_contain_text("done at")
        expect(page.locator('tbody[data-method="lora"] [data-time]')).to_contain_text("s")


def test_what_other_sweeps_have_left_is_counted_before_it_and_counted_anew_when_it_changes(
    browser: Browser, tmp_path: Path, kept: list[Rates]
) -> None:
    kept.append(RATES)
    with served(timed(tmp_path), tmp_path) as url, visit(browser, url) as page:
        time = page.locator("#launch [data-time]")
        expect(time).to_contain_text("done at")
        expect(time).not_to_contain_text("after")
        queued = make_run(tmp_path, "lora", "queued", sweep_id=OTHER_SWEEP)
        expect(time).to_contain_text("after the other runs")
        write_expected(queued, Expected(train=3000, evaluate=500, other=98, between=2))
        expect(time).to_contain_text("after 1 h 00 min of other runs, done at")
        queued.write_result(RunResult("cancelled"))
        expect(time).not_to_contain_text("after")


class Failing(SizedPredictor):
    """Fails at the first question, and when it is asked what it knows."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__(lambda question: 1)
        self.error, self.is_over = error, threading.Event()

    def ask(
        self, questions: Sequence[Question], *others: Any, **more: Any
    ) -> Iterator[tuple[int, Prediction]]:
        if self.error is None:
            self.is_over.wait()
            return iter(())
        raise self.error

    def known(self, question: Question) -> Prediction | None:
        if self.error is None:
            return None
        raise self.error


def launches(browser: Browser, runs: Path, predictor: Predictor) -> Page:
    """Presses Launch on a page with the predictor; ends when all runs are queued."""
    page_ = ui.build_page(page_context(runs, predictor))
    with served(page_, runs) as url, visit(browser, url) as page:
        page.locator("#go").click()
        expect(page.locator(".queue li")).to_have_count(6)
        expect(page.locator("#go")).to_be_enabled()
    assert len(run_directories(runs)) == 6
    return page


@pytest.mark.parametrize("error", [ZeroDivisionError("no rates"), None])
def test_a_prediction_that_raises_or_hangs_blocks_no_launch(
    browser: Browser, tmp_path: Path, error: Exception | None
) -> None:
    predictor = Failing(error)
    try:
        launches(browser, tmp_path, predictor)
    finally:
        predictor.is_over.set()


def test_a_predictor_whose_process_dies_blocks_no_launch(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MODULE", "ftlab.there_is_no_such_module")
    launches(browser, tmp_path, Predictor())


@pytest.mark.parametrize(("module", "when"), [(sweep_costs, "kept_rates"), (costs, "rates_here")])
def test_rates_that_cannot_be_read_or_measured_block_no_launch(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, when: str
) -> None:
    def fails(device: object) -> Rates:
        raise RuntimeError("the measuring process crashed")

    monkeypatch.setattr(sweep_costs, "kept_rates", lambda device: None)
    monkeypatch.setattr(module, when, fails)
    launches(browser, tmp_path, TimedPredictor(lambda question: 1))


def test_a_launch_keeps_the_shown_time_of_each_run_for_its_queue(
    browser: Browser, tmp_path: Path, kept: list[Rates]
) -> None:
    kept.append(RATES)
    with served(timed(tmp_path), tmp_path) as url, visit(browser, url) as page:
        expect(page.locator("#launch [data-time]")).to_contain_text("done at")
        page.locator("#go").click()
        expect(page.locator(".queue li")).to_have_count(6)
        expect(page.locator(".queue li", has_text="LoRA").first).to_contain_text("s")
        expect(page.locator(".ft-queue-head")).to_contain_text("left in all")
    assert all(read_expected(run) is not None for run in run_directories(tmp_path))
