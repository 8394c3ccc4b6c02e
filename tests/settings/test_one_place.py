"""A new training setting is one new field: nothing else names it, and every surface has it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.package_copy import ask, copy_package

FIELD = """    label_smoothing: Annotated[
        float, Setting("Label smoothing", help="share of the other tokens", high=0.5,
                       same="label smoothing {}"),
    ] = 0.0  # fmt: skip
"""
ASK = """
import json
from dataclasses import replace
from ftlab.jobs.inputs import EVERYTHING
from ftlab.commands.sweep import request_from
from ftlab.__main__ import build_parser
from ftlab.share.report_sections import command_of
from ftlab.records.comparability import comparability_of
from ftlab.records.spec import dump_spec, load_spec
from ftlab.share.model_card import spec_rows
from ftlab.records.store import Run
from ftlab.jobs.launch import plan_sweep
from ftlab.jobs.launch import validate
from ftlab.tasks.reference import parse_task
from ftlab.tabs.api import api_request
from ftlab.tabs.experiment.request import form_values
from ftlab.tabs.experiment.fields import Form
from ftlab.tabs.experiment.task import build_settings
import gradio as gr

form = Form()
with gr.Blocks():
    build_settings(form)
key = "settings.label_smoothing"
options = build_parser().parse_args(["sweep", "--methods", "lora", "--label-smoothing", "0.1"])
request = request_from(options)
again = api_request(
    "bundled", parse_task("sql"), ["lora"], "0", {}, {"label_smoothing": 0.1}, EVERYTHING
)
spec = load_spec(dump_spec(plan_sweep(request)[-1]))
wrong = replace(request, settings=replace(request.settings, label_smoothing=0.7))
print(json.dumps({
    "form": [form.components[key].label, form.components[key].info, form.components[key].value],
    "command line": request.settings.label_smoothing,
    "API": again.settings.label_smoothing,
    "record": spec.settings.label_smoothing,
    "panel": dict(spec_rows(spec)).get("Label smoothing"),
    "cloned": form_values([spec])[key],
    "report": "--label-smoothing 0.1" in command_of(request).text,
    "wrong": [error.message for error in validate(wrong)],
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the surfaces of a copy of ftlab with one more field say of it."""
    folder = tmp_path_factory.mktemp("copy")
    training = copy_package(folder) / "settings" / "training.py"
    text = training.read_text(encoding="utf-8")
    before = "    report_to: Annotated["
    training.write_text(text.replace(before, FIELD + before), encoding="utf-8")
    return dict(ask(folder, ASK))


@pytest.mark.parametrize(
    ("surface", "shown"),
    [
        ("form", ["Label smoothing", "Share of the other tokens", 0.0]),
        ("command line", 0.1),
        ("API", 0.1),
        ("record", 0.1),
        ("panel", "0.1"),
        ("cloned", 0.1),
        ("report", True),
        ("wrong", ["Label smoothing is 0.7; it must lie between 0 and 0.5."]),
    ],
)
def test_a_new_field_is_on_every_surface(surface: str, shown: Any, found: dict[str, Any]) -> None:
    assert found[surface] == shown
