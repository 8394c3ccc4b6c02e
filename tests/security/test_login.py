"""An app with accounts, asked for everything that gradio serves by somebody who has none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest

from ftlab.tabs.serve import Serving
from tests.security.servers import ACCOUNTS, PASSWORD, USER, Running, call, log_in, running, tree

OPEN = {
    "/": "the page that asks for the password",
    "/login": "takes the password",
    "/healthz": "one word to a stranger",
    "/assets/{path:path}": "gradio's own scripts and styles",
    "/static/{path:path}": "gradio's own pictures",
    "/svelte/{path:path}": "gradio's own scripts",
    "/theme.css": "colours",
    "/favicon.ico": "a picture",
    "/robots.txt": "nothing of this app",
    "/manifest.json": "the app's name",
    "/pwa_icon": "a picture",
    "/pwa_icon/{size}": "a picture",
    "/gradio_api/theme.css": "colours",
    "/gradio_api/app_id": "a number",
    "/gradio_api/user": "says who is logged in: nobody",
    "/gradio_api/token": "says who is logged in: nobody",
    "/gradio_api/startup-events": "starts the queue, as gradio itself does",
}
"""What gradio leaves open, and why that gives nothing away. All else must ask who is there."""

CLOSED = tuple(
    f"/{path}"
    for path in ("monitoring", "gradio_api/deep_link", "gradio_api/dev/", "gradio_api/vibe",
                 "gradio_api/undo-vibe", "gradio_api/custom_component", "gradio_api/proxy=",
                 "gradio_api/runs")
)  # fmt: skip
"""What is closed for everybody, by the gate or because it is switched off."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    patch = pytest.MonkeyPatch()
    patch.setattr("ftlab.tabs.api.start_dispatcher", lambda runs_folder: None)
    with running(Serving(accounts=ACCOUNTS), tmp_path_factory.mktemp("runs")) as found:
        yield found
    patch.undo()


def routes(page: gr.Blocks) -> list[tuple[str, str]]:
    """(method, path) of every route of the app that serves the page."""
    return [
        (method, route.path)
        for route in _within(page.app.routes)
        for method in sorted(getattr(route, "methods", None) or ("GET",))
    ]


