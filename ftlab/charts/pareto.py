"""The Pareto front of any two measures: the variants that no other beats on both."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ftlab.basics.words import join_names
from ftlab.charts.drawing import empty_figure
from ftlab.charts.facts import VariantRuns, by_variant, unknown_spread
from ftlab.charts.points import name_in, quality_measure, scatter_figure, scatter_of
from ftlab.charts.spec import ChartSpec, Choice, Drawn, Facts, Place, measured
from ftlab.methods.registry import BASE_LOOK
from ftlab.records.differences import EXACT, Differences, differences_of
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.spec import MetricSpec

_MOST_NAMES = 4  # in a sentence; more are counted
_X_USUAL = ("net_peak_memory_bytes", "train_seconds", "trainable_params", "adapter_bytes")
_Y_USUAL = ("score_after", "eval_loss_after")


def pareto_figure(facts: Facts) -> go.Figure:
    """Each variant as a point over the two measures; the front is labelled and dashed."""
    x, y = _measures(facts)
    shown = scatter_of(facts.table, x, y)
    if shown is None:
        return empty_figure("no run has both measures", facts.height)
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
    return scatter_figure(shown, facts, front, [line])


def pareto_finding(facts: Facts) -> str:
    """Which variants form the front, and which differences along it are not shown."""
    x, y = _measures(facts)
    rows = _drawn(facts).rows
    groups = by_variant(rows, x.key, y.key)
    names = [name_in(facts.table, metric).split(",")[0] for metric in (x, y)]
    both = f"both {names[0]} and {names[1]}"
    if not groups:
        return f"No run has {both}"
    if len(groups) == 1:
        return f"{groups[0].variant} alone has {both}, so there is nothing to compare"
    front = pareto_front(groups, x, y)
    beaten = [group for group in groups if group not in front]
    differences = [differences_of(rows, metric.key) for metric in (x, y)]
    if len(front) == 1:
        who = f"No other variant was better than {front[0].variant} in {names[0]} or in {names[1]}"
    else:
        level = _level(front, differences[::-1], names[::-1])
        who = f"{_names(front)}: no other variant was better in {both}{level}"
    unknown = any(
        measure.between(one.variant, other.variant).shown is None
        for one, other in pairwise([*front, *beaten])
        for measure in differences
    )
    last = unknown_spread(groups) if unknown else ""
    return f"{who}{_who_is_beaten(beaten, front, differences)}{last}"


def _who_is_beaten(
    beaten: Sequence[VariantRuns],
    front: Sequence[VariantRuns],
    differences: Sequence[Differences],
) -> str:
    """As in "; LoRA was worse in every seed, DoRA only on average"."""
    clear = [group for group in beaten if _clearly_beaten(group, front, differences)]
    rest = [group for group in beaten if group not in clear]
    one_seed = any(len(group.rows) < 2 for group in [*beaten, *front])
    words = ""
    if clear:
        words = f"; {_names(clear)} {_was(clear)} worse" + ("" if one_seed else " in every seed")
    if rest:
        words += f", {_names(rest)}" if clear else f"; {_names(rest)} {_was(rest)} worse"
        words += "" if one_seed and not clear else " only on average"
    return words


def _level(
    front: Sequence[VariantRuns], differences: Sequence[Differences], names: Sequence[str]
) -> str:
    """Names the first neighbours on the front without a shown difference; "" if there are none."""
    for measure, name in zip(differences, names, strict=True):
        for one, other in pairwise(front):
            found = measure.between(one.variant, other.variant)
            if measure.key not in EXACT and found.shown is False:
                who = "these two" if len(front) == 2 else f"{one.variant} and {other.variant}"
                return f"; between {who} a difference in {name} is not shown"
    return ""


def _was(groups: Sequence[VariantRuns]) -> str:
    return "was" if len(groups) == 1 else "were"


def _clearly_beaten(
    group: VariantRuns, front: Sequence[VariantRuns], differences: Sequence[Differences]
) -> bool:
    """Whether a variant of the front is shown to be better in both measures (or equal in one)."""
    for better in front:
        both = (measure.between(better.variant, group.variant) for measure in differences)
        if all(found.outcome == "better" or found.value == found.other for found in both):
            return True
    return False


def pareto_front(groups: Sequence[VariantRuns], x: MetricSpec, y: MetricSpec) -> list[VariantRuns]:
    """The variants on the front, by ascending x, then y.

    A variant is on the front if no other is at least as good in both means and better in one
    (Pareto efficiency). Equal variants are all on it.
    """
    signs = np.array([1 if metric.better == "more" else -1 for metric in (x, y)])
    means = np.array([[group.mean(x.key), group.mean(y.key)] for group in groups])
    goods = signs * means
    kept = [
        group
        for group, good in zip(groups, goods, strict=True)
        if not ((goods >= good).all(axis=1) & (goods != good).any(axis=1)).any()
    ]
    return sorted(kept, key=lambda group: (group.mean(x.key), group.mean(y.key)))


def _names(groups: Sequence[VariantRuns]) -> str:
    if len(groups) > _MOST_NAMES:
        return f"{len(groups)} variants"
    return join_names([group.variant for group in groups])


def measure_choices(table: pd.DataFrame) -> list[tuple[str, str]]:
    """(name, key) of each measure that some run of the table has; of all if there is none."""
    done = table.loc[table["status"] == "done", list(METRICS)].astype(float)
    known = [key for key, is_finite in np.isfinite(done).any().items() if is_finite]
    return [(METRICS[key].name.capitalize(), key) for key in known or METRICS]


def _measures(facts: Facts) -> tuple[MetricSpec, MetricSpec]:
    """The selected measures; default: net peak memory and quality."""
    x, y = facts.chosen.get("x", _X_USUAL[0]), facts.chosen.get("y")
    return METRICS[x], METRICS[y] if y else quality_measure(facts.table)


def _drawn(facts: Facts) -> Drawn:
    return measured(facts.table, *(metric.key for metric in _measures(facts)))


def _name(facts: Facts) -> str:
    x, y = _measures(facts)
    return f"{y.label} against {x.name.split(',')[0]}"


CHARTS = (
    ChartSpec(
        id="pareto",
        name=_name,
        drawn=_drawn,
        finding=pareto_finding,
        figure=pareto_figure,
        reading=(
            "Dashed: no other was better in both (Pareto front). Point: mean, bars: range of the "
            "seeds"
        ),
        choices=(
            Choice("x", "Across", measure_choices, _X_USUAL, is_menu=True),
            Choice("y", "Up", measure_choices, _Y_USUAL, is_menu=True),
        ),
        compare=Place(row=1, column=2),
        report=10,
    ),
)
