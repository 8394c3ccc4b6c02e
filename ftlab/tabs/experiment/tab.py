"""The Experiment tab: checks, launches and tunes the form, and fills it from cloned runs."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ftlab.basics.devices import AUTO, list_devices
from ftlab.basics.errors import FieldError, FtlabError, InvalidRequest
from ftlab.jobs.control import start_dispatcher
from ftlab.jobs.inputs import EVERYTHING, Access, Inputs, check_inputs, look_at_inputs, must_ask
from ftlab.jobs.launch import device_of, enqueue_sweep, plan_sweep, space_errors
from ftlab.jobs.peft_check import FIELD as PEFT_JSON
from ftlab.jobs.peft_check import by_hand
from ftlab.methods.by_hand import PEFT
from ftlab.methods.limits import FIELD as MATCH
from ftlab.methods.registry import CORE, METHODS
from ftlab.prediction.fit import Ask
from ftlab.records.spec import RunSpec, SweepRequest
from ftlab.settings.training import is_installed
from ftlab.tabs.context import (
    NO_OVERLAY,
    QUIET,
    READY,
    Action,
    AppContext,
    Asked,
    Latest,
    Links,
    TabSpec,
    first_shown,
    one_at_a_time,
    taken,
    while_there,
)
from ftlab.tabs.experiment import queue, race
from ftlab.tabs.experiment.costs import (
    keep_predicted,
    predict_costs,
    proposable,
    proposal_html,
    propose,
)
from ftlab.tabs.experiment.fields import (
    ASKING_HUB,
    METHOD_SETTINGS,
    Form,
    advanced_summary,
    blocks_launch,
    demo_line,
    launch_button,
    launch_line,
    scored_html,
)
from ftlab.tabs.experiment.kept import (
    FORM,
    READINESS,
    changed,
    untouched,
    values_kept,
    values_to_keep,
)
from ftlab.tabs.experiment.method_view import (
    ASKING,
    FIELDS,
    has_config,
    known_settings,
    known_ticks,
    matches_html,
    method_facts,
    method_table,
    more_summary,
    peft_html,
)
from ftlab.tabs.experiment.queue import NEWEST
from ftlab.tabs.experiment.rates import tune, untuned_html
from ftlab.tabs.experiment.request import (
    EXTRA,
    MAPPING_FIELDS,
    Reading,
    alike,
    allowed_values,
    form_values,
    one_sentence,
    read_form,
    read_model,
)
from ftlab.tabs.experiment.task import (
    TaskBlocks,
    build_model_and_task,
    build_settings,
    hub_data,
    name_field,
    rows_at_hand,
    upload_label,
)
from ftlab.tabs.gate import visitor_of
from ftlab.tabs.kept import kept_html, kept_line
from ftlab.tabs.results.columns import run_name
from ftlab.tabs.widgets import H, escape, field_error, head, note_html, plural, warn
from ftlab.tasks.files import columns_of


def listen(
    form: Form,
    task: TaskBlocks,
    table: gr.HTML,
    kept_line: gr.HTML,
    check: Action,
    context: AppContext,
    links: Links,
) -> None:
    """Fills the form from the runs in `links.clone`, from what the browser kept, or with the
    defaults; then checks it like typed input."""
    names, fields = list(form.components), list(form.components.values())
    is_filled = gr.State(False)
    filled = [
        is_filled, table, task.file_group, task.hub_group, task.mapping_row, task.upload,
        task.columns_from, *fields,
    ]  # fmt: skip

    def fill(values: Mapping[str, Any]) -> list[Any]:
        return [True, *updates(values, names, context.access)]

    def take(asked: Asked[tuple[str, ...] | SweepRequest] | None, *now: Any) -> list[Any]:
        given = taken(asked)
        if not given:
            return [gr.skip()] * len(filled)
        if isinstance(given, SweepRequest):
            gr.Info("The form holds the methods and settings; the model is yours.", duration=6)
            return fill(asked_for(given, form.values(now)))
        try:
            specs = [context.store.find(run_id).spec for run_id in given]
        except FtlabError as error:
            warn(str(error), title="Not cloned")
            return [gr.skip()] * len(filled)
        values, missing = fitting(form_values(alike(specs)))
        gr.Info(str(escape(taken_over(specs))), title="Cloned", duration=6)
        for sentence in missing:
            warn(sentence, title="Not as in the run")
        return fill(values)

    def restore(kept: Mapping[str, Any], is_filled: bool, *now: Any) -> list[Any]:
        if not kept or is_filled:  # by a clone
            return [gr.skip()] * len(filled)
        values, sentences = values_kept(form, kept, context)
        for sentence in sentences:
            warn(sentence, title="Not as this browser kept it")
        return fill(values | changed(form, form.values(now)))

    def start_anew() -> list[Any]:
        gr.Info("The form has its defaults again.", title="Defaults", duration=6)
        return fill(untouched(form))

    in_turn = one_at_a_time("filling")
    given = links.kept[FORM.name].given
    for event in (
        links.clone.change(take, [links.clone, *fields], filled, **in_turn),
        given.change(restore, [given, is_filled, *fields], filled, **in_turn),
        kept_line.select(start_anew, None, filled, **in_turn),
    ):
        task.preview.after(check.after(event))


def asked_for(request: SweepRequest, now: Mapping[str, Any]) -> dict[str, Any]:
    """Form values that ask for the request, with the model that the form has now."""
    values, _ = fitting(form_values(alike(plan_sweep(request))))
    return values | {name: now[name] for name in ("model", "model_name")}


def taken_over(specs: Sequence[RunSpec]) -> str:
    """Tells which runs' settings are now in the form."""
    kept = alike(specs)
    names = f"{kept[0].label} ({run_name(kept[0].run_id)})"
    if len(kept) > 1:
        names += f" and {plural(len(kept) - 1, 'more run')}"
    left = len(specs) - len(kept)
    verb = "is" if left == 1 else "are"
    aside = f" {plural(left, 'run')} with other settings {verb} left out." if left else ""
    return f"The form holds the settings of {names}.{aside}"


