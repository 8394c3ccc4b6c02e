"""The training loss of every run as one table: one row a step of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ftlab.charts.facts import settings_text
from ftlab.runs.result import OPEN
from ftlab.runs.store import Run
from ftlab.runs.sweep_data import SweepData

POINT_COLUMNS = [
    "run_id", "label", "method", "seed", "emphasised", "settings", "origin", "created_at",
    "step", "tokens", "seconds", "loss",
]  # fmt: skip
"""`tokens` (real ones, not padding) and `seconds` (of training steps) are summed up to the step.

`loss` is in nats a token. A run that did not get to its end is not `emphasised`.
"""


@dataclass(frozen=True)
class LossCurve:
    """The training loss of one run that may still go on: `points` are (step, nats a token)."""

    label: str
    method: str
    points: Sequence[tuple[int, float]]
    emphasised: bool = True
    seed: int = 0


def curve_of(run: Run, losses: Sequence[tuple[int, float]]) -> LossCurve:
    """The curve of a run; pale if the run did not get to its end."""
    emphasised = run.status in ("done", *OPEN)
    return LossCurve(run.spec.label, run.spec.method, tuple(losses), emphasised, run.spec.seed)


def curve_points(curves: Iterable[LossCurve]) -> pd.DataFrame:
    """The points of curves as `loss_figure` takes them; of steps alone, without an origin."""
    rows = []
    for number, curve in enumerate(curves):
        run = [str(number), curve.label, curve.method, curve.seed, curve.emphasised, "", "", None]
        rows += [[*run, step, None, None, loss] for step, loss in curve.points]
    return _table(rows)


def loss_points(data: SweepData) -> pd.DataFrame:
    """The points of every run of a sweep that has any, with the columns `POINT_COLUMNS`.

    Tokens and seconds are NaN where they are not recorded: in imported runs.
    """
    facts = {str(row["run_id"]): row for row in data.table.to_dict("records")}
    rows: list[list[Any]] = []
    for run in data.own_runs:
        steps = _recorded(run.directory.metrics())
        rows += _rows_of(facts[run.run_id], steps)
    for published in data.published:
        losses = [(step, None, None, loss) for step, loss in published.losses]
        rows += _rows_of(facts[published.run_id], losses)
    return _table(rows)


def _rows_of(
    facts: Mapping[Any, Any], steps: Iterable[tuple[int, float | None, float | None, float]]
) -> list[list[Any]]:
    run = run_cells(facts)
    return [[*run, *step] for step in steps]


def run_cells(facts: Mapping[Any, Any]) -> list[Any]:
    """What every point of a run has in common: the first columns of `POINT_COLUMNS`."""
    return [
        facts["run_id"],
        facts["variant"],
        facts["method"],
        facts["seed"],
        facts["status"] in ("done", *OPEN),
        settings_text([facts]),
        facts["origin"],
        facts["created_at"],
    ]


def _recorded(
    events: Iterable[Mapping[str, Any]],
) -> Iterable[tuple[int, float | None, float | None, float]]:
    tokens = seconds = 0.0
    for event in events:
        if event.get("event") == "step":
            tokens += event.get("tokens") or 0
            seconds += event.get("seconds") or 0.0
            yield int(event["step"]), tokens, seconds, float(event["loss"])


def _table(rows: list[list[Any]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=POINT_COLUMNS, dtype=object)
    numbers = ["tokens", "seconds", "loss"]
    return table.astype(dict.fromkeys(numbers, float) | {"step": int, "emphasised": bool})
