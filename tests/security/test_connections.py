"""Connections that ask for nothing: they are ended, and keep nobody else from being answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ftlab.tabs import gate
from ftlab.tabs.gate import bound_connections
from ftlab.tabs.serve import Serving
from tests.security.servers import Running, connected, running
from tests.waiting import wait_until

MOST = 40
HALF = b"GET /config HTTP/1.1\r\nHost: 127"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(Serving(), tmp_path_factory.mktemp("runs")) as found:
        bound_connections(found.page, MOST)
        yield found


def drain(line: socket.socket) -> None:
    """Reads until the app ends the connection."""
    while line.recv(65536):
        pass


@pytest.mark.hostile("held connections")
def test_connections_without_a_request_give_way_to_one_with(
    app: Running, record_property: pytest.RecordProperty
) -> None:
    lines = [connected(app, HALF[: number % len(HALF)]) for number in range(5 * MOST)]
    try:
        for _ in range(5):
            assert httpx.get(f"{app.url}/healthz", timeout=20).status_code == 200
        wait_until(lambda: len(app.page.server.server_state.connections) <= MOST + 1)
    finally:
        for line in lines:
            line.close()
    record_property("hostile inputs", len(lines))


@pytest.mark.hostile("held connections")
def test_where_all_are_being_answered_the_next_one_reads_when_to_try_again(app: Running) -> None:
    ask = b"GET /gradio_api/heartbeat/%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    lines = []
    try:
        for number in range(MOST):
            lines.append(connected(app, ask % number))
            assert lines[-1].recv(12) == b"HTTP/1.1 200"
        answer = httpx.get(f"{app.url}/config", timeout=20)
        assert answer.status_code == 503
        assert "try again in some seconds" in answer.text
        assert answer.headers["retry-after"] == "10"
    finally:
        for line in lines:
            line.close()


@pytest.mark.slow
@pytest.mark.hostile("held connections")
def test_a_head_that_does_not_come_ends_the_connection_and_a_long_answer_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: pytest.RecordProperty
) -> None:
    monkeypatch.setattr(gate, "HEAD_SECONDS", 0.5)
    ask = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    held = [b"", HALF, ask % b"/" + HALF]
    with (
        running(Serving(), tmp_path) as app,
        connected(app, ask % b"/gradio_api/heartbeat/x") as answered,
    ):
        assert answered.recv(65536).startswith(b"HTTP/1.1 200")
        for sent in held:
            with connected(app, sent) as line:
                line.settimeout(120)
                drain(line)
        answered.settimeout(0.5)
        with pytest.raises(TimeoutError):
            drain(answered)
    record_property("hostile inputs", len(held))
