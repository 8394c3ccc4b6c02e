"""Connections that ask for nothing: they are ended, and keep nobody else from being answered."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ftlab.tabs import gate
from ftlab.tabs.gate import bound_connections
from ftlab.tabs.serve import Serving
from tests.security.servers import Running, connected, running

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
        time.sleep(0.5)
        assert len(app.page.server.server_state.connections) <= MOST + 1
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


@pytest.mark.hostile("held connections")
@pytest.mark.parametrize("sent", [b"", HALF, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" + HALF])
def test_a_head_that_does_not_come_ends_the_connection(
    sent: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HEAD_SECONDS", 1.0)
    with running(Serving(), tmp_path) as app, connected(app, sent) as line:
        line.settimeout(20)
        drain(line)


def test_an_answer_that_takes_longer_than_a_head_may_is_not_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "HEAD_SECONDS", 0.5)
    ask = b"GET /gradio_api/heartbeat/x HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with running(Serving(), tmp_path) as app, connected(app, ask) as line:
        line.recv(65536)
        line.settimeout(2)
        with pytest.raises(TimeoutError):
            drain(line)
