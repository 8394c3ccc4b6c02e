"""What a page of another site can do to an app on loopback, and what is fetched: nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from starlette.datastructures import Headers

from ftlab.basics.addresses import is_this_machine
from ftlab.tabs.gate import Gate, GatedApp, is_same_site
from ftlab.tabs.requests import Refusal, json_refusal, text_of
from ftlab.tabs.serve import Serving
from tests.asynchronous import run
from tests.security.servers import ACCOUNTS, Running, call, connected, running, tree

OWN = ["localhost", "localhost:7860", "127.0.0.1", "127.0.0.1:7860", "[::1]:7860", "a.localhost"]
FOREIGN = [
    "evil.com", "evil.com:7860", "", "127.0.0.1.evil.com", "localhost.evil.com",
    "127.0.0.1@evil.com", "evil.com@127.0.0.1", "0.0.0.0", "0.0.0.0:7860", "192.168.1.7:7860",
    "[::]", "[::1", "::1::", "notlocalhost", "localhost,evil.com", "localhost evil.com",
    "2130706433", "0x7f000001", "[fe80::1]", "10.0.0.1", "localhost\u3002evil.com",
    "[::ffff:8.8.8.8]", "metadata.internal", "localhost:evil", "localhost/evil", "localhost?x",
    "localhost#x", "localhost:", "localhost:1:2", "127.0.0.1:0x1", "localhost\\@evil.com",
]  # fmt: skip


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    patch = pytest.MonkeyPatch()
    for module in ("ftlab.tabs.api", "ftlab.tabs.experiment.tab", "ftlab.jobs.control"):
        patch.setattr(f"{module}.start_dispatcher", lambda runs_folder: None)
    with running(Serving(), tmp_path_factory.mktemp("runs")) as found:
        yield found
    patch.undo()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(Serving(accounts=ACCOUNTS), tmp_path_factory.mktemp("closed")) as found:
        yield found


@pytest.mark.parametrize("host", OWN)
def test_this_machine_is_known_by_its_own_names(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.hostile("Host headers")
@pytest.mark.parametrize("host", FOREIGN)
def test_no_other_name_is_this_machine(host: str) -> None:
    assert not is_this_machine(host)


@pytest.mark.hostile("requests of pages of other sites")
@pytest.mark.parametrize(
    "said",
    [
        {"origin": "http://evil.com"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://127.0.0.1:8888"},
        {"origin": "http://localhost:7860"},
        {"origin": "http://127.0.0.1:7860.evil.com"},
        {"origin": "http://127.0.0.1:7860@evil.com"},
        {"origin": "http://["},
        {"origin": "file://"},
        {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "cross-site"},
        {"origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": ""},
        {"origin": "http://evil.com", "x-forwarded-host": "evil.com"},
    ],
)
def test_a_page_of_another_site_is_known_by_its_origin(said: dict[str, str]) -> None:
    assert not is_same_site(Headers({"host": "127.0.0.1:7860"} | said))


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"origin": "http://127.0.0.1:7860"},
        {"origin": "https://x.example", "sec-fetch-site": "same-origin"},  # behind a proxy
    ],
)
def test_the_apps_own_page_and_a_program_are_let_through(said: dict[str, str]) -> None:
    assert is_same_site(Headers({"host": "127.0.0.1:7860"} | said))


def test_this_app_starts_a_run_for_its_own_page(app: Running) -> None:
    """So that the refusals below are those of the gate."""
    url, runs = app.url, app.runs
    with httpx.Client(base_url=url, timeout=30, headers={"origin": url}) as client:
        done, said = call(client, "launch_sweep", methods=["lora"], steps=1)
    assert done, said
    assert list(runs.glob("*-lora"))


NO_CORS = {"sec-fetch-mode": "no-cors"}
VISIT = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.hostile("requests of pages of other sites")
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "/config", {}),
        ("GET", "/config", VISIT),
        ("GET", "/logout", VISIT),
        ("POST", "/logout", VISIT),
        ("POST", "/", VISIT),
        ("GET", "/", NO_CORS),
        ("GET", "/", VISIT | {"sec-fetch-dest": "iframe"}),
        ("GET", "/gradio_api/queue/data?session_hash=x", {"sec-fetch-mode": "cors"}),
        ("POST", "/gradio_api/call/runs", {}),
        ("OPTIONS", "/gradio_api/queue/join", {"access-control-request-method": "POST"}),
        ("OPTIONS", "/", {"access-control-request-method": "GET"}),
        ("GET", "/config", NO_CORS),
        ("GET", "/gradio_api/info", NO_CORS),
        ("GET", "/gradio_api/queue/data?session_hash=x", NO_CORS),
        ("GET", "/theme.css", NO_CORS),
        ("GET", "/gradio_api/file=/tmp/x", NO_CORS),
        ("POST", "/gradio_api/queue/join", NO_CORS),
        ("POST", "/gradio_api/cancel", NO_CORS),
    ],
)
def test_a_request_of_another_site_is_known_without_an_origin(
    site: str, method: str, path: str, said: dict[str, str], app: Running
) -> None:
    with httpx.Client(base_url=app.url, timeout=30) as client:
        answer = client.request(method, path, headers={"sec-fetch-site": site} | said)
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


def test_the_hub_shows_a_space_in_a_frame() -> None:
    framed = Headers(
        VISIT | {"host": "ada-ftlab.hf.space", "sec-fetch-site": "cross-site"}
        | {"sec-fetch-dest": "iframe"}
    )  # fmt: skip
    assert Serving(space="ada/ftlab").gate.refusal("GET", "/", framed) is None


@pytest.mark.hostile("requests of pages of other sites")
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.com"},
        {"origin": "null"},
        {"host": "evil.com"},
        {"host": "evil.com", "origin": "http://evil.com"},
        {"host": "evil.com", "origin": "http://evil.com", "sec-fetch-site": "same-origin"},
        {"origin": "http://evil.com", "content-type": "text/plain"},
    ],
)
def test_a_page_of_another_site_starts_nothing_and_uploads_nothing(
    headers: dict[str, str], app: Running, record_property: pytest.RecordProperty
) -> None:
    url, runs = app.url, app.runs
    before = tree(runs)
    body = json.dumps({"data": ["bundled", "sql", ["lora"]]}).encode()
    paths = ["call/launch_sweep", "call/v2/launch_sweep", "run/launch_sweep", "api/launch_sweep",
             "queue/join", "upload", "cancel"]  # fmt: skip
    with httpx.Client(base_url=url, timeout=30) as client:
        for path in paths:
            answer = client.post(
                f"/gradio_api/{path}", content=body,
                headers={"content-type": "application/json"} | headers,
            )  # fmt: skip
            assert answer.status_code == 403, path
            assert answer.text.count(". ") == 0
        assert client.get("/config", headers=headers).status_code == 403
    assert tree(runs) == before
    record_property("hostile inputs", len(paths) + 1)


ADDRESS = "http://169.254.169.254/latest/meta-data/"
FILE = {"path": ADDRESS, "meta": {"_type": "gradio.FileData"}}
FETCHING = [
    json.dumps({"data": [FILE]}).encode(),
    json.dumps({"data": [[[{"a": [FILE]}]]]}).encode(),
    json.dumps({"data": [FILE]}).encode("utf-16"),
    json.dumps({"data": [FILE]}).encode("utf-32"),
    json.dumps({"data": [FILE]}).replace("gradio", "\\u0067radio").encode(),
    json.dumps({"data": [FILE]}).replace("FileData", "File\\u0044ata").encode(),
    json.dumps({"data": [FILE]}).replace("http", "\\u0068ttp").encode(),
    json.dumps({"data": [FILE | {"path": "https://example.com/x"}]}).encode(),
    json.dumps({"data": [FILE | {"path": "HTTP://example.com/x"}]}).encode(),
    json.dumps(FILE).encode(),
]


@pytest.mark.hostile("addresses in place of an upload")
@pytest.mark.parametrize("body", FETCHING)
def test_an_address_in_place_of_an_upload_is_seen_however_it_is_written(body: bytes) -> None:
    text = text_of(body)
    refused = text if isinstance(text, Refusal) else run(json_refusal(text))
    assert refused is not None
    assert refused.status == (400 if b"\0" in body else 403)


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"data": [{"path": "/tmp/gradio/a/x.csv", "url": "http://x/file=/tmp/x",
                              "meta": {"_type": "gradio.FileData"}}]}).encode(),
        b'{"data": ["http://example.com is a prompt"]}',
        b"FileData {",
        b"",
    ],
)  # fmt: skip
def test_an_upload_and_a_text_are_let_through(body: bytes) -> None:
    text = text_of(body)
    assert isinstance(text, str)
    assert run(json_refusal(text)) is None


@pytest.mark.hostile("addresses in place of an upload")
def test_no_address_is_ever_fetched_for_a_visitor(
    app: Running,
    monkeypatch: pytest.MonkeyPatch,
    record_property: pytest.RecordProperty,
) -> None:
    url = app.url
    fetched: list[object] = []
    for name in ("async_ssrf_protected_download", "ssrf_protected_download"):
        monkeypatch.setattr(f"gradio.processing_utils.{name}", lambda *a, **k: fetched.append(a))
    gets = [
        f"/gradio_api/file={ADDRESS}", "/gradio_api/file=https://example.com/x",
        "/gradio_api/file=HTTP://example.com/x", "/gradio_api/file/http://example.com/x",
        f"/gradio_api/proxy={ADDRESS}", "/gradio_api/file=http%3A%2F%2Fexample.com",
        "/gradio_api/file=%68ttp://example.com", "/gradio_api/%66ile=http://example.com",
    ]  # fmt: skip
    with httpx.Client(base_url=url, timeout=30) as client:
        for path in gets:
            assert client.get(path).status_code == 403, path
        for body in FETCHING:
            for path in ("queue/join", "call/launch_sweep", "call/v2/launch_sweep"):
                answer = client.post(
                    f"/gradio_api/{path}", content=body,
                    headers={"content-type": "application/json"},
                )  # fmt: skip
                assert answer.status_code == (400 if b"\0" in body else 403), (path, body)
    assert fetched == []
    record_property("hostile inputs", len(gets) + 3 * len(FETCHING))


@pytest.mark.hostile("request bodies")
def test_a_body_without_end_is_not_kept(app: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(Serving().gate.body.max_bytes // 2**20 + 4):
            yield b"a" * 2**20

    with httpx.Client(base_url=app.url, timeout=30) as client:
        answer = client.post("/gradio_api/queue/join", content=endless())
    assert answer.status_code == 411


@pytest.mark.slow
@pytest.mark.hostile("request bodies")
def test_an_upload_above_the_limit_is_refused(app: Running) -> None:
    with httpx.Client(base_url=app.url, timeout=60) as client:
        files = {"files": ("big.csv", b"a" * (101 * 2**20))}
        answer = client.post("/gradio_api/upload", files=files)
    assert answer.status_code == 413
    assert "maximum allowed size" in answer.text


@pytest.mark.hostile("request bodies")
@pytest.mark.parametrize("size", [64 * 1024, 16 * 2**20])
@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/cancel", "/nothing"])
def test_a_body_without_a_session_is_refused_unread(path: str, size: int, closed: Running) -> None:
    """What was not read lies in the sockets' own buffers: the sender gets rid of little of it."""
    with connected(closed) as line:
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n"
        line.sendall(head.encode())
        with line.makefile("rb") as answers:
            assert answers.readline().startswith(b"HTTP/1.1 401 "), "by its head alone"
            answers.read()  # to the end of the connection
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            line.sendall(b"0" * 64 * 2**20)


def test_routes_that_the_page_does_without_are_closed() -> None:
    gate = Gate()
    for path in ("deep_link", "vibe-code/", "dev/reload", "mcp/sse", "mcp", "process_recording"):
        refused = gate.refusal("GET", f"/gradio_api/{path}", Headers({"host": "localhost"}))
        assert refused is not None
        assert refused.status == 404


def test_without_the_option_nothing_is_served_for_agents(app: Running) -> None:
    assert httpx.post(f"{app.url}/mcp", json={}, timeout=30).status_code == 405


def test_what_is_launched_stands_behind_the_gate(app: Running) -> None:
    assert isinstance(app.page.app, GatedApp)