def fitting(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The values available on this machine, and a sentence for each replaced value."""
    fit, missing = dict(values), []
    devices = [device.id for device in list_devices()]
    if fit["device"] not in (*devices, AUTO):
        missing.append(f"There is no device {fit['device']} here; the form says auto.")
        fit["device"] = AUTO
    absent = [name for name in fit["settings.report_to"] if not is_installed(name)]
    if absent:
        missing.append(f"{', '.join(absent)} is not installed here; nothing is logged to it.")
        fit["settings.report_to"] = [n for n in fit["settings.report_to"] if n not in absent]
    return fit, missing


def updates(
    values: Mapping[str, Any], names: Sequence[str], access: Access = EVERYTHING
) -> list[Any]:
    """Updates for the methods table, the three task containers, the place for a task file,
    `TaskBlocks.columns_from`, and each field in `names`."""
    kind = values["task"]
    mapped = [values[f"map.{name}"] for name in MAPPING_FIELDS]
    columns = columns_of(rows_at_hand(allowed_values(values, access))) or list(filter(None, mapped))
    choices = [("–", ""), *((column, column) for column in columns)]
    special: dict[str, Any] = {
        f"map.{name}": gr.update(choices=choices, value=chosen if chosen in columns else "")
        for name, chosen in zip(MAPPING_FIELDS, mapped, strict=True)
    }
    special["model_name"] = name_field(values["model"], value=values["model_name"])
    own = kind in ("file", "hub")
    metric = {"value": values["metric"]} if own or values["metric"] else {}
    special["metric"] = gr.update(visible=own, **metric)
    special[READINESS] = READY
    # The random comment changes the value, so that it is redrawn even if only ticks differ.
    settings = {name: value for name, value in values.items() if name in FIELDS}
    special[METHOD_SETTINGS] = settings
    table = f"{method_table(values['methods'], settings)}{_now_html()}"
    return [
        table,
        gr.update(visible=kind == "file"),
        gr.update(visible=kind == "hub"),
        gr.update(visible=own and bool(columns)),
        gr.update(label=upload_label(values["file"]), value=None),
        hub_data(values),
        *(special.get(name, values.get(name, gr.skip())) for name in names),
    ]


_SEND_CHOICE = """window.ftMethods.table(
  element, (now) => trigger('select', now), (draw) => watch('value', draw));"""
_FILL_TABLE = "watch('value', () => window.ftMethods.fill());"
_TUNE = """element.addEventListener('click', ({ target }) => {
  const button = target.closest('[data-tune]');
  if (!button) return;
  button.disabled = true;
  setTimeout(() => { button.disabled = false; }, 3000);
  trigger('select', window.ftMethods.now());
})"""
# The costs are asked for again when a run of the queue has begun or ended.
_FILL_COSTS = """watch('value', () => window.ftMethods.price());
window.ftMethods.follow(() => trigger('select', {}));"""
_ADD_METHOD = """watch('value', () => window.ftMethods.price());
element.addEventListener('click', ({ target }) => {
  const { add } = target.closest('[data-add]')?.dataset ?? {};
  if (add) window.ftMethods.add(add);
})"""
# The press itself sends the ticks and settings, so that a change still in transit counts.
_PRESS = "(now, ...rest) => [JSON.stringify(window.ftMethods.now()), ...rest]"
_SHOW_QUEUE = """() => {
  window.ft.watch.launched();
  document.querySelector('.ft-queue')?.scrollIntoView({block: 'nearest'});
}"""
_LAUNCHED = "watch('value', () => window.ft.opening.launched());"
_CHOICE = ("methods", METHOD_SETTINGS)  # held by the methods table, sent by its own event
_SAME_PRESS_SECONDS = 2.0
# Handlers that read the form run one at a time, in order: no older answer replaces a newer one.
_IN_ORDER: dict[str, Any] = NO_OVERLAY | {
    "concurrency_id": "form",
    "concurrency_limit": 1,
    "api_visibility": "private",
}
# PEFT checks run in a separate process and take seconds. They must not block the form handlers.
_BESIDE = QUIET | {"trigger_mode": "always_last"}


def build(context: AppContext, links: Links) -> None:
    """Builds the tab and wires it."""
    form = Form()
    with gr.Row(elem_classes="ft-work"):
        with gr.Column(scale=0, min_width=330, elem_classes="ft-rail ft-sheet"):
            task = build_model_and_task(form, context)
            advanced, scored = build_settings(form)
            kept = kept_line()
        with gr.Column(scale=1, min_width=320):
            with gr.Column(elem_classes="ft-sheet ft-methods"):
                blocks = _build_methods(form)
            with gr.Column(elem_classes="ft-sheet ft-race"):
                raced = race.build(context)
            panel = queue.build(context, links)
    with gr.Row(elem_id="launch"):
        line = H("", js_on_load=_ADD_METHOD)
        go = gr.Button(
            "Launch", variant="primary", scale=0, min_width=150, elem_id="go",
            interactive=context.access.may_train,
        )  # fmt: skip
        as_pressed = gr.Textbox(visible=False)

    access = context.access
    form.components[READINESS] = links.kept[FORM.name].ready
    fields = list(form.components.values())
    said = [
        *form.slots.values(), scored, blocks.facts, blocks.untuned, blocks.matched, line, go,
        advanced, blocks.more, kept,
    ]  # fmt: skip

    def check(*given: Any) -> list[Any]:
        return _say(form, form.values(given), context)

    def choose(event: gr.EventData, known_at: float, *given: Any) -> list[Any]:
        at = getattr(event, "at", 0.0)
        if not isinstance(at, int | float) or at < known_at:  # a later event has arrived first
            return [gr.skip()] * (len(said) + 3)
        ticked, settings = _chosen(event)
        values = form.values(given) | settings | {"methods": ticked}
        return [at, ticked, settings, *_say(form, values, context)]

    def ask(*given: Any) -> Iterator[str]:
        values = form.values(given)
        if has_config(values):
            yield ASKING
        yield peft_html(values, access)

    def reach(kind: Any, name: Any) -> None:
        model = read_model({"model": kind, "model_name": name})
        try:
            access.check_model(model)
        except FtlabError:  # reported by the form's check
            return
        context.models.why_not(model)

    def press(chosen: str, last: tuple[object, float], *given: Any) -> Iterator[list[Any]]:
        values = form.values(given) | chosen_as_pressed(chosen)
        reading = read_form(values, access)
        now = time.monotonic()
        if last[0] == reading.request and now - last[1] < _SAME_PRESS_SECONDS:
            yield [gr.skip()] * (len(said) + 3)
            return
        asking = ASKING if by_hand(reading.request.variants) else ASKING_HUB
        if not reading.errors and (asking == ASKING or must_ask(reading.request, context.models)):
            yield [asking if output is line else gr.skip() for output in (None, None, None, *said)]
        try:
            access.check_training()
            request = reading.checked()
            check_inputs(request, context.models)
            specs = enqueue_sweep(request, context.runs_folder)
            start_dispatcher(context.runs_folder)
        except FtlabError as error:
            _warn_not_launched(reading, error)
            yield [*[gr.skip()] * 3, *_say(form, values, context, error)]
            return
        yield [(reading.request, now), NEWEST, _now_html(), *_say(form, values, context)]
        keep_predicted(context, request, specs)

    def tune_rates(event: gr.EventData, *given: Any) -> list[Any]:
        ticked, settings = _chosen(event)
        values = form.values(given) | settings | {"methods": ticked}
        reading = read_form(values, access)
        try:
            tune(reading.checked(), context)
        except FtlabError as error:
            _warn_not_launched(reading, error)
            return [gr.skip(), gr.skip(), *_say(form, values, context, error)]
        return [NEWEST, _now_html(), *_say(form, values, context)]

    def start_race(chosen: str, *given: Any) -> Iterator[str]:
        asked = raced.values(given[len(fields) :])
        values = form.values(given[: len(fields)]) | chosen_as_pressed(chosen)
        reading = read_form(race.with_candidates(values, asked), access)
        yield note_html("Looking at model, data and memory …", "status")
        try:
            race.start(context, reading, asked)
        except FtlabError as error:
            errors = getattr(error, "errors", ())
            yield field_error([one_sentence(errors) if errors else str(error)])
        else:
            yield ""

    def predict(request: SweepRequest, ask: Ask) -> Iterator[str]:
        return predict_costs(context, request, ask)

    known_at = gr.State(0.0)
    # Handles every tick. The default drops events while a handler is running.
    blocks.table.select(
        choose,
        [known_at, *fields],
        [known_at, *(form.components[name] for name in _CHOICE), *said],
        trigger_mode="multiple",
        **_IN_ORDER,
    )
    silent = [form.components[name] for name in _CHOICE]
    gr.on(
        [field.change for field in fields if field not in silent],
        check,
        fields,
        said,
        trigger_mode="always_last",
        **_IN_ORDER,
    )
    _predict_at_changes(predict, blocks.costs, form, context, blocks.costs.select)
    form.components[PEFT_JSON].blur(ask, fields, blocks.asked, **_BESIDE)
    by_name = form.components
    # Not at every keystroke: the Hub is queried only for a completely typed name.
    reached = gr.on(
        [by_name["model"].change, by_name["model_name"].submit, by_name["model_name"].blur],
        reach,
        [by_name["model"], by_name["model_name"]],
        None,
        **_BESIDE,
    )
    reached.then(check, fields, said, trigger_mode="always_last", **_IN_ORDER)
    task.preview.after(reached)
    listen(form, task, blocks.table, kept, Action(check, fields, said), context, links)
    last = gr.State((None, 0.0))
    # Written by a launch that was not refused.
    launched = [panel.sweep, H("", elem_classes="ft-carrier", js_on_load=_LAUNCHED)]
    pressed = go.click(
        press, [as_pressed, last, *fields], [last, *launched, *said], js=_PRESS, **QUIET
    )
    raced.go.click(
        start_race, [as_pressed, *fields, *raced.fields], raced.said, js=_PRESS, **QUIET
    ).then(fn=None, js=queue.POLL, api_visibility="private")
    if task.largest is not None:
        _propose_models(task.largest, task, form, context)
    tuned = blocks.untuned.select(tune_rates, fields, [*launched, *said], **QUIET)
    for event in (pressed, tuned):
        event.then(panel.refresh, panel.inputs, panel.outputs, js=None, **QUIET).then(
            fn=None, js=_SHOW_QUEUE, api_visibility="private"
        )


def _propose_models(largest: gr.HTML, task: TaskBlocks, form: Form, context: AppContext) -> None:
    """Refreshes the proposed model when the form changes, and puts it into the form on click."""

    def make(request: SweepRequest, ask: Ask) -> list[str]:
        return [proposal_html(propose(request, context, ask), request.model)]

    def choose(event: gr.EventData) -> list[Any]:
        model = str(getattr(event, "model", ""))
        if not proposable(model):
            return [gr.skip(), gr.skip()]
        return ["hub", name_field("hub", value=model)]

    _predict_at_changes(make, largest, form, context)
    named = [form.components["model"], form.components["model_name"]]
    task.preview.after(largest.select(choose, None, named, **QUIET))


def _predict_at_changes(
    make: Callable[[SweepRequest, Ask], Iterable[str]], shown: gr.HTML, form: Form,
    context: AppContext, *also: Any,
) -> None:  # fmt: skip
    """Shows what `make` yields for the form's request, anew at each change of the form, and at the
    events of `also`."""
    latest = Latest()

    def show(request: gr.Request, *given: Any) -> Iterator[Any]:
        session = str(request.session_hash)
        mine = latest.begin(session)
        reading = read_form(form.values(given), context.access)
        if reading.errors:  # shown at their fields; keeps the last result
            return
        context.ready.wake(device_of(reading.request))
        for html in while_there(
            context.predictor,
            visitor_of(request),
            lambda ask: make(reading.request, ask),
            lambda: latest.is_newest(session, mine),
        ):
            yield gr.skip() if html is None else html

    fields = list(form.components.values())
    # Readiness alone changes no number; what is given back with it changes other fields.
    changed = [field.change for name, field in form.components.items() if name != READINESS]
    gr.on([first_shown(), *changed, *also], show, fields, shown, trigger_mode="multiple", **QUIET)


def _now_html() -> str:
    """HTML that shows nothing and differs each time, so that the browser sees a change."""
    return f"<!--{secrets.token_hex(4)}-->"


def _warn_not_launched(reading: Reading, error: FtlabError) -> None:
    """Warns with the first message if several fields are invalid."""
    errors = getattr(error, "errors", ())
    if reading.errors:
        sentence = reading.errors[0].message
    else:
        sentence = one_sentence(errors) if errors else str(error)
    warn(sentence, title="Not launched", duration=6)


def _chosen(event: gr.EventData) -> tuple[list[str], dict[str, str]]:
    """The ticks and settings sent by the browser."""
    return known_ticks(getattr(event, "on", None)), known_settings(getattr(event, "settings", None))


def chosen_as_pressed(chosen: str) -> dict[str, Any]:
    """Ticks and settings in the browser when Launch was pressed, by field name.

    Empty if the press did not send any: then the values received last are used.
    """
    try:
        said = json.loads(chosen or "")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(said, dict):
        return {}
    return {"methods": known_ticks(said.get("on")), **known_settings(said.get("settings"))}


@dataclass(frozen=True)
class MethodBlocks:
    """The components of step 3 that are not form fields."""

    table: gr.HTML
    facts: gr.HTML
    untuned: gr.HTML
    costs: gr.HTML
    more: gr.Accordion
    matched: gr.HTML
    asked: gr.HTML


def _build_methods(form: Form) -> MethodBlocks:
    """Builds step 3: the methods table with settings, and further variants."""
    head("Methods and variants", number=3, sub="Each ticked method becomes a run for each seed")
    table = H(method_table(CORE), js_on_load=_SEND_CHOICE)
    form.components["methods"] = gr.State(list(CORE))
    form.components[METHOD_SETTINGS] = gr.State({})
    form.slot("methods", "variants", *METHODS)
    facts = H("", elem_classes="ft-carrier", js_on_load=_FILL_TABLE)
    untuned = H("", js_on_load=_TUNE)
    costs = H("", js_on_load=_FILL_COSTS)
    with gr.Accordion("More", open=False, elem_classes="ft-fold") as more:
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
        form.add(
            MATCH,
            gr.Textbox,
            label="Match parameters",
            info="Each method's rank, tokens or blocks are chosen so that it trains about as many: "
            "a number as in 2.4M, or what a method trains, as in lora. Empty: as they are set",
            placeholder="2.4M",
            max_lines=1,
        )
        form.slot(MATCH)
        matched = H("")
        form.add(
            PEFT_JSON,
            gr.Textbox,
            label="Any other PEFT type, by its PeftConfig as JSON",
            info="One object or a list of them; each may have learning_rate and base beside its "
            "own fields",
            placeholder='{"peft_type": "C3A", "block_size": 64, "target_modules": "all-linear"}',
            lines=2,
            max_lines=16,
            elem_classes="ft-mono",
        )
        form.slot(PEFT_JSON, PEFT.id)
        asked = H("")
    return MethodBlocks(table, facts, untuned, costs, more, matched, asked)


def _say(
    form: Form, values: Mapping[str, Any], context: AppContext, failure: FtlabError | None = None
) -> list[Any]:
    """Updates for field errors, the launch bar, the labels that summarise settings, and what the
    browser keeps."""
    access = context.access
    reading = read_form(values, access)
    errors = list(reading.errors)
    found = Inputs()
    if not errors and not access.is_demo:
        found = look_at_inputs(reading.request, context.models)
        errors = list(found.errors)
    if isinstance(failure, InvalidRequest):  # errors found only by the launch attempt
        errors = errors or list(failure.errors)
    elif failure is not None:
        errors = [FieldError("", str(failure))]
    if not errors:
        errors = space_errors(reading.request, context.runs_folder)
    button = gr.Button(
        launch_button(reading.request, errors),
        interactive=access.may_train and not blocks_launch(errors),
    )
    facts = method_facts(reading.request)
    return [
        *form.slot_html(errors),
        note_html(found.words)
        if errors
        else scored_html(reading.request, found, context.store.runs()),
        facts.html(),
        untuned_html(reading.request, access),
        matches_html(reading.matches, reading.budget),
        demo_line()
        if access.is_demo
        else launch_line(reading.request, errors, facts.reasons, found.scored),
        button,
        gr.Accordion(label=advanced_summary(reading.request)),
        gr.Accordion(label=more_summary(values)),
        kept_html(FORM, values_to_keep(form, values, context.runs_folder))
        if values[READINESS]
        else gr.skip(),
    ]


TAB = TabSpec("Experiment", 1, build, kept=(FORM,))
