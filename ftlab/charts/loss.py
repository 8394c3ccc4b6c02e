"""The training loss of each run as curves, and the final test loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.basics.words import join_names
from ftlab.charts.curves import (
    POINT_COLUMNS,
    Curve,
    DrawnCurves,
    XAxis,
    curves_figure,
    draw_curves,
    height_for,
    run_cells,
)
from ftlab.charts.facts import by_variant, left_out, shared_reason, unknown_spread
from ftlab.charts.spec import Amount, ChartSpec, Choice, Drawn, Facts, Place, recorded
from ftlab.records.comparability import Comparability, comparability_of_rows
from ftlab.records.differences import differences_of
from ftlab.records.result import OPEN
from ftlab.records.store import Run, SweepData

HEIGHT = 228  # pixels, of a figure beside something else
_ROOM_FOR_NAME = 260  # pixels; in a lower figure only the heading names the measure
_DIVERGED = 1.6  # a loss above this many times the first one is outside the plot
_MOST_NAMES = 4  # names in a sentence


@dataclass(frozen=True)
class LossCurve:
    """The training loss of one run, finished or not: `points` are (step, nats a token)."""

    label: str
    method: str
    points: Sequence[tuple[int, float]]
    emphasised: bool = True
    seed: int = 0


def curve_of(run: Run, losses: Sequence[tuple[int, float]]) -> LossCurve:
    """The curve of a run; pale if the run ended without being done."""
    emphasised = run.status in ("done", *OPEN)
    return LossCurve(run.spec.label, run.spec.method, tuple(losses), emphasised, run.spec.seed)


def curve_points(curves: Iterable[LossCurve]) -> pd.DataFrame:
    """The points of curves in the form of `loss_figure`; only with steps, without an origin."""
    rows = []
    for number, curve in enumerate(curves):
        run = [str(number), curve.label, curve.method, curve.seed, curve.emphasised, "", "", None]
        rows += [[*run, step, None, None, loss] for step, loss in curve.points]
    return _table(rows)


def draw_losses(curves: Iterable[LossCurve], steps: int | None = None) -> DrawnCurves | None:
    """What `loss_figure` draws of them, for a figure that is already on the page."""
    drawn = (
        Curve(
            str(number), curve.label, curve.method, curve.seed, curve.emphasised, "",
            [(step, float(step), loss) for step, loss in curve.points],
        )
        for number, curve in enumerate(curves)
    )  # fmt: skip
    return draw_curves(drawn, HEIGHT, steps=steps, most=_DIVERGED)


def loss_points(data: SweepData) -> pd.DataFrame:
    """The points of each run of a sweep that has any, with the columns `POINT_COLUMNS`.

    Tokens and seconds are NaN if they are not recorded: in imported runs.
    """
    facts = {str(row["run_id"]): row for row in data.table.to_dict("records")}
    rows: list[list[Any]] = []
    for run in data.own_runs:
        cells = run_cells(facts[run.run_id])
        rows += [[*cells, *step] for step in _recorded(run.directory.metrics())]
    for published in data.published:
        cells = run_cells(facts[published.run_id])
        rows += [[*cells, step, None, None, loss] for step, loss in published.losses]
    return _table(rows)


def _recorded(
    events: Iterable[Mapping[str, Any]],
) -> Iterable[tuple[int, float, float, float]]:
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


def loss_figure(
    points: pd.DataFrame,
    x: XAxis = "step",
    smoothing: int = 1,
    height: int = HEIGHT,
    steps: int | None = None,
    unlike: Comparability | None = None,
) -> go.Figure:
    """One colour per method; further variants of a method have another dash, and markers.

    `points` has the columns `POINT_COLUMNS`. Several seeds of a variant are drawn as the mean of
    those that have a step, with a band from lowest to highest. Over tokens or seconds, the x of a
    step is the mean over the seeds. `smoothing` is the number of steps, up to the drawn one, over
    which each run's loss is averaged first. `steps` is the end of the axis of steps. `unlike` is
    what the runs share; the figure shows if they are no fair comparison.
    """
    mean = f", mean of {smoothing} steps" if smoothing > 1 else ""
    title = f"lower is better{mean}"
    if height >= _ROOM_FOR_NAME:
        title = f"training loss ({title})"
    nothing = "no step yet" if x == "step" else f"no {x} recorded"
    return curves_figure(points, title, nothing, height, x, smoothing, steps, unlike, _DIVERGED)


def loss_finding(facts: Facts) -> str:
    """The final test loss, best first, and for which variants no difference is shown."""
    key = "eval_loss_after"
    groups = by_variant(left_out(facts.table, key)[0], key)
    if not groups:
        return "Training loss; no test loss was measured"
    groups.sort(key=lambda group: group.mean(key))
    shown = [f"{group.variant} {group.mean(key):.3f}" for group in groups[:_MOST_NAMES]]
    more = f" and {len(groups) - _MOST_NAMES} more" if len(groups) > _MOST_NAMES else ""
    words = f"Test loss after training: {', '.join(shown)}{more}"
    best, *others = groups
    differences = differences_of(facts.table, key)
    known = [differences.between(best.variant, other.variant) for other in others]
    level = {
        other.variant: found.why
        for other, found in zip(others, known, strict=True)
        if found.shown is False
    }
    if level:
        names = list(level) if len(level) < _MOST_NAMES else [f"{len(level)} others"]
        who = join_names([best.variant, *names])
        return f"{words}; no difference is shown between {who}{shared_reason(level.values())}"
    return words + unknown_spread(groups) if any(found.shown is None for found in known) else words


def _drawn(facts: Facts) -> Drawn:
    points, x = facts.read, _x(facts)
    known = points[points[x].notna() & points["loss"].notna()]
    lack = f"no {'loss' if x == 'step' else x} recorded"
    return recorded(facts.table, known["run_id"].unique(), lack)


def _figure(facts: Facts) -> go.Figure:
    height = height_for(facts.read, facts.height)
    unlike = comparability_of_rows(_drawn(facts).rows)
    return loss_figure(facts.read, _x(facts), _smoothing(facts), height, unlike=unlike)


def _reading(facts: Facts) -> str:
    over = _smoothing(facts)
    mean = f", running mean of {over} steps" if over > 1 else ""
    several = len(facts.table) and facts.table.groupby("variant").size().max() > 1
    seeds = "; mean and range of the seeds" if several else ""
    return f"Training loss by {_x(facts)}{mean}{seeds}"


def _file(facts: Facts) -> str:
    return f"loss-by-{_x(facts)}"


def _x(facts: Facts) -> XAxis:
    chosen: XAxis = facts.chosen.get("loss-x", "step")
    return chosen


def _smoothing(facts: Facts) -> int:
    return int(facts.chosen.get("smoothing", 1))


def _axes(table: pd.DataFrame) -> list[tuple[str, str]]:
    return [("Steps", "step"), ("Tokens", "tokens"), ("Seconds", "seconds")]


CHARTS = (
    ChartSpec(
        id="loss",
        name="Training loss by step",
        drawn=_drawn,
        finding=loss_finding,
        figure=_figure,
        reading=_reading,
        read=loss_points,
        choices=(
            Choice("loss-x", "Loss over", _axes, ("step",)),
            Amount("smoothing", "Mean over steps", most=20),
        ),
        file=_file,
        compare=Place(row=2),
        report=20,
    ),
)
