"""The sections of a report: what was held equal, results, answers, and the origin of the numbers.

The page and the report show the same text.
"""

from __future__ import annotations

import math
import shlex
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from ftlab import __version__
from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.words import plural, rate_name, shorten
from ftlab.charts.facts import VariantRuns, by_variant, day
from ftlab.charts.html import chip, named
from ftlab.charts.savings import full_row, variant_means
from ftlab.jobs.launch import requests_of
from ftlab.methods.variant import Variant, format_variant
from ftlab.models.reference import BUNDLED_ID, model_label
from ftlab.playground.grid import Cell, GridDirectory, GridRequest
from ftlab.playground.grid_table import (
    PaneSummary,
    by_place,
    by_score,
    foremost,
    headline,
    pane_labels,
    summary,
)
from ftlab.playground.requests import MAX_PANES, GenerateRequest
from ftlab.records.comparability import Comparability, comparability_of_runs
from ftlab.records.differences import RULE
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.opened import read_opened
from ftlab.records.recommendation import CRITERIA, recommendations
from ftlab.records.recording import read_provenance
from ftlab.records.result import PHASES, status_label
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, SweepData
from ftlab.records.table import origin_label
from ftlab.settings.generation import PRECISIONS
from ftlab.settings.training import DTYPE_POLICIES, TrainingSettings
from ftlab.share.page import NOTHING, each, numbers_table, small_print, standalone
from ftlab.share.page import table as page_table
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.registry import TASKS
from ftlab.tasks.spec import TEXT_METRICS

IMPORTED = (
    "Imported results of others: not measured here and not held to the same conditions as your runs"
)


def likeness_chip(found: Comparability) -> str:
    """The verdict as a chip, with the differing values on hover; empty without runs."""
    return chip(found.verdict, f"{found.kind} like", found.sentence) if found.runs else ""


def fairness_html(data: SweepData) -> str:
    """What the finished runs share and what differs, as escaped HTML; empty if none is done.

    Results of others are not compared.
    """
    if data.origin == "imported":
        mark = chip("not compared", "warn")
        return f'<div class="fair">{mark}<p class="meta">{IMPORTED}.</p></div>'
    done = [run for run in data.own_runs if run.status == "done"]
    if not done:
        return ""
    found = comparability_of_runs(done)
    unlike = "; ".join(map(str, found.unlike))
    parts = [
        ("", "Same", ", ".join(found.same)),
        (' class="differs"', "Differs", unlike),
        ("", "Not recorded", ", ".join(found.unknown)),
        ("", "Set by method", _by_method(done)),
    ]
    words = " ".join(f"<b{style}>{name}</b> {escape(text)}." for style, name, text in parts if text)
    return f'<div class="fair">{likeness_chip(found)}<p class="meta">{words}</p></div>'


def _by_method(done: Sequence[Run]) -> str:
    rates = {run.spec.label: rate_name(run.spec.learning_rate) for run in done}
    if len(rates) > 1 and len(set(rates.values())) == 1:
        words = f"nothing else; learning rate {next(iter(rates.values()))} for all"
    else:
        words = f"learning rate ({', '.join(f'{name} {rate}' for name, rate in rates.items())})"
    held = {
        run.spec.label: f"{run.spec.label} on a base held in {run.spec.base_precision}"
        for run in done
        if run.spec.base_precision and f"on {run.spec.base_precision}" not in run.spec.label
    }
    return "; ".join([words, *held.values()])


def ended_words(table: pd.DataFrame) -> list[str]:
    """As in "QLoRA, seed 0: failed. The loss was not a number." for each row of the table."""
    return [
        f"{row.variant}, seed {row.seed}: {status_label(row.status)}"
        + (f". {row.reason}" if row.reason else "")
        for row in table.itertuples()
    ]


# Always part of the command, because the defaults may change in a later version.
_ALWAYS = ("steps", "batch_size", "max_length", "eval_examples")


@dataclass(frozen=True)
class Command:
    """`parts` are options with values, quoted for a shell; `note` is what no option can express."""

    parts: tuple[str, ...]
    note: str = ""

    @property
    def text(self) -> str:
        return " ".join(self.parts)

    @property
    def lines(self) -> str:
        """The command over several lines, in shell syntax."""
        return " \\\n  ".join(self.parts)


