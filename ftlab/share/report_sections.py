"""The sections of a report: what was held equal, results, answers, and the origin of the numbers.

The page and the report show the same text.
"""

from __future__ import annotations

import math
import shlex
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from ftlab import __version__
from ftlab.basics import units
from ftlab.basics.errors import FtlabError
from ftlab.basics.words import plural, rate_name, shorten
from ftlab.charts.facts import VariantRuns, by_variant
from ftlab.charts.html import chip, named
from ftlab.charts.savings import full_row, variant_means
from ftlab.jobs.launch import requests_of
from ftlab.methods.variant import Variant, format_variant
from ftlab.models.reference import BUNDLED_ID, model_label
from ftlab.playground.grid import Cell, GridDirectory, GridRequest
from ftlab.playground.grid_table import PaneSummary, by_place, headline, pane_labels, summary
from ftlab.records.comparability import Comparability, comparability_of_runs
from ftlab.records.differences import RULE
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.recording import Provenance, read_provenance
from ftlab.records.result import PHASES, status_label
from ftlab.records.spec import SweepRequest
from ftlab.records.store import Run, SweepData
from ftlab.settings.generation import PRECISIONS
from ftlab.settings.training import DTYPE_POLICIES, TrainingSettings
from ftlab.share.page import standalone
from ftlab.tasks.reference import TaskReference
from ftlab.tasks.registry import TASKS
from ftlab.tasks.scoring import TEXT_METRICS

IMPORTED = (
    "Imported results of others: not measured here and not held to the same conditions as your runs"
)


def likeness_chip(found: Comparability) -> str:
    """The verdict as a chip, with the differing values on hover; empty without runs."""
    return chip(found.verdict, f"{found.kind} like", found.sentence) if found.runs else ""


def fairness_html(runs: Sequence[Run]) -> str:
    """What the finished runs share and what differs, as escaped HTML; empty if none is done."""
    done = [run for run in runs if run.status == "done" and not run.spec.is_base]
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


def _task(task: TaskReference) -> list[str]:
    parts = [_option("task", f"hub:{task.id}" if task.kind == "hub" else task.id)]
    if task.mapping is not None:
        named = {field.name: getattr(task.mapping, field.name) for field in fields(task.mapping)}
        columns = ",".join(f"{role}={column}" for role, column in named.items() if column)
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
    mapping = request.task.mapping
    columns = [] if mapping is None else [getattr(mapping, field.name) for field in fields(mapping)]
    if any("," in column or column != column.strip() for column in columns if column):
        return (
            "A column's name holds a comma or begins or ends with a space, which the command line "
            "cannot say; rename it first."
        )
    return ""


COLUMNS = 6
"""Variants side by side in one table; more go into further tables, so that all fit on paper."""

_LABEL_LENGTH = 40  # of a variant's name that is repeated in each cell, on a phone
_DASH = Markup("")
_PLAIN_STATUS = {"done": "ok", "queued": "", "running": ""}


def results_section(table: pd.DataFrame) -> Markup:
    """Every measure with mean and spread over the finished runs; below it a table of the runs."""
    groups = by_variant(table)
    blocks = [groups[start : start + COLUMNS] for start in range(0, len(groups), COLUMNS)]
    several = any(len(_done(group).rows) > 1 for group in groups)
    spread = (
        " ± is the standard deviation over the seeds; without it all seeds gave the same, "
        "or there is one."
        if several
        else " One seed each: no spread is known."
    )
    return Markup('<h2>Results</h2><p class="meta">{}{}</p>{}{}').format(
        f"Runs that are done. {units.DASH} is what was not measured.",
        spread,
        _DASH.join(_block(block) for block in blocks),
        runs_table(table),
    )


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
    body = _DASH.join(Markup("<tr><th>{}</th><td>{}</td></tr>").format(*row) for row in rows)
    return Markup('<table class="pairs"><tbody>{}</tbody></table>').format(body)


def _block(groups: Sequence[VariantRuns]) -> Markup:
    heads = _DASH.join(
        Markup('<th class="num">{}</th>').format(Markup(named(group.method, group.variant)))
        for group in groups
    )
    rows = [
        _row("Runs done", "", groups, _count),
        _row("Settings", "", groups, partial(_texts, key="hyperparameters")),
        _row("Learning rate", "", groups, _rates),
        *(
            _row(
                metric.label,
                f"{metric.unit}, {metric.better} is better",
                groups,
                partial(_measured, metric),
            )
            for metric in METRICS.values()
        ),
    ]
    return Markup(
        '{}<table class="results stack"><thead><tr><th>Measure</th>{}</tr>'
        "</thead><tbody>{}</tbody></table></div>"
    ).format(_scroll("Results"), heads, _DASH.join(rows))


