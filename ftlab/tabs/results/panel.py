"""Side panel of an opened run: its numbers, settings, samples, log and actions."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.charts.html import origin_chip
from ftlab.records.comparability import scored_by
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.answering import memory_key, speed_key
from ftlab.records.progress import Progress, read_progress
from ftlab.records.published import PublishedRun
from ftlab.records.result import ANSWER_WAYS, PHASES, Measures, PhaseMeasure, RunResult
from ftlab.records.run import NOTE_LENGTH
from ftlab.records.store import Run, RunStore
from ftlab.share.model_card import spec_rows
from ftlab.share.unpack import adapter_of, where_from
from ftlab.tabs.address import address_of
from ftlab.tabs.compare.next_steps import NextButtons, NextSteps, steps_of_run
from ftlab.tabs.context import QUIET, Action, AppContext, Links
from ftlab.tabs.results.actions import Use, save_notes, wire_use
from ftlab.tabs.results.columns import COLUMNS, MEASURES, is_missing
from ftlab.tabs.results.html import BUSY, status_chip
from ftlab.tabs.widgets import (
    H,
    Markup,
    blank,
    chip,
    escape,
    field_error,
    live,
    note_html,
    swatch,
    table,
)

PAGES = ("Samples", "Config", "Environment", "Log")
SAMPLES_SHOWN = 12
LOG_CHARACTERS = 8000


@dataclass(frozen=True)
class Panel:
    """The HTML of the panel's parts, in display order: the top, then `PAGES`."""

    top: str
    samples: str
    config: str
    environment: str
    log: str

    def parts(self) -> tuple[str, str, str, str, str]:
        return self.top, self.samples, self.config, self.environment, self.log


def panel(run: Run, read: Callable[[Run], Progress] = read_progress) -> Panel:
    """Renders the panel of a run. `read` returns the progress of an unfinished run."""
    spec, result = run.spec, run.result
    origin = run.origin if result or run.origin != "measured" else ""
    top = _title(run.run_id, spec.method, spec.label, run.status, origin) + _state(run, read)
    if run.origin == "opened":
        top += _where_from(run)
    if result is not None:
        notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes if note)
        top += _numbers(result) + (f'<ul class="notes">{notes}</ul>' if notes else "")
    settings = [
        *spec_rows(spec, scored_by(run)),
        ("Sweep", spec.sweep_id),
        ("Base run", spec.base_run_id or units.DASH),
        ("Queued", time.strftime("%d %b %Y %H:%M:%S", time.localtime(spec.created_at))),
    ]
    if spec.owner:
        settings.append(("Owner", spec.owner))
    if node := run.directory.node:
        settings.append(("Ran on" if result else "Runs on", node))
    return Panel(top, _samples(run), _pairs(settings), _environment(run), _log(run))


def published_panel(run: PublishedRun) -> Panel:
    """Renders an imported result: its numbers and the facts from its file."""
    row = run.row()
    numbers = _table(
        (column.label, f"<b>{escape(column.text(row.get(column.key)))}</b>")
        for column in MEASURES
        if not is_missing(row.get(column.key))
    )
    reason = str(row.get("reason") or "")
    wrong = f'<p class="wrong">{escape(reason)}</p>' if reason else ""
    status = str(row.get("status"))
    nothing = blank("Not published.", "A result file holds numbers and settings alone.")
    settings = [
        (column.label, column.text(row.get(column.key)))
        for column in COLUMNS.values()
        if column.group == "Settings" and not is_missing(row.get(column.key))
    ]
    top = _title(run.run_id, str(row.get("method")), str(row.get("variant")), status, "imported")
    return Panel(
        top + wrong + numbers + _pairs(run.facts), nothing, _pairs(settings), nothing, nothing
    )


