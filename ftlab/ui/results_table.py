"""The table of runs: what is shown, how it looks, and what is exported. No components."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from ftlab import units
from ftlab.runs.metrics import METRICS, MetricSpec
from ftlab.runs.result import STATUS_LABELS
from ftlab.runs.store import UnreadableRun
from ftlab.spreadsheets import inert
from ftlab.ui.html import chip, escape, named, plural
from ftlab.ui.results_names import run_name, sweep_label

ALL_SWEEPS = ""
DISTURBED = "▲"
MEASURES: tuple[MetricSpec, ...] = tuple(metric for metric in METRICS.values() if metric.in_table)
MEMORY_KEYS = ("peak_memory_bytes", "net_peak_memory_bytes")
TIME_KEYS = ("train_seconds", "tokens_per_second")
TEXT_KEYS = ("status", "variant", "task", "seed")
KEYS = (*TEXT_KEYS, *(metric.key for metric in MEASURES), "device", "run_id")
RUN_COLUMN = len(KEYS) - 1
DATATYPES = ["html", "html", "str", "number", *["number"] * len(MEASURES), "str", "html"]
WIDTHS = [114, 160, 76, 48, 78, 72, 86, 106, 98, 60, 74, 82, 60, 90, 60, 62, 78]
_SEARCHED = ("status", "variant", "method", "task", "model", "device", "sweep_id", "run_id")
_NOT_EXPORTED = ("run_dir",)  # a path on the server is nobody's business

_KIND_WORDS = {
    "CPU resident": "the resident size of the process on the CPU",
    "CUDA allocated": "bytes that torch allocated on the GPU",
}


def filtered(table: pd.DataFrame, sweep: str = ALL_SWEEPS, text: str = "") -> pd.DataFrame:
    """The rows of a sweep (all: "") that hold every word of the text somewhere in their names."""
    rows = table if sweep == ALL_SWEEPS else table[table["sweep_id"] == sweep]
    words = text.lower().split()
    if words and not rows.empty:
        labels = rows["status"].map(lambda status: STATUS_LABELS.get(status, status))
        haystack = rows[list(_SEARCHED)].astype(str).agg(" ".join, axis=1) + " " + labels
        haystack = haystack.str.lower()
        found = haystack.map(lambda line: all(word in line for word in words))
        rows = rows[found]
    return rows.reset_index(drop=True)


def headers(rows: pd.DataFrame) -> list[str]:
    """The column heads; memory names its kind where all rows share one."""
    kinds = memory_kinds(rows)
    kind = f", {kinds[0].split()[0]}" if len(kinds) == 1 else ""
    names = [m.label + (kind if m.key in MEMORY_KEYS else "") for m in MEASURES]
    return ["Status", "Variant", "Task", "Seed", *names, "Device", "Run"]


def styled(rows: pd.DataFrame) -> Styler:
    """The rows for a `gr.Dataframe`: it shows the formatted text and sorts by the raw value."""
    shown = rows[list(KEYS)].copy()
    shown.columns = pd.Index(headers(rows))
    column = dict(zip(KEYS, shown.columns, strict=True))
    styler = shown.style
    styler.format(_status_chip, subset=column["status"])
    for metric in MEASURES:
        styler.format(metric.format, subset=column[metric.key], na_rep=units.DASH)
    disturbed = [index for index, row in rows.iterrows() if row["disturbed"] is True]
    for metric in MEASURES:
        if metric.key in TIME_KEYS and disturbed:
            rough = pd.IndexSlice[disturbed, column[metric.key]]
            styler.format(_marked(metric), subset=rough, na_rep=units.DASH)
    for index, row in rows.iterrows():
        cell = pd.IndexSlice[index, column["variant"]]
        styler.format(lambda label, method=row["method"]: named(method, label), subset=cell)
    styler.format(
        lambda run_id: f'<code title="{escape(run_id)}">{escape(run_name(run_id))}</code>',
        subset=column["run_id"],
    )
    return styler


def memory_kinds(rows: pd.DataFrame) -> list[str]:
    return sorted({str(kind) for kind in rows["peak_memory_kind"] if kind})


def caption(shown: pd.DataFrame, of: int, unreadable: Sequence[UnreadableRun] = ()) -> str:
    """HTML below the table: how many rows, what is left out of charts, what cannot be read."""
    counts = shown["status"].value_counts()
    lost = [
        f"{counts[status]} {STATUS_LABELS[status]}"
        for status in ("failed", "out_of_memory", "cancelled", "interrupted")
        if counts.get(status, 0)
    ]
    parts = [f"{len(shown)} of {plural(of, 'run')}."]
    if lost:
        parts.append(f"{', '.join(lost)}: left out of every comparison.")
    if (shown["disturbed"] == True).any():  # noqa: E712 (the column also holds None)
        parts.append(
            f"{DISTURBED} disturbed: other processes used the cores, so times are too long."
        )
    if len(shown):
        parts.append("Click a row to open its run.")
    lines = f'<p class="meta">{" ".join(parts)}</p>'
    if unreadable:
        rows = "".join(
            f"<li><code>{escape(run.run_id)}</code> {escape(run.reason)}</li>" for run in unreadable
        )
        title = f"{plural(len(unreadable), 'folder')} of a run cannot be read:"
        lines += f'<p class="meta">{title}</p><ul class="notes">{rows}</ul>'
    return f'<div class="caption">{lines}</div>'


def how_measured(rows: pd.DataFrame) -> str:
    """HTML: every column with unit, direction and how it is measured; then what the bytes are."""
    items = "".join(
        f"<tr><th>{escape(m.label)}</th><td>{escape(m.how)} "
        f"<small>{escape(m.unit)}, {m.better} is better</small></td></tr>"
        for m in MEASURES
    )
    kinds = memory_kinds(rows)
    words = "; ".join(f"{kind}: {_KIND_WORDS.get(kind, kind)}" for kind in kinds)
    memory = f"<p class=meta>Memory here is {escape(words)}.</p>" if words else ""
    if len(kinds) > 1:
        memory += "<p class=meta>Compare memory only between rows of one device.</p>"
    return f'{memory}<table class="t kv">{items}</table>'


def sweep_choices(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(label, value) of the dropdown: all, then the sweeps, newest first."""
    sweeps = table.groupby("sweep_id", sort=False)["task"].agg(["first", "size"])
    named_sweeps = [
        (sweep_label(str(sweep), row["first"], plural(int(row["size"]), "run")), str(sweep))
        for sweep, row in sweeps.iterrows()
    ]
    return [("All sweeps", ALL_SWEEPS), *named_sweeps]


