"""Tools for agents at `/mcp`, called with the official client as an agent calls them."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from ftlab.basics.bearer import read_tokens
from ftlab.basics.errors import FtlabError
from ftlab.methods.registry import METHODS
from ftlab.tabs.agents import VARIABLE, read_agents
from ftlab.tabs.serve import Accounts, serving
from tests.asynchronous import run
from tests.fakes import make_sweep
from tests.processes import App

TOKEN = "a-token-that-nobody-guesses"
NAMES = {
    "methods", "predict", "launch_sweep", "race", "status", "results", "compare", "report",
    "cancel",
}  # fmt: skip


class ServedApp(App):
    """With tools for agents."""

    def call(self, name: str, /, **arguments: Any) -> Any:
        """What the tool returned; raises `AssertionError` with its sentence if it refused."""
        said = self.asked(lambda client: client.call_tool(name, arguments))
        text = "\n".join(block.text for block in said.content)
        assert not said.is_error, text
        try:
            return json.loads(text)
        except ValueError:
            return text

    def asked(self, question: Callable[[Client], Any], token: str = TOKEN) -> Any:
        async def ask() -> Any:
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx2.AsyncClient(headers=headers, timeout=90) as http:
                way = streamable_http_client(f"{self.url}/mcp", http_client=http)
                async with Client(way) as client:
                    return await question(client)

        return run(ask())


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    patch = pytest.MonkeyPatch()
    patch.setenv(VARIABLE, TOKEN)
    served = ServedApp(tmp_path_factory.mktemp("runs"))
    make_sweep(served.runs, methods=("full", "lora"))
    served.start("--mcp")
    try:
        yield served
    finally:
        served.stop()
        patch.undo()


@pytest.mark.slow
def test_an_agent_is_told_of_every_tool_and_of_each_of_its_arguments(app: ServedApp) -> None:
    tools = app.asked(lambda client: client.list_tools()).tools
    assert {tool.name for tool in tools} == NAMES
    for tool in tools:
        assert len(tool.description) > 40
        for argument in tool.input_schema["properties"]:
            assert f"{argument}:" in tool.description, f"{tool.name} does not explain {argument}"
    changes = {tool.name for tool in tools if not tool.annotations.read_only_hint}
    assert changes == {"launch_sweep", "race", "cancel"}


@pytest.mark.slow
def test_an_agent_reads_what_each_method_is_good_for_and_weak_at(app: ServedApp) -> None:
    rows = {row["id"]: row for row in app.call("methods")}
    assert rows.keys() == METHODS.keys()
    assert rows["lora"]["good_for"] == METHODS["lora"].good_for
    assert rows["lora"]["weak_at"] == METHODS["lora"].weak_at


@pytest.mark.slow
def test_an_agent_predicts_trains_waits_compares_and_reports(
    app: ServedApp, tiny_model: Path, task_file: Path
) -> None:
    asked = {"methods": ["full", "lora:r=4"], "device": "rtx-4090", "settings": {"length": 128}}
    predicted = app.call("predict", **asked)
    assert [row["verdict"] for row in predicted] == ["fits", "fits"]
    assert predicted[0]["trainable_params"] > 100 * predicted[1]["trainable_params"]
    made = app.call(
        "launch_sweep", model=str(tiny_model), task=str(task_file), methods=["lora:r=4"],
        steps=4, batch_size=2, eval_examples=4, settings={"device": "cpu"},
    )  # fmt: skip
    found = {"is_done": False}
    for _ in range(6):
        found = app.call("status", id=made["sweep_id"], wait_seconds=50)
        if found["is_done"]:
            break
    assert {run["status"] for run in found["runs"]} == {"done"}, found
    compared = app.call("compare", sweep_id=made["sweep_id"])
    assert [run["variant"] for run in compared["runs"]] == ["LoRA r=4"]
    assert all(run["net_peak_memory_bytes"] > 0 for run in compared["runs"])
    assert compared["recommendation"]["sentence"]
    short, long = (
        app.call("results", sweep_id=made["sweep_id"], every_measure=every, most=1)[0]
        for every in (False, True)
    )
    assert short["sweep_id"] == made["sweep_id"]
    assert short.items() <= long.items()
    assert len(short) < 30 < len(long)
    report = app.call("report", sweep_id=made["sweep_id"])
    assert report.startswith("# ")
    assert "LoRA r=4 |" in report
    assert "python -m ftlab sweep" in report


@pytest.mark.slow
def test_a_race_answers_like_one_of_the_page_and_can_be_ended(
    app: ServedApp, tiny_model: Path, task_file: Path
) -> None:
    race = app.call(
        "race", model=str(tiny_model), task=str(task_file), methods=["lora", "ia3"], minutes=0.5,
        settings={"device": "cpu", "steps": 4, "batch_size": 2},
    )["race_id"]  # fmt: skip
    assert {one["candidate"] for one in app.call("status", id=race)["standings"]} >= {"LoRA"}
    assert app.call("cancel", id=race) == [race]
    ended = app.call("status", id=race, wait_seconds=50)
    assert ended["status"] == "cancelled"
    assert ended["answer"] or ended["reason"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("predict", {"modle": "bundled"}, "predict has no argument 'modle'; it takes: model,"),
        ("predict", {"settings": {"lenght": 3}}, "A step has no setting 'lenght'; settings: len"),
        ("predict", {"settings": {"length": -3}}, "Longest example is -3"),
        ("predict", {"methods": "lora"}, "Input should be a valid list"),
        ("launch_sweep", {"task": "no such task"}, "no such task"),
        ("race", {"prefer": "speed"}, "Prefer is 'speed'; it must be one of: memory, time"),
        ("status", {"id": "nothing"}, "There is no sweep, run or race 'nothing'"),
        ("report", {"sweep_id": "../../etc"}, "etc"),
        ("cancel", {"id": "nothing"}, "There is no run or sweep 'nothing'"),
        ("train", {}, "Unknown tool"),
    ],
)
def test_a_wrong_call_is_answered_with_a_sentence_and_starts_nothing(
    tool: str, arguments: Mapping[str, Any], sentence: str, app: ServedApp
) -> None:
    before = sorted(os.listdir(app.runs))
    said = app.asked(lambda client: client.call_tool(tool, dict(arguments)))
    assert said.is_error
    assert sentence in said.content[0].text
    assert "Traceback" not in said.content[0].text
    assert sorted(os.listdir(app.runs)) == before


def answered(app: App, *, method: str = "POST", body: bytes = b"{}", **headers: str) -> int:
    """The status of a plain request to `/mcp`."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    request = urllib.request.Request(
        f"{app.url}/mcp", body if method == "POST" else None,
        {"Content-Type": "application/json", "Accept": "application/json"} | named, method=method,
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return cast(int, answer.status)
    except urllib.error.HTTPError as error:
        return error.code


