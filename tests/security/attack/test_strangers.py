"""What a stranger's request costs, and what a page of another site gets: nothing."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ftlab.basics.log import app_log
from ftlab.tabs.gate import Limits, Rate
from ftlab.tabs.serve import Serving
from tests.security.servers import ACCOUNTS, Running, connected, log_in, running
from tests.waiting import wait_until

MAX_STRANGER_BYTES = 64 * 1024
SLOWEST_BODY_SECONDS = 45.0
JOIN = (
    "POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(Serving(accounts=ACCOUNTS), tmp_path_factory.mktemp("runs")) as app:
        yield app


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(Serving(), tmp_path_factory.mktemp("runs")) as found:
        yield found


@pytest.mark.hostile("request bodies")
@pytest.mark.parametrize("path", ["queue/join", "call/runs", "run/predict", "cancel", "upload"])
def test_a_stranger_sends_64_kb_at_most(path: str, closed: Running) -> None:
    with httpx.Client(base_url=closed.url, timeout=20) as client:
        answer = client.post(f"/gradio_api/{path}", content=b"a" * (MAX_STRANGER_BYTES + 1))
        assert answer.status_code in (401, 413)
    assert read_of_an_endless_body(closed, f"/gradio_api/{path}") <= 2**20


def read_of_an_endless_body(app: Running, path: str) -> int:
    """How much of a body of 15 MB is taken before the answer comes and the line is closed."""
    with connected(app) as line:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Content-Length: {15 * 2**20}\r\n\r\n".encode())
        line.settimeout(0.2)
        sent = 0
        try:
            while sent < 15 * 2**20:
                sent += line.send(b"a" * 65536)
                if sent % 2**20 == 0:
                    try:
                        line.recv(1)
                    except TimeoutError:
                        continue
                    return sent
        except OSError:
            pass
        return sent


@pytest.mark.slow
@pytest.mark.hostile("floods of requests")
def test_who_asks_too_much_reads_when_to_try_again_and_others_are_answered(
    tmp_path: Path,
) -> None:
    # So slow that nothing is earned back while the requests are sent, on a busy machine too.
    limits = Limits(rate=Rate(per_second=0.01, burst=60))
    demo = Serving(space="ada/ftlab", proxies=("127.0.0.1",), limits=limits)
    with (
        app_log(tmp_path / "log"),
        demo.runs_folder(tmp_path / "runs") as runs,
        running(demo, runs) as app,
        httpx.Client(base_url=app.url, timeout=20) as client,
    ):
        stranger = {"x-forwarded-for": "203.0.113.7"}
        for _ in range(100):
            answer = client.post("/gradio_api/call/runs", json={"data": []}, headers=stranger)
        assert answer.status_code == 429
        said = answer.json()["detail"]
        assert re.fullmatch(
            r"That was too much at once; try again in \d+ (second|minute)s?\.", said
        )
        assert int(answer.headers["retry-after"]) >= 1
        for _ in range(20):
            client.get("/config", headers=stranger)
        another = {"x-forwarded-for": "198.51.100.9"}
        assert client.get("/config", headers=another).status_code == 200
    lines = (tmp_path / "log" / "app.log").read_text().splitlines()
    limited = [row for line in lines if (row := json.loads(line)).get("status") == 429]
    assert [row["client"] for row in limited] == ["203.0.113.7"], "once, however often"


def test_a_link_on_another_site_still_opens_the_page(app: Running) -> None:
    headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    headers["sec-fetch-dest"] = "document"
    assert httpx.get(app.url, headers=headers, timeout=20).status_code == 200


@pytest.mark.hostile("Host headers")
@pytest.mark.parametrize("host", ["localhost:evil", "127.0.0.1:evil", "[::1]:x"])
def test_a_host_with_a_port_that_is_none_is_refused(host: str, app: Running) -> None:
    assert httpx.get(app.url, headers={"host": host}, timeout=20).status_code == 403


@pytest.mark.hostile("requests of pages of other sites")
@pytest.mark.parametrize("origin", ["https://evil.com", "null", "http://127.0.0.1.evil.com"])
@pytest.mark.parametrize("path", ["/config", "/gradio_api/queue/join", "/login", "/logout"])
def test_no_other_site_is_told_that_it_may_ask(path: str, origin: str, closed: Running) -> None:
    headers = {"origin": origin, "access-control-request-method": "POST"}
    answer = httpx.options(closed.url + path, headers=headers, timeout=20)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.hostile("requests of pages of other sites")
def test_a_picture_on_another_site_logs_nobody_out(closed: Running) -> None:
    with log_in(closed.url) as client:
        assert client.get("/logout").status_code == 405
        assert client.get("/config").status_code == 200
        assert client.post("/logout").status_code < 400
        assert client.get("/config").status_code == 401


@pytest.mark.slow
@pytest.mark.hostile("held connections")
def test_a_body_that_comes_byte_by_byte_is_ended(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = app.page.app._gate
    assert gate.body.seconds < SLOWEST_BODY_SECONDS
    sooner = replace(gate, body=replace(gate.body, seconds=2.0))
    monkeypatch.setattr(app.page.app, "_gate", sooner)
    with connected(app) as line:
        line.sendall(f"{JOIN}Content-Length: 9999\r\n\r\n".encode())
        line.settimeout(0.5)
        began = time.monotonic()
        while time.monotonic() - began < SLOWEST_BODY_SECONDS:
            try:
                line.send(b"{")
                line.recv(1)
            except TimeoutError:
                continue
            except OSError:
                pass
            return
    pytest.fail(f"the connection is held for more than {SLOWEST_BODY_SECONDS:.0f} s")


@pytest.mark.hostile("held connections")
def test_an_upload_that_breaks_off_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    form = '--b\r\nContent-Disposition: form-data; name="files"; filename="a.csv"\r\n\r\n'
    head = "POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n"
    with running(Serving(), tmp_path / "runs") as app:
        with connected(app) as line:
            line.sendall(f"{head}Content-Type: multipart/form-data; boundary=b\r\n\r\n".encode())
            line.sendall(form.encode() + b"a" * 200_000)
            wait_until(lambda: files_in(tmp_path / "uploads") != [])
        wait_until(lambda: files_in(tmp_path / "uploads") == [])


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.hostile("held connections")
def test_two_hundred_held_connections_keep_nobody_waiting(
    app: Running, record_property: pytest.RecordProperty
) -> None:
    lines = [connected(app) for _ in range(200)]
    try:
        for number, line in enumerate(lines):
            line.sendall(JOIN[: 40 + number % 60].encode())
        for path in ("/healthz", "/config", "/gradio_api/info"):
            began = time.monotonic()
            assert httpx.get(app.url + path, timeout=20).status_code == 200
            assert time.monotonic() - began < 5
    finally:
        for line in lines:
            line.close()
    record_property("hostile inputs", len(lines))
