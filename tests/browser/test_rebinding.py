"""What a real browser lets a page of another site do to the app: nothing, whatever its name says.

A name that was turned round to 127.0.0.1 is played by the browser's own resolver.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.processes import App
from tests.security.servers import tree

pytestmark = [pytest.mark.browser, pytest.mark.slow]
REBOUND = "evil.example"


def records(app: App) -> dict[str, int]:
    """All that lies in the runs folder, but for the log, which notes what was refused."""
    return {name: size for name, size in tree(app.runs).items() if not name.endswith(".log")}


class OtherSite(BaseHTTPRequestHandler):
    """An empty page, on which the tests run the attacker's script."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>other site</title>")

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def other_site() -> Iterator[str]:
    """The address of a page on another port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), OtherSite)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def deceived(chromium: str) -> Iterator[Browser]:
    """A browser for which evil.example is this machine."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1, MAP *.{REBOUND} 127.0.0.1",
            ],
        )  # fmt: skip
        yield browser
        browser.close()


@pytest.fixture
def visitor(deceived: Browser) -> Iterator[Page]:
    context = deceived.new_context()
    yield context.new_page()
    context.close()


LAUNCH = {"data": [], "model": "bundled", "task": "sql", "methods": ["lora"], "steps": 1}

REQUESTS = [
    ("GET", "/"), ("GET", "/config"), ("GET", "/gradio_api/info"), ("GET", "/healthz"),
    ("GET", "/theme.css"), ("GET", "/logout"), ("GET", "/gradio_api/heartbeat/x"),
    ("GET", "/gradio_api/queue/data?session_hash=x"), ("GET", "/gradio_api/file=/etc/passwd"),
    ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/call/launch_sweep"),
    ("POST", "/gradio_api/call/v2/launch_sweep"), ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/cancel"), ("POST", "/login"),
]  # fmt: skip


@pytest.mark.hostile("pages of other sites in a browser")
@pytest.mark.parametrize("host", [REBOUND, f"127.0.0.1.{REBOUND}"])
def test_a_name_turned_round_to_this_machine_is_refused_everywhere(
    host: str, visitor: Page, app: App, record_property: pytest.RecordProperty
) -> None:
    before = records(app)
    page = visitor.goto(f"http://{host}:{app.port}/")
    assert page is not None
    assert page.status == 403
    # Of the same origin now, as the browser sees it: it hides no answer from the script.
    answers = visitor.evaluate(
        """([requests, body]) => Promise.all(requests.map(async ([method, path]) => {
            const stop = AbortSignal.timeout(10000);
            const more = method === "POST"
                ? {body, headers: {"content-type": "application/json"}} : {};
            return (await fetch(path, {method, signal: stop, ...more})).status;
        }))""",
        [REQUESTS, str(LAUNCH).replace("'", '"')],
    )
    refused = [path for (_, path), status in zip(REQUESTS, answers, strict=True) if status == 403]
    assert refused == [path for _, path in REQUESTS]
    assert records(app) == before
    record_property("hostile inputs", len(REQUESTS) + 1)


ATTACKS = {
    "a simple POST": """fetch(app + "/gradio_api/call/launch_sweep",
        {method: "POST", mode: "no-cors", credentials: "include", body})""",
    "a POST to the queue": """fetch(app + "/gradio_api/queue/join",
        {method: "POST", mode: "no-cors", credentials: "include", body})""",
    "a POST that asks first": """fetch(app + "/gradio_api/call/launch_sweep",
        {method: "POST", headers: {"content-type": "application/json"}, body})""",
    "a POST as it is sent when a page closes": """Promise.resolve(
        navigator.sendBeacon(app + "/gradio_api/call/launch_sweep", body))""",
    "an upload": """(() => { const form = new FormData();
        form.append("files", new Blob(["a,b\\n1,2\\n"]), "a.csv");
        return fetch(app + "/gradio_api/upload",
            {method: "POST", mode: "no-cors", credentials: "include", body: form}); })()""",
    "a GET that reads": """fetch(app + "/config")""",
    "a GET that reads with credentials": """fetch(app + "/config",
        {credentials: "include"})""",
    "a GET of a report": """fetch(app + "/gradio_api/info")""",
    "a stream": """new Promise((done, fail) => { const source = new EventSource(
        app + "/gradio_api/queue/data?session_hash=x"); source.onmessage = e => done(e.data);
        source.onerror = () => fail(new Error("closed")); })""",
    "a picture of the way out": """new Promise((done, fail) => { const image = new Image();
        image.onload = () => done("loaded"); image.onerror = () => fail(new Error("none"));
        image.src = app + "/logout"; })""",
    "a script of the app": """new Promise((done, fail) => {
        const script = document.createElement("script"); script.src = app + "/config";
        script.onload = () => done(Object.keys(window.gradio_config || {}).join());
        script.onerror = () => fail(new Error("none")); document.head.append(script); })""",
    "a frame": """new Promise((done, fail) => { const frame = document.createElement("iframe");
        frame.src = app + "/"; frame.onload = () => { try {
            done(frame.contentDocument.title); } catch (error) { fail(error); } };
        document.body.append(frame); })""",
    "a window": """(async () => { const other = window.open(app + "/");
        await new Promise(done => setTimeout(done, 500));
        const found = other.document; return found && found.title; })()""",
}


@pytest.mark.hostile("pages of other sites in a browser")
@pytest.mark.parametrize("host", ["127.0.0.1", REBOUND])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_page_of_another_origin_changes_nothing_and_reads_nothing(
    attack: str, host: str, visitor: Page, app: App, other_site: str
) -> None:
    before = records(app)
    visitor.goto(other_site.replace("127.0.0.1", host))
    read = visitor.evaluate(
        f"""([app, body]) => Promise.race([
            new Promise(done => setTimeout(() => done("waited"), 5000)),
            (async () => {{ try {{
                const got = await {ATTACKS[attack]};
                return got instanceof Response ? got.type + " " + got.status : String(got);
            }} catch (error) {{ return "refused"; }} }})(),
        ])""",
        [app.url, str(LAUNCH).replace("'", '"')],
    )
    assert read in ("refused", "waited", "opaque 0", "cors 403", "true", "", "null")
    assert records(app) == before


@pytest.mark.hostile("pages of other sites in a browser")
@pytest.mark.parametrize("target", ["_self", "_blank"])
@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data"])
def test_a_form_of_another_page_is_refused(
    kind: str, target: str, visitor: Page, app: App, other_site: str
) -> None:
    before = records(app)
    visitor.goto(other_site)
    with visitor.context.expect_event("response") as answer:
        visitor.evaluate(
            """([url, kind, target]) => { const form = document.createElement("form");
                Object.assign(form, {method: "POST", action: url, enctype: kind, target});
                const field = document.createElement("input");
                field.name = '{"data": ["bundled", "sql", ["lora"]], "x": "'; field.value = '"}';
                form.append(field); document.body.append(form); form.submit(); }""",
            [f"{app.url}/gradio_api/call/launch_sweep", kind, target],
        )
    assert answer.value.status == 403
    assert records(app) == before
