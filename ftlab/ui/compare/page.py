"""All that the Compare tab shows of one sweep, without a component."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ftlab.charts.loss import XAxis
from ftlab.charts.loss_points import loss_points
from ftlab.charts.memory import has_anatomy, has_phases
from ftlab.charts.savings import compare
from ftlab.runs.sweep_data import SweepData
from ftlab.ui.compare.figures import (
    BarsView,
    Picture,
    anatomy_picture,
    bars_view,
    chosen_measures,
    loss_picture,
    measure_choices,
    pareto_picture,
    phases_picture,
    runs_fold,
    score_time_picture,
)
from ftlab.ui.compare.view import adapter_choices, fairness, headline, unfinished


@dataclass(frozen=True)
class Choice:
    """What a visitor chose to see of a sweep; `None`: the usual.

    `adapter` is the variant in the headline, `x` and `y` the measures of the front; `smoothing`
    counts the steps over which the loss is averaged.
    """

    adapter: str | None = None
    x: str | None = None
    y: str | None = None
    loss_x: XAxis = "step"
    smoothing: int = 1


@dataclass(frozen=True)
class View:
    """What fills the first screen."""

    fairness: str
    headline: str
    adapters: list[str]
    adapter: str | None
    unfinished: str
    bars: BarsView
    measures: list[tuple[str, str]]
    x: str
    y: str
    pareto: Picture


@dataclass(frozen=True)
class Further:
    """What comes below it. `phases` and `anatomy` are `None` where no run says so much of its peak.

    `points` are those of the loss, kept to draw it anew.
    """

    points: pd.DataFrame
    loss: Picture
    score_time: Picture
    phases: Picture | None
    anatomy: Picture | None
    runs: str


def view(data: SweepData, choice: Choice) -> View:
    """The first screen of a sweep, as it was chosen as far as the sweep has it."""
    table = data.table
    found = compare(table, choice.adapter)
    x, y = chosen_measures(table, choice.x, choice.y)
    return View(
        fairness=fairness(data),
        headline=headline(data, choice.adapter),
        adapters=adapter_choices(table) if found else [],
        adapter=str(found.adapter["variant"]) if found else None,
        unfinished=unfinished(data),
        bars=bars_view(data),
        measures=measure_choices(table),
        x=x,
        y=y,
        pareto=pareto_picture(data, x, y),
    )


def further(data: SweepData, choice: Choice) -> Further:
    """The rest of a sweep, as it was chosen."""
    table, points = data.table, loss_points(data)
    return Further(
        points=points,
        loss=loss_picture(data, points, choice.loss_x, choice.smoothing),
        score_time=score_time_picture(data),
        phases=phases_picture(data) if has_phases(table) else None,
        anatomy=anatomy_picture(data) if has_anatomy(table) else None,
        runs=runs_fold(data),
    )