def command_of(request: SweepRequest) -> Command:
    """The `sweep` command that makes the same request."""
    parts = [
        "python -m ftlab sweep",
        *([] if request.model in ("bundled", BUNDLED_ID) else [_option("model", request.model)]),
        *_task(request.task),
        *_variants(request.variants),
        _option("seeds", ",".join(map(str, request.seeds))),
        *_settings(request.settings),
        _option("dtype-policy", request.dtype_policy),
        _option("device", request.device),
        *([_option("memory-limit", request.memory_limit)] if request.memory_limit else []),
    ]
    return Command(tuple(parts), _note(request))


def _option(name: str, value: object) -> str:
    text = shlex.quote(str(value))
    # A value with a leading dash would be parsed as an option.
    return f"--{name}={text}" if str(value).startswith("-") else f"--{name} {text}"


def _columns(task: TaskReference) -> dict[str, str]:
    """The columns of the task's file or data set that are set, by role."""
    columns = {} if task.mapping is None else vars(task.mapping)
    return {role: column for role, column in columns.items() if column}


def _task(task: TaskReference) -> list[str]:
    parts = [_option("task", f"hub:{task.id}" if task.kind == "hub" else task.id)]
    columns = ",".join(f"{role}={column}" for role, column in _columns(task).items())
    parts += [_option("columns", columns)] if columns else []
    for name, value in (
        ("metric", task.metric),
        ("hub-config", task.config),
        ("hub-split", task.split),
    ):
        parts += [_option(name, value)] if value else []
    return parts


def _variants(variants: Sequence[Variant]) -> list[str]:
    texts = [format_variant(variant) for variant in variants]
    if all(":" not in text for text in texts):
        return [_option("methods", ",".join(texts))]
    return [_option("variant", text) for text in texts]


def _settings(settings: TrainingSettings) -> list[str]:
    defaults = TrainingSettings()
    parts = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value == getattr(defaults, field.name) and field.name not in _ALWAYS:
            continue
        name = field.name.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, tuple):
            parts.append(_option(name, ",".join(map(str, value))))
        else:
            parts.append(_option(name, value))
    return parts


def _note(request: SweepRequest) -> str:
    """What the command line has no option for."""
    if request.task.seed:
        return f"The data were drawn with seed {request.task.seed}; the command line uses seed 0."
    if any("," in name or name != name.strip() for name in _columns(request.task).values()):
        return (
            "A column's name holds a comma or begins or ends with a space, which the command line "
            "cannot say; rename it first."
        )
    return ""


COLUMNS = 6
"""Variants side by side in one table; more go into further tables, so that all fit on paper."""

_LABEL_LENGTH = 40  # of a variant's name that is repeated in each cell, on a phone
_PLAIN_STATUS = {"done": "ok", "queued": "", "running": ""}


def recommendation_section(table: pd.DataFrame) -> Markup:
    """What to use: for the least memory, and what other preferences would choose."""
    each_found = recommendations(table, CRITERIA)
    found = each_found["memory"]
    others = "; ".join(
        f"for {CRITERIA[prefer].words}: {shorten(one.choice, 60)}"
        for prefer, one in each_found.items()
        if one.choice and one.choice != found.choice
    )
    return Markup("<h2>{}</h2><p>{}</p><ul>{}</ul>{}").format(
        found.title,
        found.sentence,
        each("<li>{}</li>", ((sentence,) for sentence in found.details)),
        small_print(f"Otherwise, {others}." if others else "", found.basis),
    )


def results_section(table: pd.DataFrame) -> Markup:
    """Every measure with mean and spread over the finished runs; below it a table of the runs."""
    groups = [(group, _done(group)) for group in by_variant(table)]
    metrics = shown_metrics(table)
    blocks = [groups[start : start + COLUMNS] for start in range(0, len(groups), COLUMNS)]
    several = any(len(done.rows) > 1 for _, done in groups)
    spread = (
        " ± is the standard deviation over the repeats (seeds); without it all gave the same, "
        "or there is one."
        if several
        else " Each was run once: how far repeats differ is not known."
    )
    return Markup('<h2>Results</h2><p class="meta">{}{}</p>{}{}').format(
        f"Runs that are done. {units.DASH} is what was not measured.",
        spread,
        NOTHING.join(_block(block, metrics) for block in blocks),
        runs_table(table),
    )


