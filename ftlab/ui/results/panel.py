"""One run opened: its numbers by phase, settings, environment, samples and log, as HTML."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ftlab import units
from ftlab.html import origin_chip
from ftlab.runs.metrics import METRICS
from ftlab.runs.progress import Progress, read_progress
from ftlab.runs.published import PublishedRun
from ftlab.runs.result import PHASES, Measures, PhaseMeasure, RunResult
from ftlab.runs.scored import scored_by
from ftlab.runs.spec_rows import spec_rows
from ftlab.runs.store import Run
from ftlab.ui.html import blank, chip, escape, swatch
from ftlab.ui.results.columns import COLUMNS, MEASURES, is_missing
from ftlab.ui.results.html import status_chip

PAGES = ("Samples", "Config", "Environment", "Log")
SAMPLES_SHOWN = 12
LOG_CHARACTERS = 8000
_PHASE_WORDS = {"load": "Load", "train": "Train", "evaluate": "Evaluate", "save": "Save"}


@dataclass(frozen=True)
class Panel:
    """The HTML of the panel's parts, in the order in which they stand: the top, then `PAGES`."""

    top: str
    samples: str
    config: str
    environment: str
    log: str

    def parts(self) -> tuple[str, str, str, str, str]:
        return self.top, self.samples, self.config, self.environment, self.log


def panel(run: Run, read: Callable[[Run], Progress] = read_progress) -> Panel:
    """`read` is how an open run's progress is read."""
    return Panel(
        top=_head(run)
        + _state(run, read)
        + (_numbers(run.result) if run.result else "")
        + _notes(run),
        samples=_samples(run),
        config=_pairs(_settings(run)),
        environment=_environment(run),
        log=_log(run),
    )


def published_panel(run: PublishedRun) -> Panel:
    """A result of others: its numbers, and the facts that its file gives."""
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
    return Panel(
        top=_title(run.run_id, str(row.get("method")), str(row.get("variant")), status, "imported")
        + wrong
        + numbers
        + _pairs(run.facts),
        samples=nothing,
        config=_pairs(settings),
        environment=nothing,
        log=nothing,
    )


def _head(run: Run) -> str:
    origin = run.origin if run.result or run.origin != "measured" else ""
    return _title(run.run_id, run.spec.method, run.spec.label, run.status, origin)


def _title(run_id: str, method: str, label: str, status: str, origin: str) -> str:
    """The heading takes the focus as the panel opens, and names the run whose row is marked."""
    return (
        f'<div class="hd" data-run="{escape(run_id)}"><div><h3 tabindex="-1">{swatch(method)}'
        f"{escape(label)}</h3></div>{status_chip(status)}{origin_chip(origin) if origin else ''}"
        f'</div><p class="meta id"><code>{escape(run_id)}</code></p>'
    )


