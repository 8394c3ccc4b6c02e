"""Logging in and out, as a person does it."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from ftlab.tabs.serve import Serving
from tests.browser.conftest import HAS_LAUNCHED
from tests.security.servers import ACCOUNTS, PASSWORD, USER, running

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_who_logs_out_is_asked_for_the_password_again(browser: Browser, tmp_path: Path) -> None:
    with running(Serving(accounts=ACCOUNTS), tmp_path) as app, browser.new_page() as page:
        page.add_init_script(HAS_LAUNCHED)
        page.goto(app.url)
        for name, text in (("username", USER), ("password", PASSWORD)):
            page.get_by_label(name).fill(text)
        page.get_by_role("button", name="Login").click()
        expect(page.locator("#go")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("password")).to_be_visible()
        assert page.request.get(f"{app.url}/config").status == 401


def test_an_app_without_accounts_offers_no_log_out(browser: Browser, tmp_path: Path) -> None:
    with running(Serving(), tmp_path) as app, browser.new_page() as page:
        page.add_init_script(HAS_LAUNCHED)
        page.goto(app.url)
        expect(page.locator("#go")).to_be_visible()
        expect(page.get_by_role("button", name="Log out")).to_have_count(0)
