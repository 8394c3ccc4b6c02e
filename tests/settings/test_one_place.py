"""A new setting is one new field: nothing else names it, and each interface has it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.package_copy import ask, copy_package

NEW_FIELDS = {
    "settings/training.py": (
        "    report_to: Annotated[",
        """    label_smoothing: Annotated[
        float, Setting("Label smoothing", help="share of the other tokens", high=0.5,
                       same="label smoothing {}"),
    ] = 0.0  # fmt: skip
""",
    ),
    "records/spec.py": (
        "    memory_limit: Annotated[",
        """    priority: Annotated[int, Setting("Priority", help="in the queue", high=9)] = 5
""",
    ),
    "prediction/question.py": (
        "    optimizer: Annotated[",
        """    states: Annotated[int, Setting("States", help="moments of AdamW", low=1, high=2)] = 2
""",
    ),
}
ASK = """
import json
from dataclasses import replace
from ftlab.__main__ import build_parser
from ftlab.commands.options import read_options
from ftlab.commands.sweep import request_from
from ftlab.jobs.inputs import EVERYTHING
from ftlab.jobs.launch import plan_sweep, validate
from ftlab.prediction.question import Step, validate_step
from ftlab.records.spec import dump_spec, load_spec
from ftlab.share.model_card import spec_rows
from ftlab.share.report_sections import command_of
from ftlab.tabs.api import api_request
from ftlab.tabs.experiment.fields import Form
from ftlab.tabs.experiment.request import form_values, read_form
from ftlab.tabs.experiment.task import build_settings
from ftlab.tabs.plan.request import read_plan
from ftlab.tabs.plan.tab import _build_fields
from ftlab.tasks.reference import parse_task
import gradio as gr

form, plan = Form(), Form()
with gr.Blocks():
    build_settings(form)
    _build_fields(plan, EVERYTHING)
def shown(form, name):
    return [form.components[name].label, form.components[name].info, form.components[name].value]
parse = build_parser().parse_args
request = request_from(
    parse(["sweep", "--methods", "lora", "--label-smoothing", "0.1", "--priority", "7"])
)
again = api_request(
    "bundled", parse_task("sql"), ["lora"], "0", {}, {"label_smoothing": 0.1, "priority": 7}
).checked()
spec = load_spec(dump_spec(plan_sweep(request)[-1]))
wrong = replace(
    request, priority=10, settings=replace(request.settings, label_smoothing=0.7)
)
planned = {name: part.value for name, part in plan.components.items()} | {"plan_states": 1}
print(json.dumps({
    "settings: form": shown(form, "settings.label_smoothing"),
    "settings: command line": request.settings.label_smoothing,
    "settings: API": again.settings.label_smoothing,
    "settings: record": spec.settings.label_smoothing,
    "settings: panel": dict(spec_rows(spec)).get("Label smoothing"),
    "settings: cloned": form_values([spec])["settings.label_smoothing"],
    "settings: report": "--label-smoothing 0.1" in command_of(request).text,
    "request: form": shown(form, "priority"),
    "request: form read": read_form({"methods": ["lora"], "priority": 7}).request.priority,
    "request: command line": request.priority,
    "request: API": again.priority,
    "wrong": [error.message for error in validate(wrong)],
    "plan: form": shown(plan, "plan_states"),
    "plan: form read": read_plan(planned).chosen.step.states,
    "plan: command line": read_options(parse(["predict", "--states", "1"]), Step)["states"],
    "plan: wrong": [error.message for error in validate_step(Step(states=3))],
}))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each interface of a copy of ftlab with three more fields has of them."""
    folder = tmp_path_factory.mktemp("copy")
    package = copy_package(folder)
    for name, (before, field) in NEW_FIELDS.items():
        file = package / name
        text = file.read_text(encoding="utf-8")
        assert text.count(before) == 1
        file.write_text(text.replace(before, field + before), encoding="utf-8")
    return dict(ask(folder, ASK))


EXPECTED = {
    "settings: form": ["Label smoothing", "Share of the other tokens", 0.0],
    "settings: command line": 0.1,
    "settings: API": 0.1,
    "settings: record": 0.1,
    "settings: panel": "0.1",
    "settings: cloned": 0.1,
    "settings: report": True,
    "request: form": ["Priority", "In the queue", 5],
    "request: form read": 7,
    "request: command line": 7,
    "request: API": 7,
    "wrong": [
        "Priority is 10; it must lie between 0 and 9.",
        "Label smoothing is 0.7; it must lie between 0 and 0.5.",
    ],
    "plan: form": ["States", "Moments of AdamW", 2],
    "plan: form read": 1,
    "plan: command line": 1,
    "plan: wrong": ["States is 3; it must lie between 1 and 2."],
}


@pytest.mark.slow
@pytest.mark.parametrize("interface", EXPECTED)
def test_a_new_field_is_in_each_interface(interface: str, found: dict[str, Any]) -> None:
    assert found[interface] == EXPECTED[interface]
