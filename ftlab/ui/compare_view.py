"""What the Compare tab says about a sweep, as plain functions: runs in, sentences and HTML out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from ftlab import units
from ftlab.charts.loss import LossCurve, curve_of
from ftlab.charts.savings import (
    Comparison,
    adapters,
    compare,
    finding,
    full_row,
    join_names,
    times,
    variant_means,
)
from ftlab.models.reference import model_label
from ftlab.runs.metrics import METRICS
from ftlab.runs.progress import read_progress
from ftlab.runs.result import OPEN, STATUS_LABELS
from ftlab.runs.spec import OPTIMIZERS
from ftlab.runs.store import Run
from ftlab.ui.html import chip, escape, plural
from ftlab.ui.results_names import rate_name, sweep_label

FIGURE_TITLES = {
    "trainable_params": "Trained parameters",
    "net_peak_memory_bytes": "Net peak memory, train phase",
    "train_seconds": "Training time",
    "adapter_bytes": "File to ship",
}

_Field = tuple[str, Callable[[Run], Any]]
_SAME: tuple[_Field, ...] = (
    ("model", lambda run: model_label(run.spec.model)),
    ("task", lambda run: run.spec.task.label),
    ("steps", lambda run: plural(run.spec.settings.steps, "step")),
    (
        "batch",
        lambda run: f"batch {run.spec.settings.batch_size} x {run.spec.settings.accumulation}",
    ),
    ("length", lambda run: f"at most {run.spec.settings.max_length} tokens"),
    ("optimizer", lambda run: OPTIMIZERS.get(run.spec.settings.optimizer, "?")),
    ("schedule", lambda run: f"{run.spec.settings.schedule} schedule"),
    ("dtype policy", lambda run: f"dtype policy {run.spec.dtype_policy}"),
    ("device", lambda run: f"device {run.spec.device}"),
)
_MEASURED_SAME: tuple[_Field, ...] = (
    ("examples", lambda run: _environment(run, "data_hash")),
    ("weights", lambda run: _environment(run, "model_hash")),
    ("machine", lambda run: _environment(run, "device")),
)


def sweep_options(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(label, sweep id) of every sweep, newest first."""
    options = []
    for sweep, rows in table.groupby("sweep_id", sort=False):
        done = int((rows["status"] == "done").sum())
        names = join_names(list(dict.fromkeys(rows["variant"])))
        short = names if len(names) <= 60 else plural(rows["variant"].nunique(), "variant")
        label = sweep_label(str(sweep), rows["task"].iloc[0], short, f"{done} of {len(rows)} done")
        options.append((label, str(sweep)))
    return options


def default_sweep(table: pd.DataFrame) -> str | None:
    """The newest sweep that ended with a run done, else the newest with one done, or at all."""
    some: list[str] = []
    for sweep, rows in table.groupby("sweep_id", sort=False):
        if (rows["status"] == "done").any():
            some.append(str(sweep))
            if not rows["status"].isin(OPEN).any():
                return str(sweep)
    if some:
        return some[0]
    return None if table.empty else str(table["sweep_id"].iloc[0])


def adapter_choices(table: pd.DataFrame) -> list[str]:
    """Variants that can stand in the headline, best first."""
    return [str(name) for name in adapters(variant_means(table))["variant"]]


def fairness(runs: Sequence[Run]) -> str:
    """HTML: what was the same for all runs that are done, and what differs."""
    done = [run for run in runs if run.status == "done" and not run.spec.is_base]
    if not done:
        return ""
    same, unlike = [], []
    for name, read in _SAME:
        values = list(dict.fromkeys(str(read(run)) for run in done))
        if len(values) == 1:
            same.append(values[0])
        else:
            unlike.append(f"{name} ({', '.join(values)})")
    for name, read in _MEASURED_SAME:
        if len({read(run) for run in done} - {""}) > 1:
            unlike.append(name)
    seeds = {
        label: sorted(run.spec.seed for run in done if run.spec.label == label)
        for label in dict.fromkeys(run.spec.label for run in done)
    }
    if len({tuple(numbers) for numbers in seeds.values()}) == 1:
        numbers = next(iter(seeds.values()))
        word = "seed" if len(numbers) == 1 else "seeds"
        same.append(f"{word} {join_names([str(number) for number in numbers])}")
    else:
        parts = [f"{label} {', '.join(map(str, own))}" for label, own in seeds.items()]
        unlike.append(f"seeds ({'; '.join(parts)})")
    if len(seeds) == 1:
        verdict = chip("only one variant is done", "mute")
    elif unlike:
        verdict = chip(
            f"not like for like: {join_names([w.split(' (')[0] for w in unlike])}", "warn"
        )
    else:
        verdict = chip(f"like for like: {len(same)} fields equal", "ok")
    order = "" if "examples" in unlike else "examples in the same order, "
    text = f"<b>Same</b> {escape(order + ', '.join(same))}."
    wrong = f' <b class="differs">Differs</b> {escape("; ".join(unlike))}.' if unlike else ""
    chosen = f" <b>Set by method</b> {escape(_by_method(done))}."
    return f'<div class="fair">{verdict}<p class="meta">{text}{wrong}{chosen}</p></div>'