def shown_metrics(table: pd.DataFrame) -> list[MetricSpec]:
    """All metrics, without the optional ones that no run of the table has."""
    return [metric for key, metric in METRICS.items()
            if not metric.is_optional or table[key].notna().any()]  # fmt: skip


def value_text(metric: MetricSpec, values: Sequence[float]) -> str:
    """Mean and standard deviation, as in "1.29 GB ± 12.0 MB"; a dash without values."""
    if not values:
        return units.DASH
    mean = sum(values) / len(values)
    text = metric.format(mean)
    if len(values) > 1:
        spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        if spread > 1e-9 * abs(mean):
            text += f" ± {metric.spread_text(spread)}"
    return text


def pairs_table(rows: Iterable[tuple[str, str]]) -> Markup:
    """Names and texts in two columns."""
    body = each("<tr><th>{}</th><td>{}</td></tr>", rows)
    return Markup('<table class="pairs"><tbody>{}</tbody></table>').format(body)


def _block(
    groups: Sequence[tuple[VariantRuns, VariantRuns]], metrics: Sequence[MetricSpec]
) -> Markup:
    """The table of some variants, each given by all its runs and by those that are done."""
    rows: list[tuple[Any, list[str]]] = [
        ("Runs done", [f"{len(done.rows)} of {len(group.rows)}" for group, done in groups]),
        ("Settings", [_settings_of(group) for group, _ in groups]),
        ("Learning rate", [_rates(group) for group, _ in groups]),
    ]
    for metric in metrics:
        name = Markup("{} <small>{}, {} is better</small>").format(
            metric.label, metric.unit, metric.direction
        )
        rows.append((name, [measured_text(metric, done) for _, done in groups]))
    heads = [Markup(named(group.method, group.variant)) for group, _ in groups]
    labels = [shorten(group.variant, _LABEL_LENGTH) for group, _ in groups]
    return numbers_table("Results", "results", "Measure", heads, rows, labels)


def runs_table(table: pd.DataFrame) -> Markup:
    """One row per run: its status, the reason, tags and notes."""
    rows = NOTHING.join(map(_run, table.to_dict("records")))
    heads = each("<th>{}</th>", [("Variant",), ("Seed",), ("Status",), ("Run",)])
    return Markup("<h3>{}</h3>{}").format(
        plural(len(table), "run"), page_table("Runs", "runs", heads, rows)
    )


def _run(row: dict[Any, Any]) -> Markup:
    status = str(row["status"])
    remarks = [
        _text(row["reason"]),
        "the computer was busy: times are too long" if row["disturbed"] is True else "",
        f"tags: {row['tags']}" if _text(row["tags"]) else "",
        _text(row["note"]),
    ]
    below = each("<br><small>{}</small>", ((text,) for text in remarks if text))
    made = row["created_at"]
    when = (
        time.strftime("%d %b %Y %H:%M", time.localtime(made))
        if isinstance(made, int | float) and 0 < made < 1e11
        else ""
    )
    return Markup(
        "<tr><th>{}</th><td>{}</td><td>{}</td><td><code>{}</code> <small>{}</small>{}</td></tr>"
    ).format(
        Markup(named(str(row["method"]), str(row["variant"]))),
        _number(row["seed"]),
        Markup(chip(status_label(status), _PLAIN_STATUS.get(status, "bad"))),
        row["run_id"],
        when,
        below,
    )


def measured_text(metric: MetricSpec, done: VariantRuns) -> str:
    """The value of the variant's runs that are done: with its interval for one run that has one,
    else as `value_text`."""
    rows = done.rows
    ends = [rows[0][key] for key in metric.interval_keys] if len(rows) == 1 else []
    if ends:
        return metric.text(rows[0][metric.key], *ends)
    return value_text(metric, done.values(metric.key))


def _done(group: VariantRuns) -> VariantRuns:
    return replace(group, rows=tuple(row for row in group.rows if row["status"] == "done"))


def _settings_of(group: VariantRuns) -> str:
    texts = dict.fromkeys(_text(row["hyperparameters"]) for row in group.rows)
    return " / ".join(filter(None, texts)) or units.DASH


def _rates(group: VariantRuns) -> str:
    rates = sorted(set(group.values("learning_rate")))
    return " / ".join(rate_name(rate) for rate in rates) or units.DASH


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> str:
    if isinstance(value, float):
        return units.DASH if math.isnan(value) else f"{value:g}"
    return units.DASH if value is None else str(value)


