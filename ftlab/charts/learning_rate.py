"""Loss against learning rate: the ladder of one variant, or of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ftlab.charts.axes import axis_of
from ftlab.charts.facts import NOTE_PIXELS, add_facts, click_hint, settings_text
from ftlab.charts.grouping import VariantRuns, by_variant, is_measured, left_out
from ftlab.charts.points import HEIGHT, empty_figure
from ftlab.charts.template import figure, fix_margins, plain
from ftlab.methods.registry import BASE_LOOK, look_of
from ftlab.runs.metrics import METRICS
from ftlab.runs.result import status_label
from ftlab.words import rate_name

_LOSS = METRICS["eval_loss_after"]
_BEFORE = "eval_loss_before"
_BELOW_TOP = 0.05  # of the axis: above it stands where the numbers come from
_MEAN = "mean of the seeds"
_MOST_TICKS = 9  # named rates that have room on the axis
_FAR = 3.0  # times the span of the losses: so far off, a line would press the ladder flat


@dataclass(frozen=True)
class RateCurve:
    """The ladder of one variant: rows of the table, and the rate to mark, if there is one.

    `name` is what the curve is called on hover.
    """

    name: str
    table: pd.DataFrame
    suggested: float | None = None


def learning_rate_figure(
    table: pd.DataFrame, name: str = "", suggested: float | None = None, height: int = HEIGHT
) -> go.Figure:
    """The loss at each rate, mean and range of the seeds; rates without a loss stand at the top.

    `table` has the columns `ROW_KEYS`, of runs that differ by learning rate and seed alone. `name`
    is what the loss is called ("tuning loss"); `suggested` is the rate to mark; `height` in pixels.
    """
    return learning_rates_figure([RateCurve(_MEAN, table, suggested)], name, height)


def learning_rates_figure(
    curves: Sequence[RateCurve], name: str = "", height: int = HEIGHT
) -> go.Figure:
    """The ladders of several variants of one sweep in one figure, each as above.

    The untouched model's loss is a line, or words where it lies far from all of them.
    """
    table = pd.concat([curve.table for curve in curves])
    rows, _ = left_out(table, _LOSS.key)
    if rows.empty:
        return empty_figure("no run has a loss", height)
    ladders = [_groups(curve) for curve in curves]
    everything = [group for groups in ladders for group in groups]
    before = _losses_before(everything)
    values = [value for group in everything for value in group.values(_LOSS.key)]
    span = _FAR * (max(values) - min(values))
    far = [loss for loss in before if _distance(loss, values) > span]
    near = [loss for loss in before if loss not in far]
    axis = axis_of(_LOSS, [*values, *near], name)
    undone = table[~table.index.isin(rows.index)]
    rates = sorted({*map(_rate, everything), *undone["learning_rate"].dropna().tolist()})
    fig = figure(height, margin={"l": 8, "r": 16, "t": NOTE_PIXELS, "b": 8})
    ends = [rates[0] / 1.3, rates[-1] * 1.3]
    for loss in far[:1]:
        _say_untouched(fig, loss, above=loss > max(values))
    for loss in near:
        fig.add_trace(_untouched(ends, loss))
    for curve, groups in zip(curves, ladders, strict=True):
        if groups:
            fig.add_trace(_curve(groups, curve.name))
    if len(undone):
        fig.add_trace(_undone(undone, axis.high - _BELOW_TOP * (axis.high - axis.low)))
    shown = _apart(rates)
    fig.update_layout(
        xaxis={
            "title": {"text": "learning rate"},
            "type": "log",
            "range": [math.log10(end) for end in ends],
            "tickmode": "array",
            "tickvals": shown,
            "ticktext": [rate_name(rate) for rate in shown],
        },
        yaxis=axis.layout(),
    )
    for curve, groups in zip(curves, ladders, strict=True):
        if curve.suggested is not None:
            _mark(fig, groups, curve.suggested, axis.scaled)
    return add_facts(fix_margins(fig, axis.texts, y_title=True), table)


def _groups(curve: RateCurve) -> list[VariantRuns]:
    """The runs that have a loss, rate by rate, lowest first."""
    rows, _ = left_out(curve.table, _LOSS.key)
    return sorted(by_variant(rows, _LOSS.key, _BEFORE), key=_rate)


def _losses_before(groups: Sequence[VariantRuns]) -> list[float]:
    """The untouched model's loss, one for each precision that a base was held in."""
    found = [row[_BEFORE] for group in groups for row in group.rows if is_measured(row[_BEFORE])]
    return list(dict.fromkeys(float(loss) for loss in found))