def _title(run_id: str, method: str, label: str, status: str, origin: str) -> str:
    """The panel heading. It gets the focus on opening; its run is the row to highlight."""
    return (
        f'<div class="hd" {address_of(run=run_id)}>'
        f'<div><h3 tabindex="-1">{swatch(method)}{escape(label)}</h3></div>'
        f"{status_chip(status)}{origin_chip(origin) if origin else ''}"
        f'</div><p class="meta id"><code>{escape(run_id)}</code></p>'
    )


def _where_from(run: Run) -> str:
    """Where an opened run was measured, and where its adapter can be asked."""
    words = f"Measured on {where_from(run)}. Times and memory are those of that machine."
    if adapter_of(run):
        words += " Its adapter is in the Playground, under Uploaded adapters."
    return note_html(words)


def _state(run: Run, read: Callable[[Run], Progress]) -> str:
    """Why the run did not complete, or the progress of an unfinished run."""
    if run.is_open:
        way = read(run)
        step = f", step {way.step} of {way.steps}" if way.steps else ""
        if way.download is not None:
            step = f" the base model, {way.download.label}"
        left = f"; about {units.format_seconds(way.left_seconds)} left" if way.left_seconds else ""
        return note_html(f"{way.label.capitalize()}{step}{left}. Numbers come when it ends.")
    if run.status == "done" or not run.reason:
        return ""
    return f'<p class="wrong">{escape(run.reason)}</p>'


def _numbers(result: RunResult) -> str:
    m = result.measures
    size, seconds, count = units.format_bytes, units.format_seconds, units.format_count
    metric = str(result.environment.get("metric") or "Score")
    share = m.trainable_params / m.total_params if m.trainable_params and m.total_params else None
    steps = f"first step {seconds(m.first_step_seconds)}, then {seconds(m.step_seconds)} a step"
    if m.first_pass_seconds is not None:
        steps += f"; an untimed pass before them took {seconds(m.first_pass_seconds)}"
    expected = ""
    if m.predicted_total_seconds:
        expected = f"{seconds(m.predicted_total_seconds)} were predicted before it began"
    tokens = (
        f"{count(m.train_tokens)} in all; padding ({units.format_share(m.padding_share)}) aside"
    )
    disturbed = (
        f" {chip(BUSY, 'warn', 'Other work made training slower: times are too long.')}"
        if m.disturbed
        else ""
    )
    parts = units.format_share(share)
    lines: list[tuple[str, Any, str]] = [
        (
            "Trainable parameters",
            m.trainable_params,
            _strong(count(m.trainable_params), f"{parts} of {count(m.total_params)}"),
        ),
        (
            "Memory while training",
            m.net_peak_memory_bytes,
            _strong(
                size(m.net_peak_memory_bytes),
                f"net peak: above the process with no model, {size(m.before_model_bytes)}",
            ),
        ),
        _change(m, "Test loss", "eval_loss", "loss_change", 3),
        _change(m, metric, "score", "score_gain", 2),
        _change(m, "Loss on unrelated text", "general_loss", "general_loss_change", 3),
        ("Steps done", m.steps_done, str(m.steps_done)),
        ("Training steps", m.train_seconds, _strong(seconds(m.train_seconds), steps, disturbed)),
        ("In all", m.total_seconds, _strong(seconds(m.total_seconds), expected)),
        (
            "Tokens",
            m.tokens_per_second,
            _strong(f"{units.format_number(m.tokens_per_second, 0)} a second", tokens),
        ),
        *(
            (
                f"Answering, {words}",
                getattr(m, speed_key(way)),
                _strong(
                    f"{METRICS[speed_key(way)].format(getattr(m, speed_key(way)))} tokens a second",
                    f"{size(getattr(m, memory_key(way)))} above the process with no model",
                ),
            )
            for way, words in ANSWER_WAYS.items()
        ),
        ("File to deliver", m.adapter_bytes, _strong(size(m.adapter_bytes), m.adapter_dtype or "")),
        *((f"Memory {when}", value, size(value)) for when, value in result.memory_at_end.items()),
    ]
    known = _table((name, text) for name, value, text in lines if value is not None)
    return known + _phases(result.phases, result.memory_kind)


