"""Where the numbers of a sweep come from: how each is measured, on what, and by which command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from ftlab import __version__, units
from ftlab.errors import FtlabError
from ftlab.html import chip
from ftlab.report.reproduce import command_of
from ftlab.report.results_table import pairs_table
from ftlab.runs.differences import RULE
from ftlab.runs.metrics import METRICS
from ftlab.runs.recording import Provenance, read_provenance
from ftlab.runs.rerun import requests_of
from ftlab.runs.result import PHASES
from ftlab.runs.sweep_data import SweepData
from ftlab.settings.training import DTYPE_POLICIES
from ftlab.tasks.metrics import TEXT_METRICS
from ftlab.tasks.registry import TASKS

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
    """The machine and the versions; what differs between runs is said with its values."""
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
    """The commands that measure the sweep anew."""
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
    """What a recorded sweep says of itself; empty for others."""
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
    """The value that all share, or the first few of them, counted."""
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
