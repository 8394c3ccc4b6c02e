"""Results as text: a table for people, CSV and JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ftlab.runs.metrics import METRICS
from ftlab.runs.result import STATUS_LABELS
from ftlab.runs.store import Run


def rows_json(runs: Sequence[Run]) -> str:
    """The runs as a JSON list of rows, and nothing else; what is not measured is null."""
    return json.dumps([_finite(run.row()) for run in runs], indent=2, ensure_ascii=False)


def print_table(runs: Sequence[Run], console: Console) -> None:
    """The results table, and under it the reason of every run that is not done."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    shown = [metric for metric in METRICS.values() if metric.in_table]
    table.add_column("Run", overflow="fold")
    table.add_column("Variant")
    table.add_column("Status")
    for metric in shown:
        table.add_column(metric.label, justify="right")
    for run in runs:
        row = run.row()
        seed = f" seed {run.spec.seed}" if run.spec.seed else ""
        table.add_row(
            run.run_id,
            run.spec.label + seed,
            STATUS_LABELS[run.status],
            *(metric.format(row.get(metric.key)) for metric in shown),
        )
    console.print(table)
    kinds = sorted({run.result.memory_kind for run in runs if run.result} - {""})
    if kinds:
        console.print(
            f"Peak: training phase, {' / '.join(kinds)}; net: above the process without a model."
        )
    for run in runs:
        if run.reason:
            console.print(f"{run.run_id}: {run.reason}", markup=False)


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }
