"""Find the best: a race of methods on the form's model and data, live, and its answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from ftlab.basics import units
from ftlab.basics.errors import FtlabError, InvalidRequest
from ftlab.jobs.inputs import check_inputs
from ftlab.methods.registry import METHODS
from ftlab.race.record import RaceSettings, find_race, list_races
from ftlab.race.standings import RaceView, Standing, view_race
from ftlab.race.start import begin_race, resume_race
from ftlab.records.spec import SweepRequest
from ftlab.settings.request import parse_memory_limit
from ftlab.settings.schema import fields_of, read_settings
from ftlab.tabs.context import QUIET, AppContext
from ftlab.tabs.experiment.fields import Form
from ftlab.tabs.experiment.queue import POLL
from ftlab.tabs.experiment.race_curves import curves_html
from ftlab.tabs.experiment.request import Reading
from ftlab.tabs.live import News, changed_html, place
from ftlab.tabs.widgets import H, blank, chip, escape, heading, live, named, note_html, plural, warn

NAME = "race"
"""Of its live part."""

MEMORY, WHO = "race.memory", "race.who"
ALL, TICKED = "all", "ticked"
_WHO = [("All that fit", ALL), ("The ticked ones", TICKED)]

SEEDS = 3
"""The last few are trained with so many seeds, if the form has one."""

_OPEN_SECONDS = 2.0
_MOST_SHOWN = 12

_EMPTY = blank(
    "No race yet.",
    "Each method trains a few steps; the best go on, and the last few are scored on test examples. "
    "The answer says which one to use, and what is not shown.",
)
_POLL_WHEN_SHOWN = "() => setTimeout(() => window.ft.watch.now(), 200)"
_SEND_PRESS = """element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-race]');
  if (!button) return;
  button.disabled = true;
  trigger('select', {ask: button.dataset.race, race: button.dataset.id});
})"""


def race_html(view: RaceView | None) -> str:
    """The race as it stands: heading, progress, the answer, curves, and every candidate."""
    if view is None:
        return _EMPTY
    notes = "".join(note_html(note) for note in view.notes)
    top = f"{_heading(view)}{_bar(view)}{_answer(view)}{notes}"
    return f"{top}{curves_html(view)}{_ahead(view)}{_left(view)}"


def _heading(view: RaceView) -> str:
    count, spent = len(view.standings), units.format_seconds(view.elapsed)
    whole = units.format_seconds(view.seconds)
    if view.is_open:
        if view.scored:
            doing = f"scoring the last {len(view.at('in the final'))}, seed {view.scored}"
        else:
            doing = f"training to step {view.rung}" if view.rung else "starting"
        left = units.format_seconds(max(0.0, view.seconds - view.elapsed))
        sub = f"{plural(count, 'candidate')}, {doing}; {left} left of {whole}"
        return heading("Race", _button("stop", view, "Stop, and answer"), sub=sub)
    ended = {"done": "ended", "interrupted": "was cut off"}.get(view.status, view.status)
    sub = f"{plural(count, 'candidate')}, {ended} after {spent} of {whole}"
    goes_on = view.status in ("interrupted", "cancelled", "failed")
    buttons = [_button("resume", view, "Go on")] if goes_on else []
    return heading("Race", *buttons, sub=sub)


def _button(ask: str, view: RaceView, label: str) -> str:
    return (
        f'<button type="button" class="ghost" data-race="{ask}" data-id="{escape(view.race_id)}">'
        f"{label}</button>"
    )


def _bar(view: RaceView) -> str:
    if not view.is_open:
        return ""
    percent = round(100 * view.elapsed / view.seconds)
    return (
        '<div class="prog running" role="progressbar" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="{percent}" aria-label="Time of the race">'
        f'<i style="width:{percent}%;--c:var(--info)"></i></div>'
    )


def _answer(view: RaceView) -> str:
    result = view.result
    if result is None:
        return ""
    if not result.sentence:
        return f'<p class="wrong" role="alert">{escape(result.reason)}</p>'
    details = "".join(f"<li>{escape(sentence)}</li>" for sentence in result.details)
    return (
        f'<div class="race-answer"><p><b>{escape(result.sentence)}</b></p><ul>{details}</ul></div>'
    )


def _ahead(view: RaceView) -> str:
    shown = [one for one in view.standings if one.place != "left"]
    rows = "".join(map(_row, shown[:_MOST_SHOWN]))
    more = len(shown) - _MOST_SHOWN
    rest = f"<li><em>and {plural(more, 'more candidate')} to come</em></li>" if more > 0 else ""
    return f'<ul class="race" aria-label="Candidates">{rows}{rest}</ul>' if rows else ""


def _left(view: RaceView) -> str:
    gone = [*view.at("left"), *view.others]
    if not gone:
        return ""
    rows = "".join(map(_row, gone))
    return (
        f"<details><summary>{plural(len(gone), 'candidate')} left, and why</summary>"
        f'<ul class="race">{rows}</ul></details>'
    )


_CHIPS = {
    "in the final": "done",
    "in the race": "running",
    "to come": "queued",
    "left": "cancelled",
}


def _row(one: Standing) -> str:
    who = named(one.method, one.label) if one.method else f"<b>{escape(one.label)}</b>"
    loss = "" if one.loss is None else f"{units.format_number(one.loss, 3)}"
    step = f"step {one.step}" if one.step else ""
    why = f"<em>{escape(one.reason)}</em>" if one.reason else "<em></em>"
    return (
        f"<li><span>{who}</span>{chip(one.place, _CHIPS[one.place])}"
        f"<small>{step}</small><b>{loss}</b>{why}</li>"
    )


def with_candidates(values: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the form with the methods that the race asks for."""
    return dict(values) if asked.get(WHO) == TICKED else {**values, "methods": list(METHODS)}


