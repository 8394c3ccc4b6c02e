"""Quality after training against training time (seconds of the training steps)."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from ftlab.charts.drawing import empty_figure
from ftlab.charts.facts import VariantRuns, by_variant, unknown_spread
from ftlab.charts.points import name_in, quality_measure, scatter_figure, scatter_of, untouched_line
from ftlab.charts.spec import ChartSpec, Drawn, Facts, Place, measured
from ftlab.records.differences import differences_of
from ftlab.records.metrics import METRICS
from ftlab.records.metrics.spec import MetricSpec

_TIME = METRICS["train_seconds"]
_NAMED = 6  # best variants that are named if there are too many


def score_time_figure(facts: Facts) -> go.Figure:
    """Score (or test loss) over training time, with a line for the untouched model.

    If the untouched model's value depends on the precision of the base, there is a line for each.
    """
    metric = quality_measure(facts.table)
    rows = _drawn(facts).rows
    untouched = _untouched(by_variant(rows, metric.before, "base_precision"), metric)
    shown = scatter_of(facts.table, _TIME, metric, more_y=list(untouched.values()))
    if shown is None:
        return empty_figure("no run has a time and a score or loss", facts.height)
    ends = [shown.x_axis.low, shown.x_axis.high]
    lines = [untouched_line(name, value, ends, metric) for name, value in untouched.items()]
    best = sorted(shown.groups, key=lambda group: _worst_first(group, metric), reverse=True)
    fig = scatter_figure(shown, facts, best[:_NAMED], lines)
    for name, value in untouched.items():
        fig.add_annotation(
            x=1,
            xref="paper",
            xanchor="right",
            y=shown.y_axis.scaled(value),
            yanchor="bottom" if shown.y_axis.share(value) < 0.5 else "top",
            text=f"{name} {metric.format(value)}",
            showarrow=False,
            font_size=11,
        )
    return fig


def score_time_finding(facts: Facts) -> str:
    """Which variant is best, and whether a faster one is shown to be worse."""
    metric = quality_measure(facts.table)
    rows = _drawn(facts).rows
    groups = by_variant(rows, _TIME.key, metric.key)
    name = name_in(rows, metric)
    if not groups:
        return "No run has both a training time and a score or loss"
    best = max(groups, key=lambda group: _worst_first(group, metric))
    if len(groups) == 1:
        return f"{best.variant} reaches a {name} of {_reached(best, metric)}"
    words = f"{best.variant} has the best {name}, {_reached(best, metric)}"
    others = [group for group in groups if group is not best]
    times, scores = differences_of(rows, _TIME.key), differences_of(rows, metric.key)
    paces = [times.between(group.variant, best.variant).outcome for group in others]
    faster = [group for group, pace in zip(others, paces, strict=True) if pace == "better"]
    if not faster:
        is_fastest = set(paces) == {"worse"}
        return f"{words}, and {'trains fastest' if is_fastest else 'none is shown to train faster'}"
    known = [scores.between(group.variant, best.variant) for group in faster]
    level = [group for group, found in zip(faster, known, strict=True) if found.shown is False]
    if level:
        first = min(level, key=lambda group: group.mean(_TIME.key))
        return (
            f"{first.variant} has a {name} of {_reached(first, metric)}; no better one is shown "
            f"for {best.variant} ({_reached(best, metric)}): "
            f"{scores.between(first.variant, best.variant).why}"
        )
    first = min(faster, key=lambda group: group.mean(_TIME.key))
    words += f"; {first.variant} trains faster, {_reached(first, metric)}"
    return words + unknown_spread(groups) if any(found.shown is None for found in known) else words


def _reached(group: VariantRuns, metric: MetricSpec) -> str:
    """As in "0.55 in 25 s"."""
    return f"{metric.format(group.mean(metric.key))} in {_TIME.format(group.mean(_TIME.key))}"


def _worst_first(group: VariantRuns, metric: MetricSpec) -> tuple[float, float]:
    value = group.mean(metric.key)
    return (value if metric.better == "more" else -value), -group.mean(_TIME.key)


def _untouched(groups: Sequence[VariantRuns], metric: MetricSpec) -> dict[str, float]:
    """The untouched model's value by the name of its line; one line if all values are equal."""
    found: dict[str, list[float]] = {}
    for group in groups:
        precision = group.rows[0]["base_precision"]
        name = f"untouched model in {precision}" if precision else "untouched model"
        found.setdefault(name, []).extend(group.values(metric.before))
    means = {name: sum(values) / len(values) for name, values in found.items() if values}
    if len({metric.format(value) for value in means.values()}) == 1:
        return {"untouched model": next(iter(means.values()))}
    return means


def _drawn(facts: Facts) -> Drawn:
    return measured(facts.table, _TIME.key, quality_measure(facts.table).key)


def _name(facts: Facts) -> str:
    return f"{quality_measure(facts.table).label} against training time"


CHARTS = (
    ChartSpec(
        id="score-by-time",
        name=_name,
        drawn=_drawn,
        finding=score_time_finding,
        figure=score_time_figure,
        reading="Dotted: the untouched model. Point: mean, bars: range of the seeds",
        compare=Place(row=2, column=2, height=398),
        report=40,
    ),
)
