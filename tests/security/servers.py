"""Apps that really listen on a port of this machine, for requests as a stranger would send them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import gradio as gr
import httpx

from ftlab.basics.files import recorded_folder
from ftlab.basics.people import asked_by
from ftlab.playground.client import PlaygroundClient
from ftlab.prediction.client import Predictor
from ftlab.records.store import RunStore
from ftlab.tabs import app
from ftlab.tabs.agents import agents_route
from ftlab.tabs.context import AppContext
from ftlab.tabs.serve import Accounts, Serving, health_route
from tests.playground.test_client import FAKE
from tests.prediction.fakes import SizedPredictor
from tests.processes import close_at_once, free_port

USER, PASSWORD = "ada", "correct horse"
ACCOUNTS = Accounts({USER: PASSWORD})


class Running(NamedTuple):
    """An app that listens at `url`."""

    url: str
    context: AppContext
    page: gr.Blocks

    @property
    def runs(self) -> Path:
        return self.context.runs_folder


@contextmanager
def running(served: Serving, runs: Path, predictor: Predictor | None = None) -> Iterator[Running]:
    """The app on that folder; its workers are fakes, its page and its server are the real ones.

    `predictor` replaces the fake one that predicts 1 GB.
    """
    served = replace(served, port=free_port())
    access = served.access(runs)
    context = AppContext(
        runs,
        RunStore(runs, recorded_folder()),
        PlaygroundClient(runs, FAKE, access=access),
        predictor=predictor or SizedPredictor(lambda question: 1),
        access=access,
    )
    with asked_by(served.people.person(None)):
        page = app.build_page(context)
    app.open_queue(page)
    routes = [health_route(context.store)]
    if served.agents is not None:
        routes.append(agents_route(context))
    served.launch(page, routes, **app.launch_options())
    try:
        yield Running(f"http://127.0.0.1:{served.port}", context, page)
    finally:
        close_at_once(page)
        context.playground.close()


def connected(app: Running, sent: bytes = b"") -> socket.socket:
    """A bare connection to it, over which `sent` was sent."""
    address = urlsplit(app.url)
    line = socket.create_connection((str(address.hostname), int(address.port or 80)), 30)
    line.sendall(sent)
    return line


def log_in(url: str, user: str = USER, password: str = PASSWORD) -> httpx.Client:
    data = {"username": user, "password": password}
    answer = httpx.post(f"{url}/login", data=data, timeout=30).raise_for_status()
    return httpx.Client(base_url=url, timeout=30, cookies=answer.cookies)


def call(client: httpx.Client, name: str, **values: Any) -> tuple[bool, Any]:
    """Calls an endpoint by its name as a program does: whether it was done, and what it said."""
    joined = client.post(f"/gradio_api/call/v2/{name}", json=values)
    if joined.status_code != 200:
        return False, joined.text
    return _heard(client, f"/gradio_api/call/{name}/{joined.json()['event_id']}")


def press(
    client: httpx.Client, number: int, data: list[Any], session: str, event: Any = None
) -> tuple[bool, str]:
    """Fires an event of the page by its number, whether the page shows what fires it or not."""
    body = {
        "data": data, "fn_index": number, "session_hash": session, "event_data": event,
        "trigger_id": None,
    }  # fmt: skip
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return False, joined.text
    with client.stream("GET", f"/gradio_api/queue/data?session_hash={session}") as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                message = json.loads(line[5:])
                if message["msg"] == "process_completed":
                    return bool(message["success"]), json.dumps(message["output"])
                if message["msg"] in ("unexpected_error", "close_stream"):
                    return False, str(message)
    return False, "closed"


def _heard(client: httpx.Client, path: str) -> tuple[bool, Any]:
    event = ""
    with client.stream("GET", path) as answer:
        for line in answer.iter_lines():
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
            elif line.startswith("data:") and event in ("complete", "error"):
                return event == "complete", json.loads(line.removeprefix("data:"))
    return False, "nothing was said"


def tree(folder: Path) -> dict[str, int]:
    """Every path below the folder with its size, but for the log of the playground's worker."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.name != "playground.log"
    }