def left_out(runs: Sequence[Run]) -> str:
    """HTML: the runs that no number of this tab holds, and why; empty if there is none."""
    missing = [run for run in runs if run.status != "done" and not run.spec.is_base]
    if not missing:
        return ""
    items = "".join(
        f"<li>{escape(run.spec.label)}, seed {run.spec.seed}: {escape(STATUS_LABELS[run.status])}"
        f"{'. ' + str(escape(run.reason)) if run.reason else ''}</li>"
        for run in missing
    )
    count = chip(f"{plural(len(missing), 'run')} left out", "warn")
    return (
        f'<p class="meta">{count} of headline, tiles and bars; '
        "what loss they have stays in the figure.</p>"
        f'<ul class="notes">{items}</ul>'
    )


def headline(table: pd.DataFrame, runs: Sequence[Run], variant: str | None = None) -> str:
    """HTML: the finding, and the five tiles below it if there is something to compare."""
    title = escape(finding(table, variant)).replace(" %", "\u00a0%")
    found = compare(table, variant)
    tiles = _tiles(found) if found else ""
    return (
        f'<section class="savings"><div class="hd"><h2>{title}</h2></div>{tiles}'
        f"{_provenance(table, runs)}</section>"
    )


def curves(runs: Sequence[Run]) -> list[LossCurve]:
    """The training loss of every run of the sweep that has begun."""
    return [curve_of(run, read_progress(run).losses) for run in runs if not run.spec.is_base]


def loss_sentence(table: pd.DataFrame) -> str:
    """Where the held-out loss ended, best first."""
    means = variant_means(table)
    ends = means.dropna(subset=["eval_loss_after"]).sort_values("eval_loss_after")
    if ends.empty:
        return "Training loss"
    show = METRICS["eval_loss_after"].format
    parts = [f"{row.variant} {show(row.eval_loss_after)}" for row in ends.head(4).itertuples()]
    return f"Held-out loss after training: {', '.join(parts)}"


def bars_sentence(table: pd.DataFrame) -> str:
    """What the four bar figures are relative to."""
    means = variant_means(table)
    full = full_row(means)
    if means.empty:
        return "No run is done"
    if full is None:
        return "Absolute values: full fine-tuning is not among the runs that are done"
    return f"Relative to {full['variant']} = 1, with the absolute values"


def _by_method(done: Sequence[Run]) -> str:
    rates = {run.spec.label: rate_name(run.spec.learning_rate) for run in done}
    if len(rates) > 1 and len(set(rates.values())) == 1:
        words = f"nothing else; learning rate {next(iter(rates.values()))} for all"
    else:
        words = f"learning rate ({', '.join(f'{name} {rate}' for name, rate in rates.items())})"
    held = {
        run.spec.label: f"{run.spec.label} on a base held in {run.spec.base_precision}"
        for run in done
        if run.spec.base_precision
    }
    return "; ".join([words, *held.values()])


def _environment(run: Run, key: str) -> str:
    return str(run.result.environment.get(key) or "") if run.result else ""


def _tiles(found: Comparison) -> str:
    tiles = [
        (
            units.format_share(found.value("trainable_share")),
            "of the parameters trained",
            _pair(found, "trainable_params"),
        ),
        (
            times(found.ratio("net_peak_memory_bytes")),
            "the net peak memory",
            f"{_pair(found, 'net_peak_memory_bytes')}; whole process "
            f"{_pair(found, 'peak_memory_bytes')}",
        ),
        (times(found.ratio("train_seconds")), "the training time", _pair(found, "train_seconds")),
        (
            units.format_bytes(found.value("adapter_bytes")),
            f"to ship, against {units.format_bytes(found.full_value('adapter_bytes'))}",
            _smaller(found.ratio("adapter_bytes")),
        ),
        (
            METRICS["score_after"].format(found.value("score_after")),
            f"score, against {METRICS['score_after'].format(found.full_value('score_after'))}",
            f"untouched model {METRICS['score_before'].format(found.value('score_before'))}",
        ),
    ]
    cells = "".join(
        f"<div{' class=even' if i == 4 else ''}><b>{escape(big)}</b><span>{escape(what)}</span>"
        f"<small>{escape(detail)}</small></div>"
        for i, (big, what, detail) in enumerate(tiles)
    )
    return f'<div class="tiles five">{cells}</div>'


def _pair(found: Comparison, key: str) -> str:
    show = METRICS[key].format
    return f"{show(found.value(key))}, full {show(found.full_value(key))}"


def _smaller(ratio: float) -> str:
    if math.isnan(ratio):
        return "not measured for both"
    return f"{1 / ratio:,.0f}x smaller" if ratio < 1 else f"{ratio:.2f}x the size"


def _provenance(table: pd.DataFrame, runs: Sequence[Run]) -> str:
    done = [run for run in runs if run.result is not None and run.status == "done"]
    if not done:
        return ""
    spec = done[-1].spec
    first = min(run.spec.created_at for run in done)
    kinds = sorted({run.result.memory_kind for run in done if run.result} - {""})
    rows = table[table["status"] == "done"]
    repeats = int(rows.groupby("variant").size().max()) if len(rows) else 1
    facts = [
        _environment(done[-1], "device") or spec.device,
        f"memory: {', '.join(kinds)}" if kinds else "",
        model_label(spec.model),
        spec.task.label,
        f"means of up to {repeats} seeds" if repeats > 1 else "one seed: no spread is known",
        time.strftime("%d %b %Y", time.localtime(first)),
    ]
    disturbed = int((rows["disturbed"] == True).sum())  # noqa: E712 (the column also holds None)
    words = f"{plural(disturbed, 'run')} disturbed: times too long"
    mark = chip(words, "warn") if disturbed else ""
    line = " · ".join(str(escape(fact)) for fact in facts if fact)
    return f'<div class="prov">{chip("measured", "measured")}<span>{line}</span>{mark}</div>'