def _row(
    name: str, unit: str, groups: Sequence[VariantRuns], show: Callable[[VariantRuns], str]
) -> Markup:
    cells = _DASH.join(
        Markup('<td class="num" data-label="{}">{}</td>').format(
            shorten(group.variant, _LABEL_LENGTH), show(group)
        )
        for group in groups
    )
    below = Markup(" <small>{}</small>").format(unit) if unit else _DASH
    return Markup("<tr><th>{}{}</th>{}</tr>").format(name, below, cells)


def runs_table(table: pd.DataFrame) -> Markup:
    """One row per run: its status, the reason, tags and notes."""
    rows = _DASH.join(_run(row) for row in table.to_dict("records"))
    return Markup(
        "<h3>{}</h3>"
        '{}<table class="runs"><thead><tr><th>Variant</th><th>Seed</th>'
        "<th>Status</th><th>Run</th></tr></thead><tbody>{}</tbody></table></div>"
    ).format(plural(len(table), "run"), _scroll("Runs"), rows)


def _scroll(name: str) -> Markup:
    """Opens a box that scrolls sideways if its table is too wide, also by keyboard."""
    return Markup('<div class="scroll" tabindex="0" role="region" aria-label="{}">').format(name)


def _run(row: dict[Any, Any]) -> Markup:
    status = str(row["status"])
    label = status_label(status)
    kind = _PLAIN_STATUS.get(status, "bad")
    remarks = [
        _text(row["reason"]),
        "disturbed by other work: its times are too long" if row["disturbed"] is True else "",
        f"tags: {row['tags']}" if _text(row["tags"]) else "",
        _text(row["note"]),
    ]
    below = _DASH.join(Markup("<br><small>{}</small>").format(text) for text in remarks if text)
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
        Markup(chip(label, kind)),
        row["run_id"],
        when,
        below,
    )


def _measured(metric: MetricSpec, group: VariantRuns) -> str:
    rows = _done(group).rows
    ends = [rows[0][key] for key in metric.interval_keys] if len(rows) == 1 else []
    if ends:
        return metric.text(rows[0][metric.key], *ends)
    return value_text(metric, _done(group).values(metric.key))


def _count(group: VariantRuns) -> str:
    return f"{len(_done(group).rows)} of {len(group.rows)}"


def _done(group: VariantRuns) -> VariantRuns:
    rows = tuple(row for row in group.rows if row["status"] == "done")
    return VariantRuns(group.variant, group.method, rows)


def _texts(group: VariantRuns, key: str) -> str:
    texts = dict.fromkeys(_text(row[key]) for row in group.rows)
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
_EMPTY = Markup("")


def measuring_section(data: SweepData) -> Markup:
    """How each number was measured."""
    if data.origin == "imported":
        rows = [(name, value) for name, value in _shared_facts(data)]
        return Markup(
            "<h2>What the publisher says</h2>"
            '<p class="meta">These results were measured by others, by their own means, and are '
            "shown as they were published.</p>{}"
        ).format(pairs_table(rows))
    rows = [(metric.label, f"{metric.how} ({metric.unit})") for metric in METRICS.values()]
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
    rows = [(_name(name), _distinct(_shown(name, value) for value in values) or units.DASH)
            for name, values in found.items()]  # fmt: skip
    if not rows:
        return _EMPTY
    return Markup("<h2>Environment</h2>{}").format(pairs_table(rows))


def reproduce_section(data: SweepData) -> Markup:
    """The commands that run the sweep again."""
    commands = [command_of(request) for request in requests_of([run.spec for run in data.runs])]
    if not commands:
        return _EMPTY
    several = (
        "" if len(commands) == 1 else " The runs differ in more than their variants and seeds."
    )
    lines = _EMPTY.join(Markup("<pre>{}</pre>").format(command.lines) for command in commands)
    notes = _EMPTY.join(
        Markup('<p class="meta">{}</p>').format(command.note)
        for command in commands
        if command.note
    )
    return Markup(
        "<h2>Run it again</h2>"
        '<p class="meta">With ftlab {}. Times and memory depend on the machine.{}</p>{}{}'
    ).format(__version__, several, lines, notes)


def provenance_section(data: SweepData) -> Markup:
    """The provenance of a recorded sweep; empty for other sweeps."""
    if data.origin != "recorded" or not data.runs:
        return _EMPTY
    mark = Markup(chip("recorded", "recorded"))
    try:
        record = read_provenance(data.runs[0].directory.path.parent)
    except FtlabError as error:
        return Markup('<h2>Recorded {}</h2><p class="meta">{}</p>').format(mark, error)
    return Markup(
        "<h2>Recorded {}</h2>"
        '<p class="meta">Really run by the command below, and shipped with ftlab to be looked '
        "at. It is not measured on this machine.</p>{}"
    ).format(mark, pairs_table(_record_rows(record)))