def _state(run: Run, read: Callable[[Run], Progress]) -> str:
    """Why a run did not get to its end, or how far an open one is."""
    if run.is_open:
        way = read(run)
        step = f", step {way.step} of {way.steps}" if way.steps else ""
        if way.download is not None:
            step = f" the base model, {way.download.label}"
        left = f"; about {units.format_seconds(way.left_seconds)} left" if way.left_seconds else ""
        where = f"{way.label.capitalize()}{step}{left}. Numbers come when it ends."
        return f'<p class="meta">{escape(where)}</p>'
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
    tokens = (
        f"{count(m.train_tokens)} in all; padding ({units.format_share(m.padding_share)}) aside"
    )
    disturbed = f" {chip('disturbed', 'warn')}" if m.disturbed else ""
    lines: list[tuple[str, Any, str]] = [
        (
            "Trainable",
            m.trainable_params,
            _strong(
                count(m.trainable_params), f"{units.format_share(share)} of {count(m.total_params)}"
            ),
        ),
        (
            "Net peak, train",
            m.net_peak_memory_bytes,
            _strong(
                size(m.net_peak_memory_bytes),
                f"above the process with no model, {size(m.before_model_bytes)}",
            ),
        ),
        (
            "Held-out loss",
            _first(m.eval_loss_before, m.eval_loss_after),
            _change(m.eval_loss_before, m.eval_loss_after, 3) + _interval(m, "loss_change"),
        ),
        (
            metric,
            _first(m.score_before, m.score_after),
            _change(m.score_before, m.score_after, 2) + _interval(m, "score_gain"),
        ),
        (
            "Loss on unrelated text",
            _first(m.general_loss_before, m.general_loss_after),
            _change(m.general_loss_before, m.general_loss_after, 3)
            + _interval(m, "general_loss_change"),
        ),
        ("Steps done", m.steps_done, str(m.steps_done)),
        (
            "Training steps",
            m.train_seconds,
            _strong(seconds(m.train_seconds), steps, disturbed),
        ),
        ("In all", m.total_seconds, seconds(m.total_seconds)),
        (
            "Tokens",
            m.tokens_per_second,
            _strong(f"{units.format_number(m.tokens_per_second, 0)} a second", tokens),
        ),
        ("File to ship", m.adapter_bytes, _strong(size(m.adapter_bytes), m.adapter_dtype or "")),
        *((f"Memory {when}", value, size(value)) for when, value in result.memory_at_end.items()),
    ]
    table = _table((name, text) for name, value, text in lines if value is not None)
    return table + _phases(result.phases, result.memory_kind)


def _strong(value: str, detail: str, extra: str = "") -> str:
    return f"<b>{escape(value)}</b>{extra} <small>{escape(detail)}</small>"


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _change(before: float | None, after: float | None, digits: int) -> str:
    shown = units.format_number(before, digits)
    return shown if after is None else f"{shown} → <b>{units.format_number(after, digits)}</b>"


def _interval(measures: Measures, key: str) -> str:
    """The change with its 95 % interval, in small; empty where it is not known."""
    metric = METRICS[key]
    value, low, high = (getattr(measures, name) for name in (key, *metric.interval_keys))
    if value is None or low is None or high is None:
        return ""
    return f" <small>{escape(metric.text(value, low, high))}, 95 % interval</small>"


def _phases(phases: Mapping[str, PhaseMeasure], kind: str) -> str:
    if not phases:
        return ""
    reserved = any(phase.reserved_bytes is not None for phase in phases.values())
    rows = "".join(
        f'<tr><td class="l">{escape(_PHASE_WORDS.get(name, name))}</td>'
        f"<td>{units.format_seconds(phase.seconds)}</td>"
        f"<td>{units.format_bytes(phase.start_bytes)}</td>"
        f"<td><b>{units.format_bytes(phase.peak_bytes)}</b></td>"
        + (f"<td>{units.format_bytes(phase.reserved_bytes)}</td>" if reserved else "")
        + "</tr>"
        for name, phase in sorted(phases.items(), key=lambda item: _phase_order(item[0]))
    )
    head = "<th>Reserved</th>" if reserved else ""
    title = escape(kind or "memory")
    return (
        '<div class="scroll"><table class="t phases"><thead><tr><th class="l">Phase</th>'
        f"<th>Time</th><th>At start</th><th>Peak, {title}</th>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _phase_order(name: str) -> int:
    return list(PHASES).index(name) if name in PHASES else len(PHASES)


def _notes(run: Run) -> str:
    notes = run.result.notes if run.result else ()
    items = "".join(f"<li>{escape(note)}</li>" for note in notes if note)
    return f'<ul class="notes">{items}</ul>' if items else ""


def _settings(run: Run) -> list[tuple[str, Any]]:
    spec = run.spec
    return [
        *spec_rows(spec, scored_by(run)),
        ("Sweep", spec.sweep_id),
        ("Base run", spec.base_run_id or units.DASH),
        ("Queued", time.strftime("%d %b %Y %H:%M:%S", time.localtime(spec.created_at))),
    ]


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
    more = f'<p class="meta">{min(len(rows), SAMPLES_SHOWN)} of {len(rows)} held-out prompts.</p>'
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
    """The task's own words for the answer; where it has none, the score."""
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
