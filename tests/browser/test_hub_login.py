"""A Space whose people log in with Hugging Face: a real app, a real browser, a Hub of the tests'.

The app runs behind HTTPS, as in a Space: the cookie of a login is for HTTPS alone.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from ftlab.records.store import Run
from ftlab.tabs.hub_login import COOKIE, USERS
from ftlab.tabs.serve import VARIABLE
from tests.browser.conftest import HAS_LAUNCHED
from tests.https_front import https_front
from tests.hub_people import CLIENT_SECRET, TOKEN, PeopleHub
from tests.hub_server import Hub, serving
from tests.processes import free_port, start_app
from tests.share.test_merge_process import with_adapter
from tests.waiting import wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]
WEIGHTS = b"weights of a run"


@dataclass
class Space:
    """The app of a Space, at `url` for its people."""

    url: str
    people: PeopleHub
    run: Run
    process: subprocess.Popen[str]
    output: Path


@contextmanager
def space(folder: Path) -> Iterator[Space]:
    runs = folder / "runs"
    runs.mkdir()
    run = with_adapter(runs)
    (run.directory.adapter / "adapter_model.safetensors").write_bytes(WEIGHTS)
    port, output = free_port(), folder / "output.txt"
    with (
        serving(Hub()) as hub,
        https_front(port, folder) as host,
        output.open("w", encoding="utf-8") as written,
    ):
        people = PeopleHub(hub)
        environment = {k: v for k, v in os.environ.items() if k not in (VARIABLE, USERS)}
        environment |= {
            **hub.environment(folder / "hf"),
            **people.environment,
            "SPACE_ID": "ada/ftlab",
            "SPACE_HOST": f"{host},ftlab.example",
            USERS: "ada, eve",
        }
        app = start_app(
            *("--port", str(port), "--runs-dir", str(runs), "--proxy", "127.0.0.1"),
            env=environment, stdout=written, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            wait_until(lambda: "is ready" in output.read_text() or app.poll() is not None)
            yield Space(f"https://{host}", people, run, app, output)
        finally:
            app.send_signal(signal.SIGINT)
            app.wait(20)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    with space(tmp_path_factory.mktemp("space")) as found:
        yield found


@contextmanager
def visitor(browser: Browser, url: str, width: int = 1440, dark: bool = False) -> Iterator[Page]:
    context = browser.new_context(
        ignore_https_errors=True, viewport={"width": width, "height": 900},
        color_scheme="dark" if dark else "light",
    )  # fmt: skip
    context.add_init_script(HAS_LAUNCHED)
    page = context.new_page()
    page.goto(url)
    try:
        yield page
    finally:
        context.close()


def log_in(page: Page) -> None:
    page.get_by_role("link", name="Log in with Hugging Face").click()
    expect(page.locator("#go")).to_be_visible()


def open_use(page: Page, space: Space) -> None:
    page.goto(f"{space.url}/?tab=results&run={space.run.run_id}")
    page.locator("#run-panel").get_by_role("button", name="Use it").click()
    expect(page.locator("#push")).to_be_visible()


def test_a_person_logs_in_pushes_a_run_with_a_token_of_theirs_and_logs_out(
    browser: Browser, opened: Space
) -> None:
    opened.people.person = "mallory"
    with visitor(browser, opened.url) as page:
        page.get_by_role("link", name="Log in with Hugging Face").click()
        expect(page.get_by_text("'mallory' is not among the people")).to_be_visible()
        assert page.request.get(f"{opened.url}/config").status == 401
    opened.people.person = "ada"
    with visitor(browser, opened.url) as page:
        log_in(page)
        (cookie,) = [one for one in page.context.cookies() if one.get("name") == COOKIE]
        assert (cookie.get("secure"), cookie.get("httpOnly")) == (True, True)
        assert TOKEN not in page.evaluate("document.cookie + JSON.stringify(localStorage)")
        open_use(page, opened)
        expect(page.locator("#push-login")).to_have_text("Logged in as ada: log out")
        repo = page.get_by_label("Repository: OWNER/NAME").input_value()
        assert repo.startswith("ada/ftlab-lora-")
        opened.people.refuses = 403
        page.get_by_role("button", name="Push to the Hub").click()
        expect(page.locator("#push-said")).to_contain_text("may not write to")
        opened.people.refuses, opened.people.slow_seconds = 0, 1
        page.get_by_role("button", name="Push to the Hub").click()
        expect(page.get_by_role("button", name="Pushing …")).to_be_disabled()
        opened.people.slow_seconds = 0
        expect(page.locator("#push-said")).to_contain_text(f"Pushed to {repo}.")
        private, files = opened.people.repos[repo]
        assert private
        assert files["adapter_model.safetensors"] == WEIGHTS
        assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
        assert opened.people.seen == {f"Bearer {TOKEN}"}

        page.locator("#push-login").click()
        page.wait_for_url(re.compile("/logout"))
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_role("link", name="Log in with Hugging Face")).to_be_visible()
        assert page.request.get(f"{opened.url}/config").status == 401
    said = opened.output.read_text()
    log = "".join(path.read_text() for path in opened.run.directory.path.parent.rglob("*.log"))
    assert TOKEN not in said + log
    assert CLIENT_SECRET not in said + log
    children = psutil.Process(opened.process.pid).children(recursive=True)
    for child in children:
        assert CLIENT_SECRET not in str(child.environ())
        assert TOKEN not in str(child.environ())