def _within(routes: Iterable[Any]) -> Iterator[Any]:
    """The routes themselves; FastAPI keeps those of a router that was included inside of it."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        else:
            yield from _within(inner.routes)


@pytest.mark.hostile("requests without a login")
def test_every_route_asks_who_is_there(
    app: Running, record_property: pytest.RecordProperty
) -> None:
    before = tree(app.runs)
    asked, wrong = 0, []
    with httpx.Client(base_url=app.url, timeout=10) as client:
        for method, path in routes(app.page):
            bare = path.rstrip("/") or "/"
            if bare in OPEN:
                continue
            asked += 1
            body: dict[str, Any] | None = {} if method == "POST" else None
            status = client.request(method, re.sub(r"\{[^}]*\}", "x", path), json=body).status_code
            if status != 401 and not path.startswith(CLOSED):
                wrong.append((method, path, status))
    assert not wrong, wrong
    assert asked > 40
    assert tree(app.runs) == before
    record_property("hostile inputs", asked)


def test_what_is_open_is_still_there(app: Running) -> None:
    """Or a name in the list would excuse a route of another gradio."""
    paths = {path.rstrip("/") or "/" for _, path in routes(app.page)}
    assert set(OPEN) <= paths


@pytest.mark.hostile("requests without a login")
def test_the_page_of_a_stranger_holds_nothing_of_the_app(app: Running) -> None:
    with httpx.Client(base_url=app.url, timeout=10) as client:
        page = client.get("/").text
        assert '"auth_required":true' in page.replace(" ", "")
        assert "Launch" not in page
        assert str(app.runs) not in page
        for path in ("user", "token", "login_check"):
            assert USER not in client.get(f"/gradio_api/{path}").text


@pytest.mark.hostile("requests without a login")
def test_a_stranger_starts_reads_and_uploads_nothing(app: Running) -> None:
    with httpx.Client(base_url=app.url, timeout=10) as client:
        assert client.get("/config").status_code == 401
        assert client.get("/gradio_api/info").status_code == 401
        for name in ("launch_sweep", "cancel", "runs", "generate"):
            assert client.post(f"/gradio_api/call/{name}", json={"data": []}).status_code == 401
        assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 401
        assert client.get("/gradio_api/file=/etc/passwd").status_code == 401
        assert client.get("/gradio_api/queue/data?session_hash=x").status_code == 401


def test_somebody_with_a_password_gets_all_of_it(app: Running) -> None:
    with log_in(app.url) as client:
        assert client.get("/config").status_code == 200
        done, said = call(client, "launch_sweep", methods=["lora"], steps=1)
        assert done, said


@pytest.mark.hostile("log-ins")
@pytest.mark.parametrize(
    "cookie", ["", "x", "None", "null", USER, PASSWORD, "../x", "0" * 4096, '{"user":"ada"}']
)
def test_a_cookie_that_was_made_up_opens_nothing(cookie: str, app: Running) -> None:
    with httpx.Client(base_url=app.url, timeout=10) as client:
        number = client.get("/gradio_api/app_id").json()["app_id"]
        for name in (f"access-token-{number}", f"access-token-unsecure-{number}", "access-token"):
            assert client.get("/config", headers={"cookie": f"{name}={cookie}"}).status_code == 401


@pytest.mark.hostile("requests of pages of other sites")
def test_a_page_of_another_site_reads_nothing_with_the_cookie_of_somebody(
    app: Running,
) -> None:
    """gradio itself would let it: it allows every origin to read, cookies and all."""
    with log_in(app.url) as client:
        for path in ("/config", "/gradio_api/info"):
            assert client.get(path, headers={"origin": "https://evil.com"}).status_code == 403
            cross = {"origin": app.url, "sec-fetch-site": "cross-site"}
            assert client.get(path, headers=cross).status_code == 403


@pytest.mark.hostile("log-ins")
def test_a_password_cannot_be_guessed_on_and_on(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    with (
        running(Serving(accounts=ACCOUNTS), tmp_path) as served,
        httpx.Client(base_url=served.url, timeout=10) as client,
    ):
        said = [
            client.post("/login", data={"username": USER, "password": f"guess {n}"})
            for n in range(14)
        ]
        assert [answer.status_code for answer in said] == [400] * 10 + [429] * 4
        assert "Too many log-ins have failed" in said[-1].text
        right = client.post("/login", data={"username": USER, "password": PASSWORD})
        assert right.status_code == 429
        assert "try again in 5 minutes" in right.text
        assert 0 < int(right.headers["retry-after"]) <= 300
        assert client.get("/config").status_code == 401
        forged = {"x-forwarded-for": "203.0.113.7"}
        guess = {"username": USER, "password": "guess"}
        assert client.post("/login", data=guess, headers=forged).status_code == 429
    record_property("hostile inputs", 16)


def test_a_named_proxy_is_believed_where_a_request_comes_from(tmp_path: Path) -> None:
    served = Serving(accounts=ACCOUNTS, proxies=("127.0.0.1",))
    with running(served, tmp_path) as app, httpx.Client(base_url=app.url, timeout=10) as client:
        guess = {"username": USER, "password": "guess"}
        for _ in range(11):
            last = client.post("/login", data=guess, headers={"x-forwarded-for": "203.0.113.7"})
        assert last.status_code == 429
        right = {"username": USER, "password": PASSWORD}
        others = {"x-forwarded-for": "198.51.100.2"}
        assert client.post("/login", data=right, headers=others).status_code == 200


@pytest.mark.hostile("log-ins")
def test_a_log_in_of_megabytes_is_refused(app: Running) -> None:
    with httpx.Client(base_url=app.url, timeout=10) as client:
        answer = client.post("/login", data={"username": USER, "password": "a" * 10**6})
    assert answer.status_code == 413