_MOST_VALUES = 3


def measuring_section(data: SweepData) -> Markup:
    """How each number was measured."""
    if data.origin == "imported":
        found: dict[str, list[str]] = {}
        for published in data.published:
            for name, value in published.facts:
                found.setdefault(str(name), []).append(str(value))
        return Markup(
            "<h2>What the publisher says</h2>"
            '<p class="meta">These results were measured by others, by their own means, and are '
            "shown as they were published.</p>{}"
        ).format(pairs_table((name, _distinct(values)) for name, values in found.items()))
    rows = [(m.label, f"{m.how} ({m.unit})") for m in shown_metrics(data.table)]
    rows += [("A difference", RULE)]
    rows += [("Phases", f"{', '.join(PHASES)}; the peak is reset between them")]
    kinds = _distinct(run.result.memory_kind for run in data.own_runs if run.result)
    rows += [("Memory here", kinds)] if kinds else []
    rows += [("Score here", how) for how in _score_how(data)]
    policies = dict.fromkeys(run.spec.dtype_policy for run in data.own_runs)
    rows += [(f"Dtype policy {policy}", DTYPE_POLICIES[policy]) for policy in policies]
    return Markup("<h2>How each number was measured</h2>{}").format(pairs_table(rows))


def environment_section(data: SweepData) -> Markup:
    """The machine and the versions; where runs differ, the different values."""
    found: dict[str, list[Any]] = {}
    for run in data.runs:
        for name, value in (run.result.environment if run.result else {}).items():
            found.setdefault(str(name), []).append(value)
    if not found:
        return NOTHING
    rows = (
        (
            name.removesuffix("_bytes").replace("_", " "),
            _distinct(_shown(name, value) for value in values) or units.DASH,
        )
        for name, values in found.items()
    )
    return Markup("<h2>Environment</h2>{}").format(pairs_table(rows))


def reproduce_section(data: SweepData) -> Markup:
    """The commands that run the sweep again."""
    commands = [command_of(request) for request in requests_of([run.spec for run in data.runs])]
    if not commands:
        return NOTHING
    several = " The runs differ in more than their variants and seeds." if commands[1:] else ""
    return Markup(
        "<h2>Run it again</h2>"
        '<p class="meta">With ftlab {}. Times and memory depend on the machine.{}</p>{}{}'
    ).format(
        __version__,
        several,
        each("<pre>{}</pre>", ((command.lines,) for command in commands)),
        small_print(*(command.note for command in commands)),
    )


def provenance_section(data: SweepData) -> Markup:
    """The provenance of a recorded or an opened sweep; empty for other sweeps."""
    if data.origin == "opened":
        return _opened_section(data)
    if data.origin != "recorded" or not data.runs:
        return NOTHING
    mark = Markup(chip("recorded", "recorded"))
    try:
        record = read_provenance(data.runs[0].directory.path.parent)
    except FtlabError as error:
        return Markup("<h2>Recorded {}</h2>{}").format(mark, small_print(error))
    rows = [
        ("Command", record.command),
        ("Measured", record.measured_at),
        ("Recorded", record.recorded_at),
        ("Machine", record.machine),
        ("ftlab", " ".join(filter(None, [record.ftlab_version, record.commit]))),
        ("Runs while the computer was busy", ", ".join(record.disturbed) or "none"),
        ("Left out of the recording", " ".join(record.left_out)),
    ]
    return Markup(
        "<h2>Recorded {}</h2>"
        '<p class="meta">Really run by the command below, and shipped with ftlab to be looked '
        "at. It is not measured on this machine.</p>{}"
    ).format(mark, pairs_table(row for row in rows if row[1]))


def _opened_section(data: SweepData) -> Markup:
    mark = Markup(chip(origin_label("opened"), "opened"))
    try:
        record = read_opened(data.runs[0].directory.path.parent)
    except FtlabError as error:
        return Markup("<h2>Measured {}</h2>{}").format(mark, small_print(error))
    rows = [
        ("Machine", _distinct(str(value) for value in data.table["machine"])),
        ("Device", _distinct(str(value) for value in data.table["device"])),
        ("Measured", day(float(data.table["created_at"].min()))),
        ("Opened here", day(record.opened_at)),
        ("Sweep there", record.packed_id),
        ("Packed by ftlab", record.ftlab_version),
        ("SHA-256 of what was packed", record.sha256),
    ]
    return Markup(
        "<h2>Measured {}</h2>"
        '<p class="meta">Opened from a packed sweep. Times and memory are those of its machine.'
        "</p>{}"
    ).format(mark, pairs_table(rows))


