"""The app as it is served: without torch, and its endpoints for programs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from ftlab.basics.errors import FtlabError
from ftlab.basics.recent import Recent
from ftlab.jobs import inputs
from ftlab.records.run import RunDirectory
from ftlab.tabs import app
from ftlab.tabs.serve import Serving
from ftlab.tasks.files import ColumnMapping
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run

TINY = {
    "steps": 2,
    "eval_examples": 4,
    "settings": {"learning_rate": 1e-3, "device": "cpu", "eval_every": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[Client]:
    patch = pytest.MonkeyPatch()
    for module in ("ftlab.tabs.api", "ftlab.tabs.experiment.tab", "ftlab.jobs.control"):
        patch.setattr(f"{module}.start_dispatcher", lambda runs_folder: None)
    page = app.build_app(folder)
    page.queue(default_concurrency_limit=8)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **app.launch_options())
    try:
        yield Client(url, verbose=False)
    finally:
        page.close(verbose=False)
        patch.undo()


@pytest.mark.slow
def test_serving_the_page_imports_no_torch_and_sends_no_telemetry(tmp_path: Path) -> None:
    """The libraries read whether to send telemetry from the environment, as they are imported."""
    code = f"""
import sys
from pathlib import Path
from ftlab.tabs import app
import gradio.analytics, huggingface_hub.constants
from ftlab.tabs.serve import Serving
from ftlab.tabs.experiment import method_view
from ftlab.tasks.reference import TaskReference
page = app.build_app(Path({str(tmp_path)!r}))
page.launch(prevent_thread_lock=True, quiet=True, **app.launch_options())
at_start = {{"torch", "transformers", "peft", "datasets"}} & set(sys.modules)
method_view.task_preview("bundled", TaskReference("bundled", "sql"))
page.close(verbose=False)
print(sorted(at_start), "torch" in sys.modules, gradio.analytics.analytics_enabled(),
      huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY)
