"""A stranger's worst question in Plan takes little from others, and nothing once he has left."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import psutil
import pytest

from ftlab.prediction.client import Predictor
from ftlab.prediction.question import Limits, usual
from ftlab.tabs.serve import Serving
from tests.security.servers import Running, press, running
from tests.waiting import wait_until

pytestmark = pytest.mark.slow

DEMO = Serving(space="ada/ftlab")
LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 320, "max_position_embeddings": 4096,
}  # fmt: skip
SLOW = LLAMA | {"num_hidden_layers": 512}
SMALL = LLAMA | {"num_hidden_layers": 1}


LITTLE = {321: Limits(cpu_seconds=0.2), 322: Limits(60, memory_bytes=10_000_000)}
"""Limits of the configs with these vocabularies; others have the usual ones."""


def limits_of(config: Mapping[str, Any]) -> Limits:
    return LITTLE.get(config["vocab_size"]) or usual(config)


@pytest.fixture(scope="module")
def predictor() -> Iterator[Predictor]:
    with Predictor(limits_of=limits_of) as made:
        yield made


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, predictor: Predictor) -> Iterator[Running]:
    with (
        DEMO.runs_folder(tmp_path_factory.mktemp("runs")) as runs,
        running(DEMO, runs, predictor) as app,
    ):
        assert plan(app, SMALL, "first")[0]  # the worker is there
        yield app


@pytest.mark.hostile("model configs")
def test_more_layers_than_any_model_has_are_refused_at_once(demo: Running) -> None:
    began = time.monotonic()
    done, said = plan(demo, LLAMA | {"num_hidden_layers": 500_000}, "stranger")
    assert done
    assert "500,000; published models have at most 512 (layers)" in said
    assert time.monotonic() - began < 5
    assert not children(demo)


@pytest.mark.hostile("model configs")
def test_another_visitor_is_answered_meanwhile_and_nothing_is_left_behind(demo: Running) -> None:
    wait_until(lambda: not children(demo))
    before = worker(demo).memory_info().rss
    leaves = threading.Event()
    stranger = threading.Thread(target=join_and_leave, args=(demo, SLOW, leaves))
    stranger.start()
    try:
        wait_until(lambda: len(children(demo)) == 1)
        (child,) = children(demo)
        done, said = plan(demo, SMALL | {"vocab_size": 640}, "another")
        assert done
        assert "needs" in said
        assert child.is_running()
    finally:
        leaves.set()
        stranger.join(10)
    wait_until(lambda: not children(demo), 20)
    assert abs(worker(demo).memory_info().rss - before) < 20_000_000


@pytest.mark.hostile("model configs")
@pytest.mark.parametrize(
    ("vocabulary", "said"),
    [
        (321, "took more than 0.2 s of computing time"),
        (322, "took more than 10.0 MB of memory"),
    ],
)
def test_what_passes_the_bounds_and_takes_too_much_is_said_in_the_page(
    vocabulary: int, said: str, demo: Running
) -> None:
    config = LLAMA | {"num_hidden_layers": 100, "vocab_size": vocabulary}
    done, answer = plan(demo, config, f"stranger{vocabulary}")
    assert done
    assert said in answer


def plan(app: Running, config: dict[str, Any], session: str) -> tuple[bool, str]:
    """What the Plan tab shows at last for a pasted config."""
    number, data = request(app, config)
    with httpx.Client(base_url=app.url, timeout=120) as client:
        return press(client, number, data, session)


def join_and_leave(app: Running, config: dict[str, Any], leaves: threading.Event) -> None:
    """Asks as the page does, reads what comes, and closes the connection without a word."""
    number, data = request(app, config)
    body = {"data": data, "fn_index": number, "session_hash": "evil", "trigger_id": None}
    with httpx.Client(base_url=app.url, timeout=60) as client:
        client.post("/gradio_api/queue/join", json=body).raise_for_status()
        with client.stream("GET", "/gradio_api/queue/data?session_hash=evil") as answer:
            for _ in answer.iter_lines():
                if leaves.is_set():
                    return


def request(app: Running, config: dict[str, Any]) -> tuple[int, list[Any]]:
    """Number and values of the event that fires when a field of Plan changes."""
    (event,) = [
        function
        for function in app.page.fns.values()
        if getattr(function.fn, "__qualname__", "") == "build.<locals>.plan"
    ]
    data = [getattr(field, "value", None) for field in event.inputs]
    (place,) = [
        place
        for place, field in enumerate(event.inputs)
        if getattr(field, "label", "") == "config.json"
    ]
    data[place] = json.dumps(config)
    return event._id, data


def worker(app: Running) -> psutil.Process:
    number = app.context.predictor.process_id
    assert number is not None
    return psutil.Process(number)


def children(app: Running) -> list[psutil.Process]:
    return worker(app).children(recursive=True)