def _score_how(data: SweepData) -> Sequence[str]:
    ways = []
    for task in dict.fromkeys(run.spec.task for run in data.own_runs):
        if task.kind == "bundled":
            metric = TASKS[task.id].metric if task.id in TASKS else None
        else:
            metric = TEXT_METRICS.get(task.metric or "chrf")
        ways += [f"{metric.label}: {metric.how}"] if metric else []
    return list(dict.fromkeys(ways))


def _distinct(values: Any) -> str:
    """The shared value, or the first few different values and the number of the others."""
    texts = list(dict.fromkeys(text for text in values if text))
    more = len(texts) - _MOST_VALUES
    words = "; ".join(texts[:_MOST_VALUES])
    return f"{words}; and {more} more" if more > 0 else words


def _shown(name: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    if name.endswith("bytes") and isinstance(value, int | float):
        return units.format_bytes(value)
    return str(value)


EXAMPLES = 12
_MOST_ANSWERS = 8
_PROMPT_LENGTH, _ANSWER_LENGTH, _VERDICT_LENGTH = 1500, 800, 60

Key = tuple[str, str]
"""Prompt and expected answer, which identify an example."""


@dataclass(frozen=True)
class Answer:
    """A model's answer to a prompt; `text` is `None` if the model did not get the prompt."""

    text: str | None
    verdict: str = ""
    score: float | None = None


@dataclass(frozen=True)
class Speaker:
    """A base or a variant: one column of answers."""

    label: str
    method: str
    answers: Mapping[Key, Answer]


@dataclass(frozen=True)
class Samples:
    """`examples` are the first of `total`; `left_out` is the number of variants not shown."""

    examples: tuple[Key, ...]
    speakers: tuple[Speaker, ...]
    total: int
    left_out: int
    notes: tuple[str, ...]


def samples_of(data: SweepData, first: str = "") -> Samples | None:
    """The first recorded examples, answered by each base and by one seed of each variant.

    If there are too many variants, `first` and full fine-tuning are kept before the others. Returns
    `None` if no run has samples.
    """
    notes: list[str] = []
    bases = [run for run in data.base_runs if run.status == "done"]
    lowest: dict[str, Run] = {}  # the run with the lowest seed of each variant
    for run in sorted(data.own_runs, key=lambda run: run.spec.seed):
        if run.status == "done":
            lowest.setdefault(run.spec.label, run)
    full = full_row(variant_means(data.table))
    kept = [first, "" if full is None else str(full["variant"])]
    places = {run.run_id: place for place, run in enumerate(data.runs)}
    runs = sorted(lowest.values(), key=lambda run: (run.spec.label not in kept, places[run.run_id]))
    room = max(1, _MOST_ANSWERS - len(bases))
    chosen, beyond = runs[:room], len(runs[room:])
    speakers = [_speaker(run, "before", notes) for run in bases]
    speakers += [
        _speaker(run, "after", notes) for run in sorted(chosen, key=lambda run: places[run.run_id])
    ]
    speakers = [speaker for speaker in speakers if speaker.answers]
    if not speakers:
        return None
    longest = max(speakers, key=lambda speaker: len(speaker.answers))
    examples = tuple(list(longest.answers)[:EXAMPLES])
    return Samples(examples, tuple(speakers), len(longest.answers), beyond, tuple(notes))


def samples_section(samples: Samples) -> Markup:
    rule = (
        f"The first {len(samples.examples)} of {plural(samples.total, 'test example')}, in the "
        "order of the record; of each variant the run with the lowest seed."
    )
    if samples.left_out:
        rule += f" {plural(samples.left_out, 'further variant')} not shown."
    rule += f" Texts are cut after {_ANSWER_LENGTH} characters."
    return Markup(
        '<h2>The same prompts, answered side by side</h2><p class="meta">{}</p>{}'
    ).format(
        rule, NOTHING.join(_example(*of, samples.speakers) for of in enumerate(samples.examples, 1))
    )


def _example(number: int, key: Key, speakers: Sequence[Speaker]) -> Markup:
    prompt, wanted = key
    answers = each(
        '<div class="said"><p>{}{}</p><div class="text">{}</div></div>',
        (
            (
                Markup(named(speaker.method, speaker.label)),
                _verdict(speaker.answers.get(key)),
                _answer_text(speaker.answers.get(key)),
            )
            for speaker in speakers
        ),
    )
    return Markup(
        '<article class="example"><h3>{}</h3><div class="text prompt">{}</div>'
        '<p class="wanted"><small>wanted</small> <span class="text">{}</span></p>'
        '<div class="side">{}</div></article>'
    ).format(
        f"Example {number}",
        shorten(prompt, _PROMPT_LENGTH),
        shorten(wanted, _ANSWER_LENGTH),
        answers,
    )


_NOT_ANSWERED = Markup("<small>not answered</small>")
_EMPTY_ANSWER = Markup("<small>empty answer</small>")


def _answer_text(answer: Answer | None) -> str:
    if answer is None or answer.text is None:
        return _NOT_ANSWERED
    return shorten(answer.text, _ANSWER_LENGTH) if answer.text.strip() else _EMPTY_ANSWER


def _verdict(answer: Answer | None) -> Markup:
    """The task's verdict on the answer; the score if there is no verdict."""
    if answer is None or answer.text is None or (not answer.verdict and answer.score is None):
        return NOTHING
    kind = "ok" if answer.score is not None and answer.score >= 1 else "bad"
    words = shorten(answer.verdict, _VERDICT_LENGTH)
    return Markup(" ") + Markup(
        chip(words, kind) if words else chip(f"score {units.format_number(answer.score)}")
    )


def _speaker(run: Run, when: str, notes: list[str]) -> Speaker:
    answers: dict[Key, Answer] = {}
    try:
        rows = run.directory.samples()
    except OSError as error:
        notes.append(f"The samples of {run.run_id} cannot be read ({error.strerror}).")
        rows = []
    for row in rows:
        text, score = row.get(f"answer_{when}"), row.get(f"score_{when}")
        answers[_key(row)] = Answer(
            None if text is None else str(text),
            str(row.get(f"verdict_{when}") or ""),
            float(score) if isinstance(score, int | float) else None,
        )
    return Speaker(run.spec.label, run.spec.method, answers)


def _key(row: Mapping[str, Any]) -> Key:
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        prompt = "\n\n".join(map(_message, prompt))
    return str(prompt or ""), str(row.get("reference") or "")


def _message(message: Any) -> str:
    if not isinstance(message, dict):
        return str(message)
    role, content = str(message.get("role", "")), str(message.get("content", ""))
    return content if role in ("user", "") else f"[{role}] {content}"


def grid_page(grid: GridDirectory) -> str:
    """The grid as one self-contained HTML file."""
    return standalone(headline(grid), [grid_section(grid)])


def grid_section(grid: GridDirectory) -> str:
    """Returns the grid as escaped HTML; raises `FtlabError` if the grid cannot be read.

    An unfinished grid shows the answers so far.
    """
    panes = summary(grid)
    order = by_score(panes) if len(panes) > MAX_PANES else panes
    shown = foremost(order)
    parts = [
        Markup("<h2>{}</h2>").format(headline(grid)),
        small_print(settings_line(grid)),
        _summary_table(order),
        small_print(_of_many(panes, shown)) if len(shown) < len(panes) else NOTHING,
        _answers(grid.request(), grid.cells(), [pane.pane for pane in shown]),
    ]
    return str(NOTHING.join(parts))


def _of_many(panes: Sequence[PaneSummary], shown: Sequence[PaneSummary]) -> str:
    """What more panes than fit side by side mean for intervals and answers."""
    words = f"The answers of {len(shown)} of {len(panes)} panes follow; the CSV has all."
    compared = sum(pane.gain is not None for pane in panes)
    if not compared:
        return words
    return (
        f"Each interval is of one comparison: of {compared}, 5 % miss the true difference by "
        f"chance. {words}"
    )


def settings_line(grid: GridDirectory) -> str:
    """The settings that another grid must share to be comparable with this one, as plain text."""
    request, result = grid.request(), grid.result()
    device = str(result.environment.get("device", "")) if result else ""
    status = grid.status()
    parts = [
        *request_words(request.request),
        f"test examples of {request.task.label}" if request.task else "",
        time.strftime("%d %b %Y %H:%M", grid.made_at),
        device,
        f"{units.format_seconds(result.seconds)} in all" if result and result.seconds else "",
        "" if status == "done" else status + (f": {result.reason}" if result else ""),
    ]
    return " · ".join(filter(None, parts))


def request_words(asked: GenerateRequest) -> list[str]:
    """Model and settings of a request, as plain text."""
    drawn = f"temperature {asked.temperature:g}, top-p {asked.top_p:g}, seed {asked.seed}"
    parts = [
        model_label(asked.model or ""),
        f"base in {PRECISIONS[asked.precision]}",
        "" if asked.mode == "chat" else asked.mode,
        drawn if asked.temperature > 0 else f"greedy, seed {asked.seed}",
        f"repetition penalty {asked.repetition_penalty:g}" if asked.repetition_penalty > 1 else "",
        f"at most {asked.max_new_tokens} tokens",
        f"system prompt “{textwrap.shorten(asked.system, 160, placeholder=' …')}”"
        if asked.system
        else "",
    ]
    return list(filter(None, parts))


def _summary_table(panes: list[PaneSummary]) -> Markup:
    is_scored = any(pane.scored for pane in panes)
    over = next((pane.gain.over for pane in panes if pane.gain), "")
    heads = ["Answered", "Errors"]
    if is_scored:
        metric = next((pane.metric for pane in panes if pane.metric), "")
        heads += [f"{metric or 'Score'}, 95 %"]
        heads += [f"Over {over}, 95 %"] if over else []
    heads.append("Tokens/s, median")
    rows = []
    for pane in panes:
        cells = [str(pane.answered), str(pane.errors)]
        if is_scored:
            cells.append(_score(pane))
            cells += [_gain(pane)] if over else []
        cells.append(units.format_number(pane.tokens_per_second, 1))
        rows.append((Markup(named(pane.method, pane.label)), cells))
    return numbers_table("Panes", "panes", "Pane", heads, rows, heads)


def _score(pane: PaneSummary) -> str:
    if pane.score is None:
        return units.DASH
    count = f"{pane.right} of {pane.scored} = " if pane.right is not None else ""
    between = f" [{pane.interval[0]:.2f}, {pane.interval[1]:.2f}]" if pane.interval else ""
    return f"{count}{pane.score:.2f}{between}"


def _gain(pane: PaneSummary) -> str:
    gain = pane.gain
    return f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]" if gain else units.DASH


