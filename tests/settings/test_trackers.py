"""Programs that a sweep also logs to: parsed, checked, offered, and stored in records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from ftlab.__main__ import build_parser
from ftlab.basics.errors import FtlabError
from ftlab.commands.sweep import request_from
from ftlab.jobs.launch import plan_sweep, validate
from ftlab.methods.variant import Variant
from ftlab.records.spec import SweepRequest, dump_spec, load_spec
from ftlab.settings import training
from ftlab.settings.schema import fields_of
from ftlab.settings.training import TRACKERS, TrainingSettings, parse_trackers
from ftlab.tabs.experiment.fields import Form
from ftlab.tabs.experiment.request import read_request
from ftlab.tasks.reference import TaskReference

SQL = TaskReference("bundled", "sql")
GOOD = SweepRequest(model="bundled", task=SQL, variants=(Variant("lora"),), device="cpu")


def with_trackers(*names: str) -> SweepRequest:
    return replace(GOOD, settings=TrainingSettings(report_to=names))  # type: ignore[arg-type]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard is there, trackio is not."""
    monkeypatch.setattr(training, "find_spec", lambda name: name == "tensorboard" or None)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (("trackio",), "trackio is not installed; pip install trackio, or leave it out."),
        (("mlflow",), "mlflow is not installed; pip install mlflow, or leave it out."),
        (("wandb",), "'wandb' is none of: tensorboard, trackio, mlflow."),
        (("tensorboard", "tensorboard"), "tensorboard is named twice; name it once."),
    ],
)
def test_an_unavailable_program_is_reported_at_its_field(
    names: tuple[str, ...], sentence: str
) -> None:
    (error,) = validate(with_trackers(*names))
    assert (error.field, error.message) == ("settings.report_to", sentence)


@pytest.mark.usefixtures("installed")
def test_an_installed_program_is_valid_and_every_run_of_the_sweep_has_it() -> None:
    request = with_trackers("tensorboard")
    assert validate(request) == []
    assert {spec.settings.report_to for spec in plan_sweep(request)} == {("tensorboard",)}


@pytest.mark.parametrize("names", [(), ("trackio", "tensorboard")])
def test_a_spec_reads_back_and_without_trackers_an_older_version_reads_it(
    names: tuple[str, ...],
) -> None:
    spec = plan_sweep(with_trackers(*names))[-1]
    assert ("report_to" in json.loads(dump_spec(spec))["settings"]) == bool(names)
    assert load_spec(dump_spec(spec)) == spec


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, ()),
        ("", ()),
        ("none", ()),
        ([], ()),
        ("trackio", ("trackio",)),
        (" tensorboard , trackio ", ("tensorboard", "trackio")),
        (["trackio"], ("trackio",)),
        ("wandb", ("wandb",)),
    ],
)
def test_names_are_read_from_a_word_or_a_list(given: object, names: tuple[str, ...]) -> None:
    assert parse_trackers(given) == names


@pytest.mark.parametrize("given", [7, [7], {"a": 1}, True])
def test_a_value_that_is_no_name_is_refused(given: object) -> None:
    with pytest.raises(FtlabError, match="it must be names out of: tensorboard, trackio, mlflow"):
        parse_trackers(given)
    reading = read_request("bundled", SQL, ["lora"], {"settings.report_to": given})
    assert [error.field for error in reading.errors] == ["settings.report_to"]


@pytest.mark.usefixtures("installed")
def test_page_and_command_line_ask_for_the_same() -> None:
    options = build_parser().parse_args(
        ["sweep", "--methods", "lora", "--report-to", "tensorboard"]
    )
    reading = read_request("bundled", SQL, ["lora"], {"settings.report_to": ["tensorboard"]})
    assert request_from(options).settings == reading.checked().settings


@pytest.mark.parametrize(
    ("there", "offered"),
    [
        (set(TRACKERS), ["tensorboard", "trackio", "mlflow"]),
        ({"tensorboard"}, ["tensorboard"]),
        (set(), []),
    ],
)
def test_the_field_names_the_packages_to_install(
    there: set[str], offered: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "find_spec", lambda name: name in there or None)
    with gr.Blocks():
        field = Form().setting("report_to", fields_of(TrainingSettings)["report_to"])
    assert [value for _, value in field.choices] == offered
    for name in TRACKERS:
        assert (f"pip install {name}" in field.info) == (name not in offered)


def test_logs_lie_beside_the_runs() -> None:
    runs = Path("runs")
    assert training.tensorboard_folder(runs / "r1") == runs / "r1" / "tensorboard"
    assert training.trackio_folder(runs) == runs / "trackio"
    assert training.mlflow_folder(runs) == runs / "mlflow"