"""
    names = ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[] False False True"


def test_the_pages_own_styles_come_before_those_of_a_tab() -> None:
    head = app.page_head()
    assert head.index("#launch {") < head.index("#runs {")


def test_runs_that_nobody_works_on_get_a_dispatcher_as_the_app_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Served(Exception):
        pass

    def serve(*args: Any, **kw: Any) -> None:
        raise Served

    started: list[Path] = []
    monkeypatch.setattr("ftlab.jobs.control.start_dispatcher", started.append)
    monkeypatch.setattr("gradio.Blocks.launch", serve)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(Served):
        app.launch(tmp_path, Serving(port=port))
    assert started == []
    make_run(tmp_path, "lora", "queued")
    with pytest.raises(Served):
        app.launch(tmp_path, Serving(port=port))
    assert started == [tmp_path]


def test_an_address_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        used = ("127.0.0.1", other.getsockname()[1])
        for host, port in (used, ("no.such.host.invalid", 7999), ("127.0.0.1", 70000)):
            sentence = f"{port}.*choose another with --port or --host"
            with pytest.raises(FtlabError, match=sentence):
                app.launch(tmp_path, Serving(host, port))


def test_only_the_named_endpoints_are_offered(client: Client) -> None:
    offered = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert {"/launch_sweep", "/cancel", "/runs"} <= set(offered)
    assert not [name for name in offered if name.startswith(("/check", "/refresh", "/press"))]


def test_a_sweep_is_launched_and_cancelled_by_a_program(client: Client, folder: Path) -> None:
    made = client.predict(
        methods=["lora", "qlora:r=4"], seeds="0,1", api_name="/launch_sweep", **TINY
    )
    assert len(made["run_ids"]) == 6  # two base runs, two variants of two seeds
    rows = [row for row in client.predict(api_name="/runs") if row["sweep_id"] == made["sweep_id"]]
    assert [row["variant"] for row in rows] == ["LoRA", "QLoRA r=4"] * 2
    assert {row["status"] for row in rows} == {"queued"}
    one = made["run_ids"][2]
    assert RunDirectory(folder / one).spec().settings.eval_every == 1
    assert client.predict(run_ids=[one], api_name="/cancel") == [one]
    assert client.predict(sweep_id=made["sweep_id"], api_name="/cancel") == made["run_ids"]


def test_rows_have_two_names_and_can_be_filtered(client: Client, folder: Path) -> None:
    run = make_run(folder, "lora", measures={"tokens_per_second": None})
    make_run(folder, "qlora", "failed", sweep_id="20260101-000000-aaaa")
    rows = client.predict(api_name="/runs")
    (row,) = [row for row in rows if row["run_id"] == run.run_id]
    assert row["trainable_params"] == 2_442_240
    assert row["tokens_per_second"] is None
    assert str(folder) not in str(row)
    assert client.predict(api_name="/results") == rows
    found = client.predict(sweep="20260101-000000-aaaa", text="failed", api_name="/results")
    assert [row["method"] for row in found] == ["qlora"]
    assert found == [row for row in rows if row["sweep_id"] == "20260101-000000-aaaa"]


def test_columns_and_metric_of_a_file_are_those_of_the_call(client: Client, folder: Path) -> None:
    file = folder / "mine.csv"
    file.write_text("q,a,other\n" + "".join(f"q{i},a{i},x{i}\n" for i in range(20)))
    made = client.predict(
        task=str(file),
        methods=["lora"],
        columns={"prompt": "q", "completion": "other"},
        metric="exact_match",
        api_name="/launch_sweep",
        **TINY,
    )
    task = RunDirectory(folder / made["run_ids"][0]).spec().task
    assert task.mapping == ColumnMapping(prompt="q", completion="other")
    assert task.metric == "exact_match"


def test_columns_config_and_split_of_a_hub_task_are_those_of_the_call(
    client: Client, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"chat": [{"role": "user", "content": f"{n} + 1?"}, {"role": "assistant", "content": "?"}]}
        for n in range(40)
    ]
    monkeypatch.setattr(inputs, "load_hub_rows", lambda *named: rows)
    monkeypatch.setattr(inputs, "_HUB_ROWS", Recent(2))
    made = client.predict(
        task="hub:owner/name",
        methods=["lora"],
        columns={"messages": "chat"},
        hub_config="small",
        hub_split="test",
        api_name="/launch_sweep",
        **TINY,
    )
    assert RunDirectory(folder / made["run_ids"][0]).spec().task == TaskReference(
        "hub", "owner/name", ColumnMapping(messages="chat"), config="small", split="test"
    )


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"methods": ["lorra"]}, "There is no method 'lorra'"),
        ({"methods": []}, "No method is chosen"),
        ({"steps": -1}, "Steps is -1"),
        ({"seeds": "a"}, "Seeds 'a'"),
        ({"task": "nope"}, "There is no task 'nope'"),
        ({"model": "/nope"}, "There is no model folder"),
        ({"settings": {"nope": 1}}, "There is no setting 'nope'"),
        ({"settings": {"learning_rate": "nan"}}, "Learning rate is 'nan'"),
        ({"settings": {"schedule": "weird"}}, "'weird' is none of"),
        ({"settings": {"gradient_checkpointing": "maybe"}}, "Gradient checkpointing is 'maybe'"),
        ({"settings": {"steps": "many"}}, "Steps is 'many'"),
        ({"task": "hub:owner/name", "columns": {"promt": "q"}}, "no column role 'promt'"),
        ({"task": "hub:owner/name", "columns": {"prompt": "q"}}, "No column is set for the compl"),
        ({"task": "hub:owner/name", "columns": {"prompt": 3}}, "must be an object of texts"),
        ({"task": "hub:owner/name", "columns": ["q"]}, "must be an object of texts"),
        ({"task": "hub:owner/name", "metric": "nope"}, "There is no metric 'nope'"),
        ({"columns": {"prompt": "q"}}, "has its own columns"),
    ],
)
def test_a_wrong_call_is_told_why(
    client: Client, folder: Path, wrong: dict[str, Any], sentence: str
) -> None:
    before = sorted(os.listdir(folder))
    with pytest.raises(AppError, match=sentence):
        client.predict(api_name="/launch_sweep", **wrong)
    assert sorted(os.listdir(folder)) == before


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"run_ids": ["../x"]}, "There is no run or sweep"),
        ({"sweep_id": "nope"}, "There is no run or sweep 'nope'"),
        ({"run_ids": "all"}, "'run_ids' must be a list of ids"),
        ({"sweep_id": 3}, "'sweep_id' must be a text"),
    ],
)
def test_what_is_no_run_cannot_be_cancelled(
    client: Client, wrong: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(AppError, match=sentence):
        client.predict(api_name="/cancel", **wrong)


def test_an_event_without_an_overlay_leaves_no_status_in_the_browser(tmp_path: Path) -> None:
    """gradio would write a status into all outputs of such events whenever any event runs."""
    events = app.build_app(tmp_path).get_config_file()["dependencies"]
    hidden = [one for one in events if one["show_progress"] == "hidden" and one["targets"]]
    assert len(hidden) > 100
    assert [one["api_name"] for one in hidden if one["show_progress_on"] != []] == []
