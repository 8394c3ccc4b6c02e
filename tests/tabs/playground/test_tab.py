"""The Playground tab as it is served: its endpoint for programs, and answers of a real engine."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from ftlab.jobs.inputs import EVERYTHING, demo_access
from ftlab.models.reference import BUNDLED_ID
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.requests import GenerateRequest, NextToken
from ftlab.records.run import RunDirectory
from ftlab.records.store import RunStore
from ftlab.settings.generation import GenerationSettings
from ftlab.settings.schema import fields_of
from ftlab.tabs.context import AppContext, Links
from ftlab.tabs.playground import api as playground_api
from ftlab.tabs.playground import tab as playground
from ftlab.tabs.playground.session import Session, ask, choose
from tests.fakes import make_run
from tests.playground.adapters import adapter_zip
from tests.playground.conftest import (  # noqa: F401 - fixtures
    add_run,
    runs_folder,
    save_adapter,
    tiny_model,
)
from tests.playground.test_client import FAKE
from tests.tabs.playground.fakes import HELD_OUT

PARAMETERS = {"prompt": inspect.Parameter.empty, "runs": "base", "model": ""} | {
    name: field.default for name, field in fields_of(GenerationSettings).items()
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def remote(folder: Path) -> Iterator[Client]:
    client = PlaygroundClient(folder, FAKE)
    with gr.Blocks() as page, gr.Tabs() as tabs, gr.Tab("Playground"):
        playground.build(AppContext(folder, RunStore(folder), client), Links.between(tabs))
    page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        yield Client(page.local_url, verbose=False)
    finally:
        page.close(verbose=False)
        client.close()


def generate(remote: Client, *args: Any, **more: Any) -> Any:
    return remote.predict(*args, api_name="/generate", **more)


def test_a_program_gets_each_panes_answer_whether_it_names_them_as_list_or_text(
    remote: Client, folder: Path
) -> None:
    run = make_run(folder, "lora", hyperparameters={"r": 4})
    for runs in (["base", run.run_id], f"base, {run.run_id}"):
        base, lora = generate(remote, "hello", runs)
        assert (base["name"], base["run_id"], base["label"]) == ("base", None, "Base")
        assert lora["name"] == lora["run_id"] == run.run_id
        assert lora["label"] == "LoRA r=4"
        assert lora["answer"].startswith("hello by")
        assert (lora["pane"], lora["error"]) == (1, "")


def test_the_endpoint_takes_every_setting_of_an_answer(remote: Client) -> None:
    offered = remote.view_api(return_format="dict", print_info=False)["named_endpoints"]
    parameters = offered["/generate"]["parameters"]
    assert {
        p["parameter_name"]: p["parameter_default"]
        if p["parameter_has_default"]
        else inspect.Parameter.empty
        for p in parameters
    } == PARAMETERS
    assert set(offered) == {"/generate"}, "the only endpoint for programs"


def test_the_base_answers_a_program_that_names_no_run_with_the_documented_fields(
    remote: Client,
) -> None:
    (base,) = generate(remote, "hello")
    assert base["answer"].startswith("hello by")
    words = inspect.getsource(playground_api).partition("For each pane:")[2].partition('"""')[0]
    told = {field.name for field in dataclasses.fields(NextToken)}
    assert set(re.findall(r"\w+", words)) == set(base) | told


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"prompt": " "}, "The prompt is empty"),
        ({"runs": []}, "0 panes are chosen"),
        ({"runs": ["base"] * 7}, "7 panes are chosen; choose 1 to 6"),
        ({"runs": 5}, "Runs: 5 names no pane; give a list"),
        ({"max_new_tokens": 0}, "New tokens is 0; it must lie between 1 and 1,024"),
        ({"max_new_tokens": 2.5}, "New tokens is '2.5'; it must be a whole number"),
        ({"temperature": 3}, "Temperature is 3; it must lie between 0 and 2"),
        ({"temperature": None}, "Temperature is empty"),
        ({"model": "/nope"}, "There is no model folder"),
        ({"mode": "essay"}, "'essay' is none of: chat, completion"),
        ({"precision": ["bf16"]}, "is none of: bf16, fp32, nf4"),
        ({"prompt": 7}, "'prompt' must be a text"),
        ({"prompt": None}, "'prompt' must be a text"),
        ({"system": ["Be brief."]}, "is no text; put it in quotes"),
        ({"model": 7}, "'model' must be a text"),
        ({"prompt": "", "seed": -1}, "The prompt is empty.*Seed is -1; it must lie between 0 and"),
    ],
)
def test_a_wrong_value_comes_back_as_a_sentence(
    remote: Client, wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AppError, match=sentence):
        generate(remote, **({"prompt": "hello"} | wrong))


