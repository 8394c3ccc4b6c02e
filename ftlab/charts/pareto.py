"""The Pareto front of any two measures: the variants that none beats on both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.grouping import (
    EXACT,
    VariantRuns,
    by_variant,
    left_out,
    separated,
    unknown_spread,
)
from ftlab.charts.points import HEIGHT, empty_figure, name_in, scatter_figure, scatter_of
from ftlab.methods.registry import BASE_LOOK
from ftlab.runs.metrics import MetricSpec
from ftlab.words import join_names

_MOST_NAMES = 4  # in a sentence; more are counted


def pareto_figure(
    table: pd.DataFrame, x: MetricSpec, y: MetricSpec, height: int = HEIGHT
) -> go.Figure:
    """Every variant as a point over the two measures, the front named and joined by dashes.

    `height` is in pixels.
    """
    shown = scatter_of(table, x, y)
    if shown is None:
        return empty_figure("no run has both measures", height)
    front = pareto_front(shown.groups, x, y)
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "front",
        "x": [group.mean(x.key) for group in front],
        "y": [group.mean(y.key) for group in front],
        "line": {"color": BASE_LOOK.colour, "dash": "dash", "width": 1.5},
        "hoverinfo": "skip",
    }
    return scatter_figure(shown, table, front, [line], height)


def pareto_finding(table: pd.DataFrame, x: MetricSpec, y: MetricSpec) -> str:
    """Which variants are the front, and which differences along it no seed bears out."""
    groups = _groups(table, x, y)
    names = _measure_names(table, x, y)
    if not groups:
        return f"No run has both {names[0]} and {names[1]}"
    if len(groups) == 1:
        return f"{groups[0].variant} alone has both measures, so there is no front to draw"
    front = pareto_front(groups, x, y)
    beaten = [group for group in groups if group not in front]
    if len(front) == 1:
        who = f"{front[0].variant} alone is the front: none has a better {names[0]} or {names[1]}"
    else:
        who = f"{_names(front)} are the front{_overlap(front, (y.key, x.key), names[::-1])}"
    unknown = any(
        separated(one, other, metric.key) is None
        for one, other in pairwise([*front, *beaten])
        for metric in (x, y)
    )
    last = unknown_spread(groups) if unknown else ""
    return f"{who}{_who_is_beaten(beaten, front, x, y)}{last}"


def _who_is_beaten(
    beaten: Sequence[VariantRuns], front: Sequence[VariantRuns], x: MetricSpec, y: MetricSpec
) -> str:
    """As in "; LoRA is beaten in every seed, DoRA by the mean alone"."""
    clear = [group for group in beaten if _clearly_beaten(group, front, x, y)]
    rest = [group for group in beaten if group not in clear]
    one_seed = any(len(group.rows) < 2 for group in [*beaten, *front])
    words = ""
    if clear:
        words = f"; {_names(clear)} {_is(clear)} beaten in every seed"
    if rest:
        words += f", {_names(rest)}" if clear else f"; {_names(rest)} {_is(rest)} beaten"
        words += "" if one_seed and not clear else " by the mean alone"
    return words


def _overlap(front: Sequence[VariantRuns], keys: Sequence[str], names: Sequence[str]) -> str:
    """What the front rests on that the seeds do not show: the first neighbours that overlap."""
    for key, name in zip(keys, names, strict=True):
        for one, other in pairwise(front):
            if key not in EXACT and separated(one, other, key) is False:
                who = "their" if len(front) == 2 else f"{one.variant}'s and {other.variant}'s"
                return f", though {who} seeds overlap in {name}"
    return ""


def _is(groups: Sequence[VariantRuns]) -> str:
    return "is" if len(groups) == 1 else "are"


def _clearly_beaten(
    group: VariantRuns, front: Sequence[VariantRuns], x: MetricSpec, y: MetricSpec
) -> bool:
    """Whether one of the front is better in both measures in every seed (or equal in one)."""
    good = _good(group, x), _good(group, y)
    return any(
        _beats((_good(better, x), _good(better, y)), good)
        and all(
            separated(better, group, metric.key) or _good(better, metric) == _good(group, metric)
            for metric in (x, y)
        )
        for better in front
    )


def _groups(table: pd.DataFrame, x: MetricSpec, y: MetricSpec) -> list[VariantRuns]:
    return by_variant(left_out(table, x.key, y.key)[0], x.key, y.key)


def pareto_front(groups: Sequence[VariantRuns], x: MetricSpec, y: MetricSpec) -> list[VariantRuns]:
    """The variants on the front, by ascending x, then y.

    A variant is on it if no other is at least as good in both means and better in one (Pareto
    efficiency); equal ones are all on it.
    """
    goods = [(_good(group, x), _good(group, y)) for group in groups]
    kept = [
        group
        for group, good in zip(groups, goods, strict=True)
        if not any(_beats(other, good) for other in goods)
    ]
    return sorted(kept, key=lambda group: (group.mean(x.key), group.mean(y.key)))


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] >= other[0] and one[1] >= other[1]


def _good(group: VariantRuns, metric: MetricSpec) -> float:
    """The mean, turned so that more is better."""
    mean = group.mean(metric.key)
    return mean if metric.better == "more" else -mean


def _names(groups: Sequence[VariantRuns]) -> str:
    if len(groups) > _MOST_NAMES:
        return f"{len(groups)} variants"
    return join_names([group.variant for group in groups])


def _measure_names(table: pd.DataFrame, x: MetricSpec, y: MetricSpec) -> tuple[str, str]:
    first, second = (name_in(table, metric).split(",")[0] for metric in (x, y))
    return first, second
