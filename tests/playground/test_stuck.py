"""A worker whose answer makes no progress is ended with an error; the next prompt is answered."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ftlab.playground.client import PlaygroundClient
from ftlab.playground.requests import GenerateRequest, PaneUpdate

pytestmark = pytest.mark.slow

WORKER = str(Path(__file__).with_name("stuck_worker.py"))


@pytest.fixture
def client(runs_folder: Path) -> Iterator[PlaygroundClient]:
    client = PlaygroundClient(runs_folder, [sys.executable, WORKER, str(runs_folder)])
    yield client
    client.close()


def last(client: PlaygroundClient, prompt: str) -> PaneUpdate:
    return list(client.generate(GenerateRequest(("base",), prompt)))[-1]


@pytest.mark.fault("answer that hangs")
def test_an_answer_without_progress_is_ended_and_the_next_one_is_answered(
    client: PlaygroundClient,
) -> None:
    began = time.monotonic()
    said = last(client, "asleep")
    assert said.kind == "error"
    assert "(it showed no progress for minutes)" in said.text
    assert "a new one has been started, so send the prompt again" in said.text
    assert time.monotonic() - began < 50, "it was ended before it woke up"
    assert last(client, "hello").text == "hello is done"
    log = client.log_file.read_text(encoding="utf-8")
    assert "stuck_worker.py" in log, "the traceback"
    assert "It showed no progress for 1 seconds and was ended." in log


def test_an_answer_with_progress_is_not_ended(client: PlaygroundClient) -> None:
    assert last(client, "slow").text == "slow is done"


@pytest.mark.fault("answer that hangs after its reader has left")
def test_after_an_abandoned_answer_the_next_one_comes_soon(
    client: PlaygroundClient,
) -> None:
    updates = client.generate(GenerateRequest(("base",), "asleep"))
    assert next(update for update in updates if update.kind == "text")
    updates.close()
    assert last(client, "hello").text == "hello is done"


def test_the_wait_for_the_device_has_no_timeout(
    client: PlaygroundClient, runs_folder: Path
) -> None:
    from ftlab.basics.locks import DeviceLock

    training = DeviceLock("cpu")
    assert training.try_acquire()
    threading.Timer(3.5, training.release).start()  # longer than every timeout
    assert last(client, "hello").text == "hello is done"
