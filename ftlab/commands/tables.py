"""Results as text: a table for people, JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ftlab.basics import units
from ftlab.basics.words import printable, rate_name
from ftlab.jobs.tuning import Tuned
from ftlab.methods.rates import NOT_TUNED, how_scaled
from ftlab.methods.registry import rates_kept
from ftlab.models.dimensions import size_of_model
from ftlab.models.reference import is_bundled
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.spec import MetricSpec
from ftlab.records.result import STATUS_LABELS
from ftlab.records.spec import RunSpec
from ftlab.records.store import Run, notes_of_runs

_BAR = 40  # characters of the longest bar
_BEFORE = {metric.before for metric in METRICS.values()}
_SHOWN = [m for m in METRICS.values() if m.in_table and m.key not in _BEFORE]
_WIDE = 170  # from this console width on the run id is a column, else it is below the table


def rows_json(runs: Sequence[Run]) -> str:
    """Returns the runs as a JSON list of rows; values that were not measured are null."""
    return json_text([_finite(run.row()) for run in runs])


def json_text(value: Any) -> str:
    """Returns the value as JSON that is safe for a terminal: control characters are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return "".join(
        char if char.isprintable() or char == "\n" else json.dumps(char)[1:-1] for char in text
    )


class PlainConsole(Console):
    """A console that prints text literally, without terminal sequences or rich markup."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **(options | {"markup": False, "emoji": False}))


def output_console() -> Console:
    """Returns a console on stdout; wide enough for the table if stdout is not a terminal."""
    console = PlainConsole()
    return console if console.is_terminal else PlainConsole(width=240)


def print_table(runs: Sequence[Run], console: Console) -> None:
    """Prints the results table, and below it the reason of every run that is not done."""
    wide = console.width >= _WIDE
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("Variant", "Seed", "Status"):
        table.add_column(name, no_wrap=True)
    rows = [run.row() for run in runs]
    shown = [m for m in _SHOWN if not m.is_optional or any(row[m.key] is not None for row in rows)]
    for metric in shown:
        table.add_column(metric.label, justify="right", no_wrap=True)
    if wide:
        table.add_column("Run", no_wrap=True)
    for run, row in zip(runs, rows, strict=True):
        head = (run.spec.label, str(run.spec.seed), STATUS_LABELS[run.status])
        cells = [_cell(metric, row) for metric in shown]
        table.add_row(*head, *cells, *([run.run_id] if wide else []))
    console.print(table)
    kinds = sorted({run.result.memory_kind for run in runs if run.result} - {""})
    if kinds:
        console.print(
            f"Peak: training phase, {' / '.join(kinds)}; net: above the process without a model. "
            "Loss and score: on test examples, base → trained. Gain: of the score, with its 95 % "
            "interval. Forgot: rise of the loss on unrelated text.",
            highlight=False,
        )
    if not wide:
        for run in runs:
            console.print(f"{run.spec.label}: {run.run_id}", markup=False, highlight=False)
    for note in notes_of_runs(runs):
        console.print(f"Note: {note}", markup=False, highlight=False)
    for run in runs:
        if run.reason:
            text = f"{run.run_id}: {STATUS_LABELS[run.status]}: {run.reason}"
            console.print(text, markup=False, highlight=False)


def rates_line(specs: Sequence[RunSpec]) -> str:
    """Returns a line with the variants' learning rates, and how they were scaled to the model."""
    rates = {spec.label: _rate(spec) for spec in specs if not spec.is_base}
    line = f"learning rates: {', '.join(f'{label} {rate}' for label, rate in rates.items())}."
    if all(spec.default_rate is None for spec in specs) or is_bundled(specs[0].model):
        return line
    size = size_of_model(specs[0].model)
    scaled = "They are scaled once it is here." if size is None else how_scaled(size, rates_kept())
    return f"{line} {NOT_TUNED}. {scaled} `python -m ftlab tune` tunes them."


def _rate(spec: RunSpec) -> str:
    rate = spec.learning_rate
    return "known once the model is here" if rate is None else rate_name(rate)


def print_ladder(tuned: Tuned, console: Console) -> None:
    """Prints a ladder as a table with a bar per rate, and the suggestion below it."""
    losses = [point.loss for point in tuned.points if point.loss is not None]
    longest = max([*losses, tuned.base_loss or 0.0], default=0.0)
    table = Table(box=None, header_style="bold", pad_edge=False, title=tuned.variant.label,
                  title_justify="left")  # fmt: skip
    table.add_column("Learning rate", justify="right", no_wrap=True)
    table.add_column("Tuning loss", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for point in tuned.points:
        is_suggested = point.rate == tuned.suggestion.rate
        bar = _bar(point.loss, longest) if point.loss is not None else STATUS_LABELS[point.status]
        table.add_row(
            rate_name(point.rate),
            units.format_number(point.loss, 3),
            bar + (" ← suggested" if is_suggested else ""),
        )
    table.add_row(
        "untouched", units.format_number(tuned.base_loss, 3), _bar(tuned.base_loss, longest)
    )
    console.print(table)
    console.print(tuned.suggestion.reason, markup=False, highlight=False)
    for reason in tuned.reasons:
        console.print(reason, markup=False, highlight=False)
    console.print()


def _bar(value: float | None, longest: float) -> str:
    return "█" * max(1, round(_BAR * value / longest)) if value and longest else ""


def _cell(metric: MetricSpec, row: dict[str, Any]) -> str:
    """As in "+0.40 (+0.29 to +0.52)", or "3.080 → 1.310" with the untouched model's value."""
    text = metric.text(*(row[key] for key in (metric.key, *metric.interval_keys)))
    before = row[metric.before] if metric.before else None
    return text if before is None else f"{metric.format(before)} → {text}"


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
