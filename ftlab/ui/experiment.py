"""The Experiment tab: choose model, task, settings and methods; launch; watch the queue."""

from __future__ import annotations

import time
from typing import Any

import gradio as gr

from ftlab.errors import FieldError, FtlabError, InvalidRequest
from ftlab.methods.registry import METHODS
from ftlab.methods.spec import Hyperparameter, MethodSpec
from ftlab.methods.variant import LEARNING_RATE
from ftlab.runs.control import start_dispatcher
from ftlab.runs.sweep import enqueue_sweep
from ftlab.ui import queue_panel
from ftlab.ui.context import AppContext
from ftlab.ui.experiment_task import build_model_and_task, build_settings
from ftlab.ui.fields import Form
from ftlab.ui.html import H, head, named, this_page, warn
from ftlab.ui.method_view import (
    advanced_summary,
    hyperparameter_summary,
    launch_button,
    launch_line,
    method_table,
    range_of,
)
from ftlab.ui.queue_view import NEWEST
from ftlab.ui.request import EXTRA, Reading, read_form

# Sent once at the start too: a tick made before the page was ready would be lost otherwise.
_SEND_TICKS = """const send = () => trigger('select', {
  on: [...element.querySelectorAll('input:checked')].map((input) => input.value) });
element.addEventListener('change', send);
send();"""
_SHOW_QUEUE = "() => document.querySelector('.ft-queue')?.scrollIntoView({block: 'nearest'})"
_SAME_PRESS_SECONDS = 2.0


def build(context: AppContext) -> None:
    """Builds the tab and wires it."""
    form = Form()
    with gr.Row(elem_classes="ft-work"):
        with gr.Column(scale=0, min_width=330, elem_classes="ft-rail ft-sheet"):
            build_model_and_task(form, context.runs_folder)
            advanced = build_settings(form)
        with gr.Column(scale=1, min_width=320):
            with gr.Column(elem_classes="ft-sheet ft-methods"):
                table, hyperparameters = _build_methods(form)
            panel = queue_panel.build(context)
    with gr.Row(elem_id="launch"):
        line = H("")
        go = gr.Button("Launch", variant="primary", scale=0, min_width=150, elem_id="go")

    fields = list(form.components.values())
    said = [*form.slots.values(), line, go, advanced, hyperparameters]

    def check(*given: Any) -> list[Any]:
        return _say(form, read_form(form.values(given)))

    def choose(event: gr.EventData, *given: Any) -> list[Any]:
        values = form.values(given) | {"methods": known_ticks(event.on)}
        return [values["methods"], *_say(form, read_form(values))]

    def press(last: tuple[object, float], *given: Any) -> list[Any]:
        reading = read_form(form.values(given))
        now = time.monotonic()
        if last[0] == reading.request and now - last[1] < _SAME_PRESS_SECONDS:
            return [gr.skip()] * (len(said) + 2)
        try:
            enqueue_sweep(reading.checked(), context.runs_folder)
            start_dispatcher(context.runs_folder)
        except FtlabError as error:
            sentence = reading.errors[0].message if reading.errors else str(error)
            warn(sentence, title="Not launched", duration=6)
            return [gr.skip(), gr.skip(), *_say(form, reading, error)]
        return [(reading.request, now), NEWEST, *_say(form, reading)]

    hidden: Any = {"show_progress": "hidden", "api_visibility": "private"}
    ticks = form.components["methods"]
    # Every tick counts, in order: the default drops those made while one is being handled.
    table.select(
        choose, fields, [ticks, *said], trigger_mode="multiple", concurrency_limit=1, **hidden
    )
    changes = [field.change for name, field in form.components.items() if name != "methods"]
    gr.on(
        [this_page().load, *changes],
        check,
        fields,
        said,
        trigger_mode="always_last",
        concurrency_limit=None,
        **hidden,
    )
    last = gr.State((None, 0.0))
    pressed = go.click(press, [last, *fields], [last, panel.sweep, *said], **hidden)
    pressed.then(
        panel.refresh, panel.inputs, panel.outputs, js=None, concurrency_limit=None, **hidden
    ).then(fn=None, js=_SHOW_QUEUE, api_visibility="private")


def known_ticks(ticks: Any) -> list[str]:
    """What the browser says is ticked, in the order of the registry."""
    found = set(ticks) if isinstance(ticks, list) else set()
    return [method_id for method_id in METHODS if method_id in found]


def _build_methods(form: Form) -> tuple[gr.HTML, gr.Accordion]:
    """Step 3: the table of methods, their hyperparameters, and further variants."""
    head("Methods and variants", number=3, sub="Each ticked method becomes a run for each seed")
    table = H(method_table(METHODS), js_on_load=_SEND_TICKS)
    form.components["methods"] = gr.State(list(METHODS))
    form.slot("methods")
    with gr.Accordion("Hyperparameters", open=False, elem_classes="ft-fold") as accordion:
        for method in METHODS.values():
            H(f'<p class="method">{named(method.id)}</p>')
            with gr.Row(elem_classes="ft-params"):
                for parameter in method.hyperparameters:
                    _hyperparameter(form, method, parameter)
                form.add(
                    f"{method.id}.{LEARNING_RATE}",
                    gr.Textbox,
                    label="Learning rate",
                    placeholder=f"{method.learning_rate:g}",
                    info=f"Empty: the sweep's, else {method.learning_rate:g}.",
                    min_width=120,
                    max_lines=1,
                )
            form.slot(f"method:{method.id}")
        form.add(
            EXTRA,
            gr.Textbox,
            label="Further variants, one a line",
            info="What a line does not set keeps the method's default, as in lora:r=4 "
            "or lora:r=32,alpha=64,learning_rate=5e-4",
            placeholder="lora:r=4",
            lines=2,
            max_lines=8,
            elem_classes="ft-mono",
        )
        form.slot(EXTRA)
    return table, accordion


def _hyperparameter(form: Form, method: MethodSpec, parameter: Hyperparameter) -> None:
    name = f"{method.id}.{parameter.name}"
    if parameter.kind == "choice":
        form.add(
            name,
            gr.Dropdown,
            list(parameter.choices),
            value=parameter.default,
            label=parameter.label,
            info=parameter.help,
            min_width=160,
        )
        return
    form.number(
        name,
        parameter.label,
        float(parameter.default) if parameter.kind == "float" else int(parameter.default),
        info=range_of(parameter),
        min_width=120,
        step=1 if parameter.kind == "int" else 0.05,
    )


def _say(form: Form, reading: Reading, failure: FtlabError | None = None) -> list[Any]:
    """Errors beside their fields, the launch bar, and the labels that repeat the settings."""
    errors = list(reading.errors)
    if failure is not None and not isinstance(failure, InvalidRequest):
        errors = [FieldError("", str(failure))]
    return [
        *form.slot_html(errors),
        launch_line(reading.request, errors),
        gr.Button(launch_button(reading.request, errors)),
        gr.Accordion(label=advanced_summary(reading.request)),
        gr.Accordion(label=hyperparameter_summary(reading.request)),
    ]
