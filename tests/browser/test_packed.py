"""A packed sweep in a real browser: uploaded, seen as from another machine, compared, removed."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from ftlab.tabs import app as ui
from tests.browser.conftest import served, visit
from tests.fakes import make_sweep
from tests.share.packed import entries, packed_sweep
from tests.tabs.page_fakes import page_context

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_a_packed_sweep_is_uploaded_compared_packed_again_and_removed(
    browser: Browser, tmp_path: Path
) -> None:
    file, runs = packed_sweep(tmp_path), tmp_path / "here"
    make_sweep(runs, ("full", "lora"), sweep_id="20261126-120000-cd34")
    with (
        served(ui.build_page(page_context(runs)), runs) as url,
        visit(browser, url) as page,
    ):
        page.get_by_role("tab", name="Results").click()
        rows = page.locator("#runs tbody tr")
        expect(rows).to_have_count(2)
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Open sweep").click()
        chooser.value.set_files(file)
        said = page.locator("#results-said")
        expect(said).to_contain_text("2 runs from another machine opened as")
        marks = page.locator("#runs .chip.opened")
        expect(marks).to_have_count(2)
        said.get_by_role("link", name="Compare it").click()
        savings = page.locator(".savings")
        expect(savings).to_contain_text("from another machine 25 Nov 2026")
        expect(savings).to_contain_text("AMD EPYC 7B13")

        page.get_by_role("tab", name="Results").click()
        marks.first.locator("xpath=ancestor::tr").locator("[data-open]").first.click()
        panel = page.locator("#run-panel")
        expect(panel).to_contain_text("Measured on AMD EPYC 7B13, cpu, 25 Nov 2026.")
        panel.get_by_role("button", name="Use it").click()
        with page.expect_download() as download:
            panel.get_by_role("button", name="Pack sweep").click()
        assert len(entries(download.value.path())) == len(entries(file))
        panel.get_by_role("button", name="Remove sweep").click()
        expect(page.locator("#results-question")).to_contain_text("Remove the whole sweep")
        page.locator("#results-delete").click()
        expect(said).to_contain_text("1 opened sweep removed.")
        expect(rows).to_have_count(2)
        expect(marks).to_have_count(0)