WITH_TOKEN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"method": "GET"}, 405),
        ({"Origin": "https://elsewhere.example"}, 403),
        ({"Host": "elsewhere.example"}, 403),
        ({"body": b"{"}, 400),
    ],
)
def test_a_page_of_another_site_and_what_is_no_call_are_refused(
    headers: dict[str, Any], status: int, app: ServedApp
) -> None:
    assert answered(app, **WITH_TOKEN, **headers) == status


@pytest.mark.slow
def test_wrong_tokens_are_limited_like_log_ins_and_the_right_one_still_works(
    app: ServedApp,
) -> None:
    for wrong in ({}, {"Authorization": f"Basic {TOKEN}"}):
        assert answered(app, **wrong) == 401
    tried = [answered(app, Authorization=f"Bearer {TOKEN}x") for _ in range(12)]
    assert tried[0] == 401
    assert tried[-1] == 429
    assert app.call("status")["is_done"] is True


@pytest.mark.parametrize("where", ["--host", "--share", "a demo", "a login"])
def test_where_others_reach_it_the_app_does_not_start_without_a_token(where: str) -> None:
    host = "0.0.0.0" if where == "--host" else "127.0.0.1"
    space = {"SPACE_ID": "ada/demo"} if where == "a demo" else {}
    accounts = Accounts({"ada": "a long password"} if where == "a login" else {})
    served = serving(host, 7860, where == "--share", accounts, (), (), space)
    token = read_tokens(VARIABLE, {VARIABLE: TOKEN})
    with pytest.raises(FtlabError, match=f"needs a token; set {VARIABLE}"):
        replace(served, agents=read_tokens(VARIABLE, {})).check()
    if where in ("a demo", "a login"):
        replace(served, agents=token).check()


def test_the_token_is_taken_out_of_the_environment_and_one_that_can_be_guessed_is_refused() -> None:
    environment = {VARIABLE: f" {TOKEN}\n"}
    token = read_agents(environment)
    assert not environment
    assert TOKEN not in repr(token)
    assert token.refusal(f"bearer {TOKEN}") == ""
    for secret, rule in (("short", "give at least 16"), ("é" * 20, "printable ASCII")):
        with pytest.raises(FtlabError, match=rule):
            read_agents({VARIABLE: secret})