def _record_rows(record: Provenance) -> list[tuple[str, str]]:
    disturbed = ", ".join(record.disturbed) or "none"
    rows = [
        ("Command", record.command),
        ("Measured", record.measured_at),
        ("Recorded", record.recorded_at),
        ("Machine", record.machine),
        ("ftlab", " ".join(filter(None, [record.ftlab_version, record.commit]))),
        ("Disturbed runs", disturbed),
        ("Left out of the recording", " ".join(record.left_out)),
    ]
    return [(name, value) for name, value in rows if value]


def _shared_facts(data: SweepData) -> list[tuple[str, str]]:
    found: dict[str, list[str]] = {}
    for run in data.published:
        for name, value in run.facts:
            found.setdefault(str(name), []).append(str(value))
    return [(name, _distinct(values)) for name, values in found.items()]


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


def _name(key: str) -> str:
    return key.removesuffix("_bytes").replace("_", " ")


EXAMPLES = 12
_MOST_ANSWERS = 8
_PROMPT_LENGTH, _ANSWER_LENGTH, _VERDICT_LENGTH = 1500, 800, 60
_NO_ANSWER = Markup("")

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
    runs = _one_each([run for run in data.own_runs if run.status == "done"])
    runs = _important_first(data, runs, first)
    room = max(1, _MOST_ANSWERS - len(bases))
    chosen, beyond = runs[:room], len(runs[room:])
    speakers = [_speaker(run, "before", notes) for run in bases]
    speakers += [_speaker(run, "after", notes) for run in _in_order(data, chosen)]
    speakers = [speaker for speaker in speakers if speaker.answers]
    if not speakers:
        return None
    longest = max(speakers, key=lambda speaker: len(speaker.answers))
    examples = tuple(list(longest.answers)[:EXAMPLES])
    return Samples(examples, tuple(speakers), len(longest.answers), beyond, tuple(notes))


def samples_section(samples: Samples) -> Markup:
    rule = (
        f"The first {len(samples.examples)} of {plural(samples.total, 'held-out example')}, in the "
        "order of the record; of each variant the run with the lowest seed."
    )
    if samples.left_out:
        rule += f" {plural(samples.left_out, 'further variant')} not shown."
    rule += f" Texts are cut after {_ANSWER_LENGTH} characters."
    return Markup(
        '<h2>The same prompts, answered side by side</h2><p class="meta">{}</p>{}'
    ).format(
        rule,
        _NO_ANSWER.join(
            _example(number, key, samples.speakers)
            for number, key in enumerate(samples.examples, start=1)
        ),
    )