def test_what_is_wrong_with_one_pane_is_said_in_that_pane_alone(
    remote: Client, folder: Path
) -> None:
    other = make_run(folder, "lora", model="someone/other")
    base, gone, wrong = generate(remote, "hello", ["base", "gone", other.run_id], model="bundled")
    assert base["error"] == ""
    assert "There is no run 'gone'" in gone["error"]
    assert "all panes share one base model" in wrong["error"]
    assert gone["answer"] == wrong["answer"] == ""


def test_an_engine_that_dies_is_said_and_the_next_call_is_answered(remote: Client) -> None:
    first, second = generate(remote, "die", ["base", "base"])
    assert first["answer"].startswith("die by")
    assert "ended before it had answered" in second["error"]
    assert generate(remote, "hello")[0]["error"] == ""


def test_an_uploaded_adapter_gets_a_free_pane_or_asks_for_room_and_is_forgotten_again(
    tmp_path: Path,
) -> None:
    context = AppContext(tmp_path, RunStore(tmp_path), PlaygroundClient(tmp_path))
    with gr.Blocks() as page, gr.Tabs() as tabs, gr.Tab("Playground"):
        playground.build(context, Links.between(tabs))
    handlers = {fn.fn.__name__: fn.fn for fn in page.fns.values() if fn.fn}
    file, six = str(adapter_zip(tmp_path / "mine.zip")), ["shipped:sql"] * 6
    error, count, room, newcomer, *panes = handlers["upload"](
        [file], BUNDLED_ID, 4, *six[:4], "", ""
    )
    assert (error, count, room["visible"], newcomer) == ("", 5, False, "")
    assert panes[4]["value"].startswith("adapter:mine")
    _, _, room, newcomer, *_ = handlers["upload"]([file], BUNDLED_ID, 6, *six)
    assert "Who makes room for mine?" in room["label"]
    *_, first, _, _, _, _, _ = handlers["make_room"](0, newcomer, BUNDLED_ID, *six)
    assert first["value"] == newcomer
    error, *panes = handlers["forget"](BUNDLED_ID, 6, newcomer, *six[1:])
    assert (error, panes[0]["value"]) == ("", "")
    wrong = tmp_path / "wrong.zip"
    wrong.write_bytes(b"no zip")
    assert 'role="alert"' in handlers["upload"]([str(wrong)], BUNDLED_ID, 4, *six)[0]


def test_the_engine_is_unloaded_by_the_button_but_not_in_a_demo(folder: Path) -> None:
    client = PlaygroundClient(folder, FAKE)
    client.generate_all(GenerateRequest(("base",), "hello"))
    context = AppContext(folder, RunStore(folder), client, access=demo_access("owner/space"))
    playground.unload(context)
    assert client.is_loaded
    playground.unload(replace(context, access=EVERYTHING))
    assert not client.is_loaded


# ---- a real engine on a tiny model


@pytest.mark.slow
def test_no_pane_ever_shows_the_answer_of_another(
    runs_folder: Path,  # noqa: F811
    tiny_model: Path,  # noqa: F811
    add_run: Callable[..., RunDirectory],  # noqa: F811
) -> None:
    """Whatever stands beside it, "base" says what the base says, and each adapter its own."""
    run, other = add_run("lora", seed=1), add_run("lora", seed=2)
    client = PlaygroundClient(runs_folder)
    asked = GenerateRequest((), "hello", str(tiny_model), precision="fp32", max_new_tokens=12)

    def answers(*names: str) -> dict[str, str]:
        session = choose(Session(), names, runs_folder)
        for _ in ask(session, asked, False, client, HELD_OUT):
            pass
        return {pane.name: pane.answer for pane in session.panes if pane.source}

    try:
        names = ["base", run.run_id, other.run_id]
        alone = {name: answers(name)[name] for name in names}
        assert len(set(alone.values())) == 3, "the adapters change nothing, so nothing is shown"
        for order in (names, names[::-1], ["", names[2], "", "base", names[1]]):
            assert answers(*order) == alone
    finally:
        client.close()