def race_request(reading: Reading, asked: Mapping[str, Any]) -> tuple[SweepRequest, RaceSettings]:
    """What the race's fields ask for, on the model, data and settings of the form.

    Raises `FtlabError` for what is wrong in either; a method that cannot be trained on the model
    is none of it, unless it was ticked.
    """
    errors = list(reading.errors)
    if asked.get(WHO) != TICKED:
        errors = [one for one in errors if one.field.partition(".")[0] not in _METHOD_FIELDS]
    settings = RaceSettings(**read_settings(RaceSettings, asked, errors))
    if errors:
        raise InvalidRequest(errors)
    text, seeds = str(asked.get(MEMORY) or "").strip(), reading.request.seeds
    if len(seeds) == 1:
        seeds = tuple(range(seeds[0], seeds[0] + SEEDS))
    limit = parse_memory_limit(text) if text else None
    return replace(reading.request, seeds=seeds, memory_limit=limit), settings


_METHOD_FIELDS = frozenset({"variants", *METHODS})

_WIDE = {"prefer": {"min_width": 240}}
"""So that the longest of its words is read whole on a narrow page."""


@dataclass(frozen=True)
class RaceBlocks:
    """The race's own fields, its button, and where it says what it does before it starts."""

    form: Form
    go: gr.Button
    said: gr.HTML

    @property
    def fields(self) -> list[Any]:
        return list(self.form.components.values())

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """Maps values in the order of `fields` to their names."""
        return dict(zip(self.form.components, given, strict=True))


def build(context: AppContext) -> RaceBlocks:
    """Builds the fields and the live part; the tab gives the button its form."""
    form = Form()
    with gr.Accordion(
        "Find the best: which method for this data, within minutes and memory",
        open=False, elem_classes="ft-fold", elem_id="race-fold",
    ) as fold:  # fmt: skip
        with gr.Row():
            for name, described in fields_of(RaceSettings).items():
                form.setting(name, described, **_WIDE.get(name, {}))
            form.components[MEMORY] = live(
                gr.Textbox, label="Memory", placeholder="no limit, as in 8GB", max_lines=1,
                min_width=110, elem_id="race-memory",
            )  # fmt: skip
            form.components[WHO] = live(
                gr.Radio, _WHO, value=ALL, label="Methods", min_width=200, elem_id="race-who"
            )
        go = gr.Button(
            "Start the race", variant="primary", scale=0, min_width=150, elem_id="race-go",
            interactive=context.access.may_train,
        )  # fmt: skip
        said = H("")
        shown = H(place(NAME, _EMPTY), js_on_load=_SEND_PRESS)
    context.live.add(lambda query: poll(context, query))

    def pressed(event: gr.EventData) -> None:
        press(context, str(getattr(event, "ask", "")), str(getattr(event, "race", "")))

    shown.select(pressed, None, None, **QUIET).then(fn=None, js=POLL, api_visibility="private")
    fold.expand(fn=None, js=_POLL_WHEN_SHOWN, api_visibility="private")
    return RaceBlocks(form, go, said)


def poll(context: AppContext, query: Mapping[str, str]) -> News:
    """What is new of the newest race, for a page that shows it."""
    if NAME not in query:
        return News()
    view = newest(context)
    is_open = view is not None and view.is_open
    html = changed_html(query, **{NAME: race_html(view)})
    return News(html, seconds=_OPEN_SECONDS if is_open else None)


def newest(context: AppContext) -> RaceView | None:
    """The race that was started last; `None` if there is none that can be read."""
    for race in list_races(context.runs_folder):
        try:
            return view_race(race, time.time())
        except (FtlabError, LookupError, TypeError, ValueError):  # a damaged request or event
            continue
    return None


def press(context: AppContext, ask: str, race_id: str) -> None:
    """Stops the race ("stop"), or has it go on ("resume")."""
    try:
        context.access.check_training()
        race = find_race(context.runs_folder, race_id)
        if ask == "stop":
            race.cancel()
        elif ask == "resume":
            resume_race(race)
    except FtlabError as error:
        warn(str(error))


def start(context: AppContext, reading: Reading, asked: Mapping[str, Any]) -> str:
    """Starts a race and returns its id; raises `FtlabError` with what is wrong."""
    context.access.check_training()
    request, settings = race_request(reading, asked)
    check_inputs(request, context.models)
    return begin_race(request, settings, context.store).race_id
