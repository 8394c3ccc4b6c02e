"""What each process that the app starts finds of the secrets in the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest

from ftlab.basics import devices
from ftlab.basics.processes import python_environment
from ftlab.jobs import peft_check
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.inputs import demo_access
from ftlab.jobs.launchers import local
from ftlab.methods.variant import Variant
from ftlab.models import bundled, download
from ftlab.operations.doctor import check_torch
from ftlab.playground.client import PlaygroundClient
from ftlab.playground.grid import GridRequest, start_grid
from ftlab.playground.requests import GenerateRequest
from ftlab.prediction.client import Predictor
from ftlab.prediction.question import Question, Step
from ftlab.records.run import RunDirectory
from ftlab.records.store import read_run
from ftlab.settings.training import TrainingSettings
from ftlab.share.bundle import zip_script
from ftlab.share.gguf_control import write_in_process
from ftlab.share.merge_control import start_merge
from ftlab.tasks.reference import TaskReference
from tests.fakes import make_run
from tests.playground.adapters import adapter_folder

OF_THE_HUB = {
    "HF_TOKEN": "hf_planted0001planted",
    "HUGGING_FACE_HUB_TOKEN": "hf_planted0002planted",
    "HUGGINGFACEHUB_API_TOKEN": "hf_planted0003planted",
    "HF_TOKEN_PATH": "/nowhere/planted-0004",
}
OTHERS = {
    "WANDB_API_KEY": "planted0005planted",
    "FTLAB_PASSWORD": "planted0006planted",
    "AWS_SECRET_ACCESS_KEY": "planted0007planted",
    "AWS_ACCESS_KEY_ID": "planted0008planted",
    "OPENAI_API_KEY": "planted0009planted",
    "GITHUB_TOKEN": "planted0010planted",
    "DB_PASSWD": "planted0011planted",
    "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/planted0012",
    "npm_config__auth": "planted0013planted",
}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The environments of the processes that were to be started; none is."""
    for name, value in (OF_THE_HUB | OTHERS).items():
        monkeypatch.setenv(name, value)
    for name in ("HF_HUB_OFFLINE", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)
    found: list[dict[str, str]] = []

    def start(*_: object, env: dict[str, str] | None = None, **__: object) -> NoReturn:
        found.append(dict(os.environ) if env is None else env)
        raise OSError(1, "not started")

    monkeypatch.setattr(subprocess, "Popen", start)
    return found


def run_of(folder: Path, **changes: Any) -> RunDirectory:
    directory = make_run(folder, "lora", **changes)
    adapter_folder(directory.adapter)
    return directory


def train(folder: Path, **changes: Any) -> None:
    local.start_worker(run_of(folder, **changes), "cpu")


def grid(folder: Path, model: str, task: TaskReference | None = None) -> None:
    request = GenerateRequest(prompt="", panes=("base",), model=model)
    start_grid(GridRequest(request, ("Hello",), task=task), folder)


def answer(folder: Path, **access: Any) -> None:
    client = PlaygroundClient(folder, **access)
    list(client.generate(GenerateRequest(prompt="Hello", panes=("base",))))


def to_space(folder: Path) -> None:
    os.environ["TRACKIO_SPACE_ID"] = "a/b"  # taken away by the fixture's patch
    settings = TrainingSettings(report_to=("trackio",))
    train(folder, settings=settings)


QUESTION = Question({"model_type": "llama"}, Variant("lora"), Step(64))
HUB_DATA = TaskReference("hub", "owner/data")

WITHOUT_NEED: dict[str, Callable[[Path], object]] = {
    "training on what lies here": train,
    "training on a local folder": lambda folder: train(folder, model="/models/x"),
    "merging": lambda folder: start_merge(read_run(run_of(folder))),
    "merging into a base of the Hub, in the cache": lambda folder: start_merge(
        read_run(run_of(folder, model="owner/model"))
    ),
    "a prompt grid": lambda folder: grid(folder, "bundled"),
    "a public demo's playground": lambda folder: answer(folder, access=demo_access()),
    "a prediction": lambda folder: list(Predictor().ask([QUESTION])),
    "the check of a PeftConfig": lambda folder: peft_check._answer('{"configs": []}', 0),
    "the probe of torch": lambda folder: check_torch(devices.resolve_device("cpu")),
    "the list of cards": lambda folder: devices._named_by_torch(),
    "the conversion of the bundled model": lambda folder: bundled._convert(folder, folder),
    "a GGUF file": lambda folder: write_in_process(
        read_run(run_of(folder)), folder, folder / "a.gguf"
    ),
    "a script": lambda folder: zip_script(read_run(run_of(folder)), folder, folder / "a.zip"),
}
IN_NEED: dict[str, Callable[[Path], object]] = {
    "the dispatcher, for its workers": start_dispatcher,
    "training on a model of the Hub": lambda folder: train(folder, model="owner/model"),
    "training on data of the Hub": lambda folder: train(folder, task=HUB_DATA),
    "training that logs to a Space": to_space,
    "merging, scored on data of the Hub": lambda folder: start_merge(
        read_run(run_of(folder, task=HUB_DATA))
    ),
    "a prompt grid on a model of the Hub": lambda folder: grid(folder, "owner/model"),
    "the playground": answer,
    "a download": lambda folder: download._fetch("a/b", [], 1, lambda done, total: None),
    "a script on a model of the Hub": lambda folder: zip_script(
        read_run(run_of(folder, model="owner/model")), folder, folder / "a.zip"
    ),
}


def environments(
    start: Callable[[Path], object], folder: Path, started: list[dict[str, str]]
) -> list[dict[str, str]]:
    """Of the processes that it starts, which need not get far."""
    with suppress(Exception):
        start(folder)
    assert started, "nothing was to be started"
    return started


@pytest.mark.hostile("planted tokens")
@pytest.mark.parametrize("name", WITHOUT_NEED)
def test_a_process_that_asks_no_hub_finds_no_secret(
    name: str, tmp_path: Path, started: list[dict[str, str]], record_property: Callable[..., None]
) -> None:
    for environment in environments(WITHOUT_NEED[name], tmp_path, started):
        assert "planted" not in str(environment)
        assert environment["HF_HUB_OFFLINE"] == "1"
    record_property("hostile inputs", len(OF_THE_HUB | OTHERS))


@pytest.mark.hostile("planted tokens")
@pytest.mark.parametrize("name", IN_NEED)
def test_a_process_that_asks_the_hub_finds_its_token_and_no_other_secret(
    name: str, tmp_path: Path, started: list[dict[str, str]], record_property: Callable[..., None]
) -> None:
    for environment in environments(IN_NEED[name], tmp_path, started):
        assert environment.items() >= OF_THE_HUB.items()
        assert not environment.keys() & OTHERS.keys()
        assert "HF_HUB_OFFLINE" not in environment
    record_property("hostile inputs", len(OTHERS))


def test_the_token_file_is_not_found_without_need_and_found_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `hf auth login` wrote, by the library that reads it."""
    (tmp_path / "token").write_text("hf_planted0001planted", encoding="utf-8")
    for name in OF_THE_HUB:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for needs_hub, found in ((False, "None"), (True, "hf_planted0001planted")):
        done = subprocess.run(
            [sys.executable, "-c", "import huggingface_hub as h; print(h.get_token())"],
            env=python_environment(needs_hub), capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout.strip() == found


def test_settings_that_are_only_named_like_a_secret_are_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    assert python_environment()["TOKENIZERS_PARALLELISM"] == "true"