def records(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as JSON takes them: raw numbers, `None` where there is none."""
    columns = [key for key in rows.columns if key not in _NOT_EXPORTED]
    return [
        {key: _plain(value) for key, value in row.items()}
        for row in rows[columns].to_dict(orient="records")
    ]


def to_json(rows: pd.DataFrame) -> str:
    return json.dumps(records(rows), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(rows: pd.DataFrame) -> str:
    """Raw numbers; a text that a spreadsheet would run as a formula begins with an apostrophe."""
    columns = [key for key in rows.columns if key not in _NOT_EXPORTED]
    safe = [{key: inert(value) for key, value in row.items()} for row in records(rows)]
    return str(pd.DataFrame(safe, columns=columns, dtype=object).to_csv(index=False))


def write_exports(rows: pd.DataFrame, folder: Path) -> tuple[str, str]:
    """Writes both files into the folder and gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    csv, as_json = folder / "ftlab-results.csv", folder / "ftlab-results.json"
    csv.write_text(to_csv(rows), encoding="utf-8")
    as_json.write_text(to_json(rows), encoding="utf-8")
    return str(csv), str(as_json)


def _status_chip(status: Any) -> str:
    return chip(STATUS_LABELS.get(status) or str(status), str(status))


def _marked(metric: MetricSpec) -> Any:
    return lambda value: f"{DISTURBED} {metric.format(value)}"


def _plain(value: Any) -> Any:
    if value is None or value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value.item() if hasattr(value, "item") else value