def _strong(value: str, detail: str, extra: str = "") -> str:
    return f"<b>{escape(value)}</b>{extra} <small>{escape(detail)}</small>"


def _change(
    measures: Measures, name: str, key: str, difference: str, digits: int
) -> tuple[str, float | None, str]:
    """The line of a measure before and after training, with the interval of the difference."""
    before = getattr(measures, f"{key}_before")
    after = getattr(measures, f"{key}_after")
    shown = units.format_number(before, digits)
    if after is None:
        return name, before, shown
    line = f"{shown} → <b>{units.format_number(after, digits)}</b>"
    metric = METRICS[difference]
    values = [getattr(measures, part) for part in (difference, *metric.interval_keys)]
    if None not in values:
        line += f" <small>{escape(metric.text(*values))}, 95 % interval</small>"
    return name, after, line


def _phases(phases: Mapping[str, PhaseMeasure], kind: str) -> str:
    if not phases:
        return ""
    reserved = any(phase.reserved_bytes is not None for phase in phases.values())
    order = {str(name): place for place, name in enumerate(PHASES)}
    size = units.format_bytes
    rows = [
        (
            name.capitalize(),
            units.format_seconds(phase.seconds),
            size(phase.start_bytes),
            Markup("<b>{}</b>").format(size(phase.peak_bytes)),
            *([size(phase.reserved_bytes)] if reserved else []),
        )
        for name, phase in sorted(phases.items(), key=lambda item: order.get(item[0], len(order)))
    ]
    heads = ("Phase", "Time", "At start", f"Peak, {kind or 'memory'}")
    return table((*heads, "Reserved") if reserved else heads, rows, "t phases")


def _environment(run: Run) -> str:
    if run.result is None or not run.result.environment:
        return blank("Not known yet.", "Device and package versions are recorded when a run ends.")
    rows = []
    for name, value in run.result.environment.items():
        if isinstance(value, Mapping):
            rows += [(str(key), version) for key, version in value.items()]
        elif name.endswith("bytes") and isinstance(value, int | float):
            rows.append((name.removesuffix("_bytes"), units.format_bytes(value)))
        else:
            rows.append((name.replace("_", " "), units.DASH if value is None else value))
    return _pairs(rows)


def _samples(run: Run) -> str:
    try:
        rows = run.directory.samples()
    except OSError as error:
        return blank("The samples cannot be read.", f"{error.strerror}.")
    if not rows:
        return blank("No samples.", "They are written when a run has been evaluated.")
    shown = "".join(_sample(row) for row in rows[:SAMPLES_SHOWN])
    more = note_html(f"{min(len(rows), SAMPLES_SHOWN)} of {len(rows)} test prompts.")
    return f'<div class="samples" tabindex="0">{shown}</div>{more}'


def _sample(row: Mapping[str, Any]) -> str:
    prompt = row.get("prompt")
    last = prompt[-1] if isinstance(prompt, list) and prompt else {}
    question = str(last.get("content", "")) if isinstance(last, dict) else ""
    answers = "".join(_answer(row, when) for when in ("before", "after"))
    wanted = escape(str(row.get("reference", "")))
    return (
        f'<div class="pair"><p class="ctx">{escape(question)}</p><div class="two">{answers}</div>'
        f'<p class="wanted"><small>wanted</small><code>{wanted}</code></p></div>'
    )


def _answer(row: Mapping[str, Any], when: str) -> str:
    answer = row.get(f"answer_{when}")
    if answer is None:
        return ""
    text = escape(str(answer)) or "<i>nothing</i>"
    return f"<div><small>{when}</small>{_verdict(row, when)}<code>{text}</code></div>"