def _example(number: int, key: Key, speakers: Sequence[Speaker]) -> Markup:
    prompt, wanted = key
    answers = _NO_ANSWER.join(
        Markup('<div class="said"><p>{}{}</p><div class="text">{}</div></div>').format(
            Markup(named(speaker.method, speaker.label)),
            _verdict(speaker.answers.get(key)),
            _answer_text(speaker.answers.get(key)),
        )
        for speaker in speakers
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


def _answer_text(answer: Answer | None) -> Markup:
    if answer is None or answer.text is None:
        return Markup("<small>not answered</small>")
    if not answer.text.strip():
        return Markup("<small>empty answer</small>")
    return Markup("{}").format(shorten(answer.text, _ANSWER_LENGTH))


def _verdict(answer: Answer | None) -> Markup:
    """The task's verdict on the answer; the score if there is no verdict."""
    if answer is None or answer.text is None:
        return _NO_ANSWER
    if not answer.verdict:
        if answer.score is None:
            return _NO_ANSWER
        return Markup(" ") + Markup(chip(f"score {units.format_number(answer.score)}"))
    right = answer.score is not None and answer.score >= 1
    kind = "ok" if right else "bad"
    return Markup(" ") + Markup(chip(shorten(answer.verdict, _VERDICT_LENGTH), kind))


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
        parts = [_message(message) for message in prompt]
        prompt = "\n\n".join(parts)
    return str(prompt or ""), str(row.get("reference") or "")


def _message(message: Any) -> str:
    if not isinstance(message, dict):
        return str(message)
    role, content = str(message.get("role", "")), str(message.get("content", ""))
    return content if role in ("user", "") else f"[{role}] {content}"


def _one_each(runs: Sequence[Run]) -> list[Run]:
    """The run with the lowest seed of each variant, in the order of the runs."""
    found: dict[str, Run] = {}
    for run in runs:
        known = found.get(run.spec.label)
        if known is None or run.spec.seed < known.spec.seed:
            found[run.spec.label] = run
    return list(found.values())


def _important_first(data: SweepData, runs: Sequence[Run], first: str) -> list[Run]:
    full = full_row(variant_means(data.table))
    names = [first, "" if full is None else str(full["variant"])]
    return sorted(runs, key=lambda run: run.spec.label not in names)


def _in_order(data: SweepData, runs: Sequence[Run]) -> list[Run]:
    place = {run.run_id: number for number, run in enumerate(data.runs)}
    return sorted(runs, key=lambda run: place[run.run_id])


_NO_CELL = Markup("")


def grid_page(grid: GridDirectory) -> str:
    """The grid as one self-contained HTML file."""
    return standalone(headline(grid), [grid_section(grid)])


def grid_section(grid: GridDirectory) -> str:
    """Returns the grid as escaped HTML; raises `FtlabError` if the grid cannot be read.

    An unfinished grid shows the answers so far.
    """
    request = grid.request()
    panes = summary(grid)
    parts = [
        Markup("<h2>{}</h2>").format(headline(grid)),
        Markup('<p class="meta">{}</p>').format(settings_line(grid)),
        _summary_table(panes),
        _answers(request, grid.cells()),
    ]
    return str(_NO_CELL.join(parts))


def settings_line(grid: GridDirectory) -> str:
    """The settings that another grid must share to be comparable with this one, as plain text."""
    request, result = grid.request(), grid.result()
    asked = request.request
    drawn = f"temperature {asked.temperature:g}, top-p {asked.top_p:g}, seed {asked.seed}"
    device = str(result.environment.get("device", "")) if result else ""
    status = grid.status()
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
        f"held-out examples of {request.task.label}" if request.task else "",
        time.strftime("%d %b %Y %H:%M", grid.made_at),
        device,
        f"{units.format_seconds(result.seconds)} in all" if result and result.seconds else "",
        "" if status == "done" else status + (f": {result.reason}" if result else ""),
    ]
    return " · ".join(filter(None, parts))


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
        numbers = _NO_CELL.join(
            Markup('<td class="num" data-label="{}">{}</td>').format(name, cell)
            for name, cell in zip(heads, cells, strict=True)
        )
        rows.append(
            Markup("<tr><th>{}</th>{}</tr>").format(Markup(named(pane.method, pane.label)), numbers)
        )
    head = _NO_CELL.join(Markup('<th class="num">{}</th>').format(name) for name in heads)
    return Markup(
        '<div class="scroll"><table class="stack"><thead><tr><th>Pane</th>{}</tr></thead>'
        "<tbody>{}</tbody></table></div>"
    ).format(head, _NO_CELL.join(rows))


def _score(pane: PaneSummary) -> str:
    if pane.score is None:
        return units.DASH
    count = f"{pane.right} of {pane.scored} = " if pane.right is not None else ""
    between = f" [{pane.interval[0]:.2f}, {pane.interval[1]:.2f}]" if pane.interval else ""
    return f"{count}{pane.score:.2f}{between}"


def _gain(pane: PaneSummary) -> str:
    gain = pane.gain
    return f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]" if gain else units.DASH


def _answers(request: GridRequest, cells: list[Cell]) -> Markup:
    places, labels = by_place(cells), pane_labels(request)
    heads = _NO_CELL.join(
        Markup("<th>{}</th>").format(Markup(named(request.method(pane), label)))
        for pane, label in enumerate(labels)
    )
    rows = []
    for number, prompt in enumerate(request.prompts):
        answers = _NO_CELL.join(
            Markup('<td data-label="{}">{}</td>').format(label, _answer(places.get((number, pane))))
            for pane, label in enumerate(labels)
        )
        rows.append(
            Markup(
                '<tr><td class="n">{}</td><td data-label="Prompt"><div class="text">{}</div></td>{}'
                "</tr>"
            ).format(number + 1, prompt, answers)
        )
    return Markup(
        '<div class="scroll"><table class="answers stack"><thead><tr><th class="n">#</th>'
        "<th>Prompt</th>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(heads, _NO_CELL.join(rows))


def _answer(cell: Cell | None) -> Markup:
    if cell is None:
        return Markup("<small>not answered</small>")
    text = Markup('<div class="text">{}</div>').format(cell.answer) if cell.answer else _NO_CELL
    if cell.error:
        return text + Markup(chip("error", "bad")) + Markup(" <small>{}</small>").format(cell.error)
    if not cell.answer:
        text = Markup("<small>empty answer</small> ")
    note = Markup("<br><small>{}</small>").format(cell.note) if cell.note else _NO_CELL
    return text + _cell_verdict(cell) + note


def _cell_verdict(cell: Cell) -> Markup:
    """The verdict in words, or the score if there is none; never by colour alone."""
    if cell.score is None:
        return _NO_CELL
    kind = "ok" if cell.score == 1 else "bad" if cell.score == 0 else ""
    return Markup(chip(cell.verdict or f"{cell.metric} {cell.score:.2f}".strip(), kind))
