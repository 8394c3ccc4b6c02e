"""What the Playground tab shows and asks, without a browser."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from ftlab.playground.client import PlaygroundClient
from ftlab.playground.protocol import BASE, GenerateRequest, PaneUpdate
from ftlab.runs.store import Run, RunStore, read_run
from ftlab.ui import playground
from ftlab.ui.context import AppContext
from ftlab.ui.playground_view import (
    describe_settings,
    example_prompts,
    idle_html,
    make_request,
    pane_html,
    read_runs,
    run_label,
    setup,
    short_prompt,
    stopped_html,
    stream,
)
from tests.fakes import make_run, make_sweep

FAKE = [sys.executable, str(Path(__file__).parents[1] / "playground" / "fake_worker.py")]
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def client(tmp_path: Path) -> Iterator[PlaygroundClient]:
    client = PlaygroundClient(tmp_path, FAKE)
    yield client
    client.close()


def sweep(folder: Path) -> list[Run]:
    make_sweep(folder)
    return RunStore(folder).runs()


def test_without_runs_the_base_answers_alone() -> None:
    now = setup([])
    assert not now.has_runs
    assert now.panes == (BASE, "", "", "")
    assert [value for _, value in now.choices] == [BASE, ""]
    assert now.model == "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_base_and_the_newest_sweeps_first_runs_are_chosen(tmp_path: Path) -> None:
    make_sweep(tmp_path, ("lora",), sweep_id="20261101-120000-aaaa")
    runs = sweep(tmp_path)
    now = setup(runs)
    newest = [run.run_id for run in runs if run.spec.sweep_id.startswith("20261125")]
    own = [run_id for run_id in newest if not run_id.endswith("base")]
    assert now.panes == (BASE, *own[:3])
    assert all(not value.endswith("base") for _, value in now.choices if value != BASE)


def test_only_runs_that_are_done_can_be_chosen(tmp_path: Path) -> None:
    make_run(tmp_path, "lora", "failed")
    make_run(tmp_path, "lora", "queued")
    assert not setup(RunStore(tmp_path).runs()).has_runs


def test_a_choice_is_kept_and_a_deleted_run_makes_room(tmp_path: Path) -> None:
    runs = sweep(tmp_path)
    kept = setup(runs).panes[2]
    assert setup(runs, None, [BASE, kept, None, "gone"]).panes == (BASE, kept, "", "")


def test_runs_of_another_base_model_are_chosen_by_the_model(tmp_path: Path) -> None:
    sweep(tmp_path)
    other = make_run(tmp_path, "lora", model="someone/other", sweep_id="20261126-120000-bbbb")
    runs = RunStore(tmp_path).runs()
    newest = setup(runs)
    assert newest.model == "someone/other"
    assert newest.panes == (BASE, other.run_id, "", "")
    bundled = setup(runs, "bundled", newest.panes)
    assert other.run_id not in {value for _, value in bundled.choices}
    assert bundled.models == [
        ("someone/other", "someone/other"),
        ("SmolLM2-135M-Instruct (bundled)", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ]


def test_a_run_is_named_by_variant_task_time_and_number(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, "lora", hyperparameters={"r": 4}))
    assert run_label(run).startswith("LoRA r=4 · ")
    assert run_label(run).endswith(" · ab12-00")
    named = read_run(make_run(tmp_path, "lora", run_id="my-own-name"))
    assert run_label(named).endswith(" · my-own-name")


def test_examples_are_the_chosen_runs_held_out_prompts(tmp_path: Path) -> None:
    runs = sweep(tmp_path)
    texts = example_prompts(runs, setup(runs).panes)
    assert texts[0] == "singers(id, name, age)\nHow many singers are over 30?"
    assert short_prompt(texts[0]) == "How many singers are over 30?"
    assert len(example_prompts(runs, [BASE])) == 3


def test_a_request_takes_what_a_form_gives() -> None:
    request = make_request("hi", "", ["base", None, "", "r-1"], 96.0, 0.0, 3.0)
    assert request == GenerateRequest(("base", "r-1"), "hi", None, 96, 0.0, 3)
    assert isinstance(request.max_new_tokens, int)


def test_runs_may_be_a_list_or_text() -> None:
    assert read_runs("base, r-1,") == ["base", "r-1"]
    assert read_runs(["base", "r-1"]) == ["base", "r-1"]


def test_settings_are_read_from_the_folded_label() -> None:
    assert describe_settings(96.0, 0, 0) == "Greedy, 96 new tokens"
    assert describe_settings(64, 0.8, 2.0) == "Temperature 0.8, 64 new tokens, seed 2"
    assert describe_settings(None, None, None) == "Greedy, None new tokens"


def test_answers_stream_into_their_own_panes(client: PlaygroundClient, tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, "lora"))
    panes = ["", "base", None, run.run_id]
    request = make_request("hello", None, panes, 8, 0, 0)
    screens = list(stream(client, [run], request, panes))
    assert "hello by" not in screens[0].panes[1]
    assert "hello by" in screens[-1].panes[1]
    assert "hello by" in screens[-1].panes[3]
    assert "Choose who answers here" in screens[-1].panes[0]
    assert screens[-1].prompt == screens[-1].settings == screens[-1].choice == ""


def test_each_sentence_stands_beside_its_field(client: PlaygroundClient) -> None:
    panes = ["gone", None, None, None]
    request = make_request("", None, panes, 0, 9, 0)
    (screen,) = stream(client, [], request, panes)
    assert "The prompt is empty" in screen.prompt
    assert "New tokens: 0" in screen.settings
    assert "Temperature: 9" in screen.settings
    assert "There is no run &#39;gone&#39;" in screen.choice
    assert not client.is_loaded


@pytest.mark.parametrize("kind", ["status", "text", "done", "error"])
def test_nothing_from_a_model_is_html(kind: str, tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, "lora"))
    update = PaneUpdate(0, kind, EVIL, note=EVIL, adapter_sha256=EVIL)  # type: ignore[arg-type]
    shown = pane_html(run.run_id, run, update) + pane_html(EVIL, None, update)
    assert "<img" not in shown
    assert "&lt;img src=x" in shown


def test_a_finished_pane_shows_proof_and_speed(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path, "lora", hyperparameters={"r": 4}))
    done = PaneUpdate(
        1, "done", "SELECT 1", 12, 14.94, 0.243, 0.02, "A note.", "c41e" + "0" * 56 + "9b07"
    )
    shown = pane_html(run.run_id, run, done, 96)
    for part in (
        "LoRA r=4",
        "c41e…9b07",
        "<b>14.9</b> tok/s",
        "<b>0.24</b> s",
        "A note.",
        "12 tokens",
    ):
        assert part in shown
    assert "#2777e0" in shown
    assert "caret" not in shown
    assert "12 tokens, the limit" in pane_html(run.run_id, run, done, 12)


def test_a_stopped_pane_no_longer_says_that_it_answers() -> None:
    shown = pane_html(BASE, None, PaneUpdate(0, "text", "half"))
    assert "caret" in shown
    assert "answering" in shown
    assert "caret" not in stopped_html(shown)
    assert "stopped" in stopped_html(shown)
    waiting = stopped_html(pane_html(BASE, None, PaneUpdate(0, "status", "Waiting …")))
    assert "stopped" in waiting
    assert "Waiting" not in waiting
    assert stopped_html(None) == ""
    assert "no adapter: weights as shipped" in idle_html(BASE, {})


def test_programs_get_answers_and_sentences(client: PlaygroundClient, tmp_path: Path) -> None:
    run = make_run(tmp_path, "lora")
    context = AppContext(tmp_path, RunStore(tmp_path), client)
    with gr.Blocks() as page, gr.Tab("Playground"):
        playground.build(context)
    page.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False)
    try:
        remote = Client(page.local_url, verbose=False)
        for runs in (["base", run.run_id], f"base,{run.run_id}"):
            base, lora = remote.predict("hello", runs, api_name="/generate")
            assert base["run_id"] is None
            assert lora["run_id"] == run.run_id
            assert lora["answer"].startswith("hello by")
        with pytest.raises(AppError, match="There is no run 'gone'"):
            remote.predict("hello", "gone", api_name="/generate")
        names = [
            parameter["parameter_name"]
            for parameter in remote.view_api(return_format="dict")["named_endpoints"]["/generate"][
                "parameters"
            ]
        ]
        assert names == ["prompt", "runs", "max_new_tokens", "temperature", "seed", "model"]
    finally:
        page.close()