def _verdict(row: Mapping[str, Any], when: str) -> str:
    """A chip with the task's verdict on the answer, or with the score if there is no verdict."""
    score = row.get(f"score_{when}")
    number = float(score) if isinstance(score, int | float) else None
    words = str(row.get(f"verdict_{when}") or "")
    if not words:
        return "" if number is None else chip(f"score {units.format_number(number)}")
    kind = (
        "ok" if number is not None and number >= 1
        else "bad" if words.startswith("error")
        else "mute" if words.startswith("no ")
        else "warn"
    )  # fmt: skip
    short = words if len(words) <= 40 else words[:39] + "…"
    return chip(short, kind, title="" if short == words else words)


def _log(run: Run) -> str:
    text = run.directory.log_tail(LOG_CHARACTERS)
    if not text.strip():
        return blank("The log is empty.", "The worker writes to it once it has started.")
    return f'<pre class="log" tabindex="0">{escape(text)}</pre>'


def _pairs(rows: Iterable[tuple[str, Any]]) -> str:
    return _table((name, str(escape(str(value)))) for name, value in rows)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """Names are escaped here; values are HTML."""
    body = "".join(f"<tr><th>{escape(name)}</th><td>{value}</td></tr>" for name, value in rows)
    return f'<table class="t kv">{body}</table>'


_PANEL = "window.ftRuns.panel(element, watch)"


class Side:
    """The panel, hidden until a run is opened. `chosen` holds the id of the opened run, or ""."""

    def __init__(self, may_pack: bool = True, pushes: bool = False) -> None:
        small: dict[str, Any] = {"size": "sm", "min_width": 60}
        self.chosen = gr.State("")
        with gr.Column(
            scale=1, min_width=340, elem_classes="ft-sheet ft-run", visible=False,
            elem_id="run-panel",
        ) as self.block:  # fmt: skip
            self.close = gr.Button("Close", size="sm", elem_classes="ft-close")
            self.top = H(js_on_load=_PANEL, elem_id="run-top")
            with gr.Row(elem_classes="ft-run-buttons"):
                self.clone = gr.Button("Clone", elem_id="run-clone", **small)
                self.again = gr.Button("Re-run", elem_id="run-again", **small)
                self.resume = gr.Button("Resume", elem_id="run-resume", **small)
                self.archive = gr.Button("Archive", elem_id="run-archive", **small)
                self.delete = gr.Button("Delete", variant="stop", elem_id="run-delete", **small)
            self.onward = NextButtons("run", "Compare its sweep", "Ask it", is_main=False)
            with gr.Accordion("Tags and note", open=False, elem_classes="ft-fold") as self.edits:
                self.tags = live(
                    gr.Textbox, label="Tags, between commas", max_lines=1, elem_id="run-tags"
                )
                self.note = live(
                    gr.Textbox, label="Note", lines=2, max_lines=10, max_length=NOTE_LENGTH,
                    elem_id="run-note",
                )  # fmt: skip
                with gr.Row(elem_classes="ft-run-buttons"):
                    self.save = gr.Button("Save", elem_id="run-save", **small)
                    self.saved = H("")
            self.use = Use(may_pack, pushes)
            self.pages = []
            with gr.Tabs(elem_classes="ft-inner"):
                for name in PAGES:
                    with gr.Tab(name):
                        self.pages.append(H())

    @property
    def facts(self) -> list[Any]:
        """The components that change while a run is in progress."""
        return [self.top, *self.pages]

    @property
    def outputs(self) -> list[Any]:
        """The components that `opened_run` updates."""
        return [
            self.chosen, self.block, *self.facts, self.edits, self.tags, self.note, self.saved,
            self.clone, self.again, self.resume, self.archive, self.delete, *self.onward.outputs,
        ]  # fmt: skip


