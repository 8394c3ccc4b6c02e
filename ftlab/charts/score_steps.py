"""Score and test loss over the training steps, from the evaluations between the steps."""

from __future__ import annotations

import math
from typing import Any, Literal

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.curves import POINT_COLUMNS, curves_figure, run_cells
from ftlab.charts.spec import ChartSpec, Choice, Drawn, Facts, Place, recorded
from ftlab.records.comparability import comparability_of_rows
from ftlab.records.store import Run, SweepData
from ftlab.settings.training import CURVE_EXAMPLES

Quality = Literal["score", "loss"]
CURVE_COLUMNS = [*POINT_COLUMNS, "score"]
_TITLES: dict[Quality, str] = {
    "score": "score (0 to 1, higher is better)",
    "loss": "test loss (lower is better)",
}


def quality_points(data: SweepData) -> pd.DataFrame:
    """One row per evaluation between steps, with the columns `CURVE_COLUMNS`; step 0 is the base.

    `loss` is in nats a token and `score` in [0, 1]; both are measured on a few test examples.
    """
    facts = {str(row["run_id"]): row for row in data.table.to_dict("records")}
    rows: list[list[Any]] = []
    for run in data.own_runs:
        if run.spec.settings.eval_every:
            rows += [
                [*run_cells(facts[run.run_id]), int(event["step"]), None, None,
                 event.get("loss"), event.get("score")]
                for event in sorted(_evaluations(run), key=lambda event: event["step"])
            ]  # fmt: skip
    table = pd.DataFrame(rows, columns=CURVE_COLUMNS, dtype=object)
    return table.astype({"step": int, "emphasised": bool, "loss": float, "score": float})


def _evaluations(run: Run) -> list[dict[str, Any]]:
    """The first may be the last in the file: of a base run that ended after the run."""
    return [event for event in run.directory.metrics() if event.get("event") == "evaluation"]


def score_steps_figure(facts: Facts) -> go.Figure:
    """One line per variant over the steps: the mean of its seeds, with a band of their range."""
    quality = _quality(facts)
    drawn = facts.read.assign(loss=facts.read[quality])
    return curves_figure(
        drawn[drawn["loss"].map(math.isfinite).astype(bool)],
        _TITLES[quality],
        f"no {quality} was measured between the steps",
        facts.height,
        unlike=comparability_of_rows(_drawn(facts).rows),
    )


def score_steps_finding(facts: Facts) -> str:
    """Which variant was best after which step, or that nothing was measured."""
    points, quality = facts.read, _quality(facts)
    known = points[points[quality].map(math.isfinite) & points["emphasised"]]
    if known.empty:
        return f"No {quality} was measured between the steps"
    means = known.groupby(["label", "step"], sort=False)[quality].mean()
    label, step = means.idxmax() if quality == "score" else means.idxmin()
    best = float(means[label, step])
    last = int(known.loc[known["label"] == label, "step"].max())
    word = "score" if quality == "score" else "test loss"
    words = f"Best {word} between the steps: {label}, {best:.2f} after step {step} of {last}"
    end = float(means[label, last])
    return words if step == last else f"{words}, {end:.2f} at the end"


def _drawn(facts: Facts) -> Drawn:
    return recorded(facts.table, facts.read["run_id"].unique(), "not evaluated between steps")


def _file(facts: Facts) -> str:
    return f"{_quality(facts)}-by-step"


def _quality(facts: Facts) -> Quality:
    chosen: Quality = facts.chosen.get("quality", "score")
    return chosen


def _qualities(table: pd.DataFrame) -> list[tuple[str, str]]:
    return [("Score", "score"), ("Test loss", "loss")]


CHARTS = (
    ChartSpec(
        id="score-by-step",
        name=f"Score by step, on {CURVE_EXAMPLES} test examples at most",
        drawn=_drawn,
        finding=score_steps_finding,
        figure=score_steps_figure,
        reading=(
            f"On the first test examples, {CURVE_EXAMPLES} at most; step 0 is the untouched "
            "model. Not part of training time and memory"
        ),
        read=quality_points,
        choices=(Choice("quality", "Over the steps", _qualities, ("score",)),),
        file=_file,
        compare=Place(row=5, column=2),
        report=30,
        is_extra=True,
        hides=True,
    ),
)
