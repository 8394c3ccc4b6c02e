"""The public demo: every endpoint and every event of the page is tried, and nothing is written."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ftlab.basics.files import assets_folder
from ftlab.jobs.inputs import DEMO_REFUSAL
from ftlab.tabs.serve import VARIABLE, Serving
from tests.processes import start_app
from tests.security.servers import Running, call, free_port, press, running, tree

DEMO = Serving(space="ada/ftlab")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with DEMO.runs_folder(tmp_path_factory.mktemp("runs")) as runs, running(DEMO, runs) as app:
        yield app


@pytest.fixture
def client(demo: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.url, timeout=60) as client:
        yield client


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("launch_sweep", {}),
    ("launch_sweep", {"methods": ["lora"], "steps": 1}),
    ("launch_sweep", {"task": "/etc/passwd"}),
    ("launch_sweep", {"task": "hub:owner/name"}),
    ("launch_sweep", {"model": "gpt2"}),
    ("launch_sweep", {"model": "/etc"}),
    ("cancel", {}),
    ("cancel", {"run_ids": ["20261125-221850-9f1d-01-lora"]}),
    ("cancel", {"sweep_id": "20261125-221850-9f1d"}),
    ("generate", {"prompt": "Hello", "model": "gpt2"}),
    ("generate", {"prompt": "Hello", "model": "/etc"}),
    ("generate", {"prompt": "Hello", "model": "../../etc"}),
    ("generate", {"prompt": "Hello", "model": "C:\\models"}),
]


@pytest.mark.hostile("changes to a public demo")
@pytest.mark.parametrize(("name", "values"), REFUSED)
def test_an_endpoint_that_would_change_or_fetch_something_is_refused_in_a_sentence(
    name: str,
    values: dict[str, Any],
    demo: Running,
    client: httpx.Client,
    started: list[list[str]],
) -> None:
    before = tree(demo.runs)
    done, said = call(client, name, **values)
    assert not done
    text = json.dumps(said)
    assert "public demo" in text or "may be named here" in text
    assert text.count(". ") == 0
    assert tree(demo.runs) == before
    assert started == []


def test_every_endpoint_is_either_refused_above_or_only_reads(demo: Running) -> None:
    """A new endpoint has to be put into one of the two lists."""
    named = httpx.get(f"{demo.url}/gradio_api/info", timeout=30).json()["named_endpoints"]
    assert {name.strip("/") for name in named} == {name for name, _ in REFUSED} | READS


READS = {"runs", "results"}


def test_the_recorded_sweeps_are_read(client: httpx.Client) -> None:
    for name in READS:
        done, said = call(client, name)
        assert done
        assert len(said[0]) > 10
        assert {row["origin"] for row in said[0]} == {"recorded"}


def test_the_adapters_that_ship_answer(client: httpx.Client) -> None:
    done, said = call(client, "generate", prompt="Hello", runs=["base", "shipped:sql"])
    assert done, said
    assert [pane["error"] for pane in said[0]] == ["", ""]


@pytest.mark.hostile("changes to a public demo")
@pytest.mark.parametrize("path", ["upload", "upload/", "upload?upload_id=x"])
def test_no_file_is_taken(path: str, demo: Running, client: httpx.Client) -> None:
    answer = client.post(f"/gradio_api/{path}", files={"files": ("a.csv", b"a,b\n1,2\n")})
    assert answer.status_code == 403
    assert answer.text == DEMO_REFUSAL


@pytest.mark.slow
@pytest.mark.hostile("changes to a public demo")
def test_no_event_of_the_page_writes_or_starts_anything(
    demo: Running,
    client: httpx.Client,
    started: list[list[str]],
    record_property: pytest.RecordProperty,
) -> None:
    """Each is fired as a script would fire it, hidden controls and all, in the page's own order, so
    that what one keeps (ticked rows, an opened run) is there for the next."""
    config = client.get("/config").json()
    components = {part["id"]: part for part in config["components"]}
    rows = [run.run_id for run in demo.context.store.shipped()][:2]
    event = {"run": rows[0], "on": [*rows, "lora"], "at": time.time() * 1000, "settings": {}}
    before, shipped = tree(demo.runs), tree(assets_folder())
    fired, tracebacks = 0, []
    for dependency in config["dependencies"]:
        if not dependency["backend_fn"]:
            continue
        data = [_value(components[part]) for part in dependency["inputs"]]
        fired += 1
        done, said = press(client, dependency["id"], data, "stranger", event)
        if not done and "unexpected_error" in said:
            tracebacks.append(said)
    assert fired > 80
    assert tree(demo.runs) == before
    assert tree(assets_folder()) == shipped
    assert [command for command in started if "ftlab.jobs.dispatcher" in command] == []
    assert all("fake_worker.py" in str(command) for command in started), started
    assert tracebacks == []
    record_property("hostile inputs", fired)


_FILES = itertools.cycle(["/etc/passwd", "/proc/self/environ"])


def _value(component: dict[str, Any]) -> Any:
    """What a component holds at first; where it is a file, one of the machine's."""
    if component["type"] in ("file", "uploadbutton", "downloadbutton"):
        return {"path": next(_FILES), "meta": {"_type": "gradio.FileData"}}
    return component["props"].get("value")


def test_the_page_says_what_can_be_done_and_how_to_do_the_rest(client: httpx.Client) -> None:
    page = json.dumps(client.get("/config").json())
    assert "https://huggingface.co/spaces/ada/ftlab?duplicate=true" in page
    assert page.count("Public demo.") == 6  # once a tab


def test_controls_that_would_be_refused_are_not_offered(client: httpx.Client) -> None:
    parts = [part["props"] for part in client.get("/config").json()["components"]]
    by_id = {part.get("elem_id"): part for part in parts}
    assert by_id["go"]["interactive"] is False
    assert by_id["results-import"]["visible"] is False
    assert by_id["pg-grid"]["visible"] is False
    offered = [part.get("value") for part in parts if part.get("visible") is not False]
    assert "Use my photo" not in offered
    assert "Upload an adapter …" not in offered
    kinds = [choice[1] for choice in by_id["f-model"]["choices"]]
    assert kinds == ["bundled"]
    assert [choice[1] for choice in by_id["f-task"]["choices"]] == ["sql", "shakespeare", "medical"]


@pytest.mark.slow
def test_a_space_without_secrets_serves_a_demo_and_none_of_the_machines_runs(
    tmp_path: Path,
) -> None:
    port = free_port()
    (tmp_path / "mine").mkdir()
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    environment |= {"SPACE_ID": "ada/ftlab", "GRADIO_SERVER_NAME": "0.0.0.0"}
    app = start_app(
        *("--port", str(port), "--runs-dir", str(tmp_path)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert app.stdout is not None
        said = app.stdout.readline()
        assert "ready" in said
        assert str(tmp_path) not in said
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            done, refused = call(client, "launch_sweep", methods=["lora"])
        assert not done
        assert "public demo" in json.dumps(refused)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]
    finally:
        app.send_signal(signal.SIGINT)
        app.wait(20)