def _answers(request: GridRequest, cells: list[Cell], panes: Sequence[int]) -> Markup:
    """A row for each prompt, a column for each of those panes."""
    every = pane_labels(request)
    places, labels = by_place(cells), [(pane, every[pane]) for pane in panes]
    heads = each(
        "<th>{}</th>", ((Markup(named(request.method(pane), label)),) for pane, label in labels)
    )
    rows = NOTHING.join(
        Markup(
            '<tr><td class="n">{}</td><td data-label="Prompt"><div class="text">{}</div></td>'
            "{}</tr>"
        ).format(
            number + 1,
            prompt,
            each(
                '<td data-label="{}">{}</td>',
                ((label, _answer(places.get((number, pane)))) for pane, label in labels),
            ),
        )
        for number, prompt in enumerate(request.prompts)
    )
    first = Markup('<th class="n">#</th><th>Prompt</th>')
    return page_table("Answers", "answers stack", first + heads, rows)


def _answer(cell: Cell | None) -> Markup:
    if cell is None:
        return _NOT_ANSWERED
    text = Markup('<div class="text">{}</div>').format(cell.answer) if cell.answer else NOTHING
    if cell.error:
        return text + Markup(chip("error", "bad")) + Markup(" <small>{}</small>").format(cell.error)
    if not cell.answer:
        text = _EMPTY_ANSWER + " "
    note = Markup("<br><small>{}</small>").format(cell.note) if cell.note else NOTHING
    return text + _cell_verdict(cell) + note


def _cell_verdict(cell: Cell) -> Markup:
    """The verdict in words, or the score if there is none; never by colour alone."""
    if cell.score is None:
        return NOTHING
    kind = "ok" if cell.score == 1 else "bad" if cell.score == 0 else ""
    return Markup(chip(cell.verdict or f"{cell.metric} {cell.score:.2f}".strip(), kind))