def wire_side(side: Side, context: AppContext, links: Links, refresh: Action) -> None:
    """Wires Close, Save, `Use it` and the next steps. `wire_bar` wires the other buttons."""
    store = context.store

    def save(run_id: str, tags: str, note: str) -> list[Any]:
        try:
            said = note_html(save_notes(store, run_id, tags, note), "status")
        except FtlabError as error:
            said = field_error([str(error)])
        return [said, edits_label(find(store, run_id))]

    side.close.click(lambda: closed(side), None, side.outputs, **QUIET)
    saving = gr.on(
        [side.save.click, side.tags.submit],
        save,
        [side.chosen, side.tags, side.note],
        [side.saved, side.edits],
        **QUIET,
    )
    refresh.after(saving)
    wire_use(side.use, side.chosen, store, context.access)
    side.onward.wire(context, links)


def opened_run(store: RunStore, run_id: str, side: Side) -> list[Any]:
    """Updates for `Side.outputs`. If the run is gone, the panel shows an error."""
    found = find(store, run_id)
    run = found if isinstance(found, Run) else None
    own = run is not None and run.origin == "measured"
    opened = run is not None and run.origin == "opened"
    return [
        run_id,
        gr.Column(visible=True),
        *facts(store, run_id),
        edits_label(found),
        ", ".join(run.annotations.tags) if run else "",
        run.annotations.note if run else "",
        "",
        gr.Button(visible=run is not None),
        gr.Button(visible=own),
        gr.Button(visible=own and run is not None and run.resumes_from is not None),
        gr.Button(archive_label(run is not None and run.annotations.archived), visible=own),
        gr.Button("Remove sweep" if opened else "Delete", visible=own or opened),
        *side.onward.show(steps_of(found, store)),
    ]


def steps_of(found: Run | PublishedRun | str, store: RunStore) -> NextSteps:
    """What can be done with the sweep of what `find` found."""
    if isinstance(found, str):
        return NextSteps()
    sweep = found.spec.sweep_id if isinstance(found, Run) else found.sweep_id
    return steps_of_run(store, found.run_id, sweep)


def facts(
    store: RunStore, run_id: str, read: Callable[[Run], Progress] = read_progress
) -> tuple[str, ...]:
    """The HTML of `Side.facts`. `read` returns the progress of an unfinished run."""
    found = find(store, run_id)
    if isinstance(found, Run):
        return panel(found, read).parts()
    if isinstance(found, PublishedRun):
        return published_panel(found).parts()
    return Panel(field_error([found]), "", "", "", "").parts()


def closed(side: Side) -> list[Any]:
    """Updates for `Side.outputs` that close the panel."""
    updates = ["", gr.Column(visible=False), *("" for _ in side.facts)]
    return updates + [gr.skip()] * (len(side.outputs) - len(updates))


def find(store: RunStore, run_id: str) -> Run | PublishedRun | str:
    """The run with that id, ignoring filters, or a sentence about why it was not found."""
    try:
        return store.find(run_id)
    except (FtlabError, OSError) as error:
        published = [run for run in store.published() if run.run_id == run_id]
        return published[0] if published else str(error)


def origin_of(store: RunStore, run_id: str) -> str:
    """The origin of the run with that id; "" if there is none."""
    found = find(store, run_id)
    if isinstance(found, str):
        return ""
    return found.origin if isinstance(found, Run) else "imported"


def archive_label(are_archived: bool) -> str:
    return "Unarchive" if are_archived else "Archive"


def edits_label(found: Run | PublishedRun | str) -> gr.Accordion:
    """The accordion, with its content summarised in the label; visible only for own runs."""
    if not isinstance(found, Run) or found.origin != "measured":
        return gr.Accordion(visible=False)
    tags = ", ".join(found.annotations.tags)
    words = [f"tags: {tags}"] if tags else []
    words += ["a note"] if found.annotations.note else []
    return gr.Accordion(
        label=f"Tags and note ({'; '.join(words)})" if words else "Tags and note", visible=True
    )
