"""Learning rates in a browser: shown for the chosen model, tuned, and taken over into the form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ftlab.basics import devices
from ftlab.basics.devices import Device
from ftlab.models.hub import HubReach
from ftlab.records.run import run_directories
from ftlab.tabs import app as ui
from ftlab.tabs.experiment import costs
from tests.browser.conftest import served, visit
from tests.jobs.test_tuning_runs import make_rung
from tests.prediction.fakes import SizedPredictor
from tests.tabs.page_fakes import page_context
from tests.tiny import make_tiny_model

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def page(browser: Browser, runs: Path) -> Iterator[Page]:
    runs.mkdir()
    with (
        served(ui.build_page(page_context(runs)), runs) as address,
        visit(browser, address) as page,
    ):
        expect(page.locator("#go")).to_have_text("Launch 4 runs")
        yield page


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "wide", width=128)


def row(page: Page, method: str) -> Locator:
    return page.locator(f'.pick tbody[data-method="{method}"]')


def choose_folder(page: Page, folder: Path) -> None:
    page.locator("#f-model input").click()
    page.get_by_role("option", name="Local folder").click()
    name = page.locator("#f-model-name").locator("input, textarea").first
    name.fill(str(folder))
    name.blur()


def test_rates_follow_the_model_and_a_press_queues_their_ladders(
    page: Page, wide: Path, runs: Path
) -> None:
    expect(row(page, "lora").locator("[data-rate]")).to_have_text("2e-3")
    expect(page.locator(".untuned")).to_have_count(0)
    choose_folder(page, wide)
    expect(row(page, "lora").locator("[data-rate]")).to_have_text("6.5e-3")
    expect(row(page, "prompt_tuning").locator("[data-rate]")).to_have_text("0.03")
    expect(page.locator(".untuned")).to_contain_text("not on this model")
    row(page, "lora").get_by_role("button", name="Settings of LoRA").click()
    rate = row(page, "lora").locator('[data-name="lora.learning_rate"]')
    expect(rate).to_have_attribute("placeholder", "6.5e-3")
    rate.fill("0.5")
    expect(row(page, "lora").locator("[data-rate]")).to_have_text("0.5")
    rate.fill("much")
    expect(page.locator("#launch .wrong")).to_contain_text("'much', which is not a number")
    rate.fill("")
    page.get_by_role("button", name="Tick none").click()
    row(page, "lora").get_by_role("checkbox").check()
    page.get_by_role("button", name="Tune them: 3 runs").click()
    expect(page.locator(".queue li")).to_have_count(4)
    specs = [directory.spec() for directory in run_directories(runs)]
    assert [spec.learning_rate for spec in specs if spec.variant] == [2.2e-3, 6.5e-3, 1.9e-2]
    assert {spec.settings.eval_split for spec in specs} == {"tuning"}


def test_what_a_ladder_suggests_is_put_into_the_form_by_one_press(page: Page, runs: Path) -> None:
    for rate, loss in ((1e-3, 0.9), (3e-3, 0.5), (9e-3, 0.7)):
        make_rung(runs, rate, loss)
    page.reload()
    expect(page.locator(".suggested")).to_contain_text("3e-3 has the lowest loss")
    page.get_by_role("button", name="Use them in the form").click()
    expect(row(page, "lora").locator("[data-rate]")).to_have_text("3e-3")
    expect(row(page, "lora").locator("[data-changed]")).to_have_text("learning_rate=0.003")
    expect(row(page, "full").locator("[data-rate]")).to_have_text("3e-4")


def test_a_rate_beyond_the_end_of_a_ladder_is_queued_by_one_press(page: Page, runs: Path) -> None:
    for rate, loss in ((1e-3, 0.9), (3e-3, 0.5)):
        make_rung(runs, rate, loss)
    page.reload()
    page.get_by_role("button", name="Try 1 rate beyond the ends").click()
    expect(page.locator(".queue li")).to_have_count(4)  # and a base run, which this one lacks
    assert 9e-3 in [directory.spec().learning_rate for directory in run_directories(runs)]


def test_on_a_gpu_with_a_way_to_the_hub_the_largest_model_that_fits_can_be_chosen(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = (Device("cuda:0", "NVIDIA L4", 24_000_000_000), *devices.list_devices())
    for module in (devices, costs):
        monkeypatch.setattr(module, "list_devices", lambda: here)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    predictor = SizedPredictor(lambda question: 20 * question.config.get("hidden_size", 0) / 4096)
    context = replace(page_context(tmp_path, predictor), hub=HubReach(lambda: True))
    blocks = ui.build_page(context)
    with served(blocks, tmp_path) as address, visit(browser, address, 390) as page:
        proposed = page.locator(".largest")
        expect(proposed).to_contain_text("Largest that fits this GPU")
        label = proposed.locator("b").inner_text()
        proposed.get_by_role("button", name=f"Choose {label}").click()
        expect(page.locator("#f-model input")).to_have_value("Hub id …")
        expect(proposed).to_have_count(0)
        expect(page.locator(".untuned")).to_contain_text("not on this model")