def _apart(rates: Sequence[float]) -> list[float]:
    """The rates that are named on the axis: those that are not too near to the one before."""
    if len(rates) <= _MOST_TICKS:
        return list(rates)
    shown = [rates[0]]
    room = (rates[-1] / rates[0]) ** (1 / _MOST_TICKS)
    for rate in rates[1:]:
        if rate / shown[-1] >= room:
            shown.append(rate)
    return shown


def _rate(group: VariantRuns) -> float:
    return float(group.rows[0]["learning_rate"])


def _curve(groups: Sequence[VariantRuns], name: str) -> dict[str, Any]:
    look = look_of(groups[0].method)
    means = [group.mean(_LOSS.key) for group in groups]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": [_rate(group) for group in groups],
        "y": means,
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [g.high(_LOSS.key) - mean for g, mean in zip(groups, means, strict=True)],
            "arrayminus": [mean - g.low(_LOSS.key) for g, mean in zip(groups, means, strict=True)],
            "visible": any(len(group.rows) > 1 for group in groups),
            "color": look.colour,
            "thickness": 1.2,
            "width": 0,
        },
        "line": {"color": look.colour, "dash": look.dash, "width": 2},
        "marker": {"color": look.colour, "symbol": look.marker, "size": 10},
        "cliponaxis": False,
        "customdata": [group.run_ids for group in groups],
        "hovertext": [
            f"loss {_LOSS.format(mean)}<br>{settings_text(group.rows)}{click_hint(group.rows)}"
            for group, mean in zip(groups, means, strict=True)
        ],
        "hovertemplate": f"%{{hovertext}}<extra>{'' if name == _MEAN else name}</extra>",
    }


def _undone(rows: pd.DataFrame, height: float) -> dict[str, Any]:
    """Runs without a loss, all at one height with their status."""
    words = [plain(status_label(str(status))) for status in rows["status"]]
    return {
        "type": "scatter",
        "mode": "markers+text",
        "name": "not done",
        "x": rows["learning_rate"].tolist(),
        "y": [height] * len(rows),
        "text": words,
        "textposition": "bottom center",
        "marker": {"color": BASE_LOOK.colour, "symbol": BASE_LOOK.marker, "size": 9},
        "cliponaxis": False,
        "customdata": [str(run_id) for run_id in rows["run_id"]],
        "hovertext": [
            f"{word}<br>{plain(str(reason or ''))}"
            for word, reason in zip(words, rows["reason"], strict=True)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _untouched(ends: list[float], loss: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "untouched model",
        "x": ends,
        "y": [loss, loss],
        "line": {"color": BASE_LOOK.colour, "dash": BASE_LOOK.dash, "width": 1.5},
        "hovertemplate": f"untouched model {_LOSS.format(loss)}<extra></extra>",
    }


def _distance(value: float, others: Sequence[float]) -> float:
    return max(value - max(others), min(others) - value)


def _say_untouched(fig: go.Figure, loss: float, above: bool) -> None:
    where = "above" if above else "below"
    fig.add_annotation(
        text=f"untouched model {_LOSS.format(loss)}, far {where}",
        xref="paper", x=0.01, xanchor="left", yref="paper", y=0.98 if above else 0.02,
        yanchor="top" if above else "bottom", showarrow=False, font_size=11,
    )  # fmt: skip


def _mark(fig: go.Figure, groups: Sequence[VariantRuns], rate: float, scaled: Any) -> None:
    group = next((group for group in groups if _rate(group) == rate), None)
    if group is not None:
        fig.add_annotation(
            x=math.log10(rate), y=scaled(group.mean(_LOSS.key)), text="suggested", yshift=16,
            showarrow=False, font_size=11,
        )  # fmt: skip
